//! `--plan-lock optimistic`: plans that hold nobody up, wait for those who write alone, and are never of half
//! an apply. Real Terraform on every backend.

mod ends;
mod under_the_lock;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::pair;
use crate::support::harness::{
    Finished, Gate, Running, program, quoted, real_terraform, run, s3_dir, tfwrap, wrapper,
};
use crate::support::json_log;
use crate::support::s3_server::{aws_like, backend_dir};
use crate::support::servers::{local_backend_dir, terraform};

/// Each apply changes the first and then replaces the second, and can be held up between the two.
const RESOURCES: &str = r#"
variable "command" {
  default = "true"
}
variable "generation" {
  type    = number
  default = 1
}

resource "terraform_data" "first" {
  input = var.generation
}

resource "terraform_data" "second" {
  triggers_replace = terraform_data.first.output
  provisioner "local-exec" {
    command = var.command
  }
}
"#;

fn with(mut command: Command, verb: &[&str], generation: u8) -> Command {
    command.args(verb).args(["-no-color", "-var", &format!("generation={generation}")]);
    command
}

fn apply(command: Command, generation: u8, provisioner: &str) -> Command {
    let mut command = with(command, &["apply", "-auto-approve"], generation);
    command.args(["-var", &format!("command={provisioner}")]);
    command
}

/// An apply that holds the lock, its first half written, until the gate is opened.
fn applying(command: Command, generation: u8, gate: &Gate) -> Running {
    let running = Running::start(&mut apply(command, generation, &gate.command()));
    gate.reached();
    running
}

/// A state of the first generation.
struct Scene<'a> {
    dir: &'a Path,
}

/// When the Terraform that plans first is held up.
#[derive(Clone, Copy)]
enum Held<'a> {
    Before(&'a Gate),
    After(&'a Gate),
}

impl<'a> Scene<'a> {
    fn new(dir: &'a Path) -> Self {
        let scene = Self { dir };
        scene.write_resources();
        run(terraform(dir).args(["init", "-no-color"])).expect_code(0);
        run(&mut apply(terraform(dir), 1, "true")).expect_code(0);
        scene
    }

    fn write_resources(&self) {
        std::fs::write(self.dir.join("main.tf"), RESOURCES).unwrap();
    }

    fn tfwrap(&self) -> Command {
        tfwrap(self.dir)
    }

    /// A plan without the lock, with the JSON log.
    fn plan(&self, generation: u8) -> Command {
        self.plan_with(&[], generation)
    }

    fn plan_with(&self, options: &[&str], generation: u8) -> Command {
        let mut command = self.tfwrap();
        command.args(["--plan-lock", "optimistic", "--log-format", "json"]).args(options);
        with(command, &["plan", "-detailed-exitcode"], generation)
    }

    /// A Terraform that is held up when it plans for the first time.
    fn held_up(&self, held: Held<'_>) -> PathBuf {
        let path = self.dir.join("held/terraform");
        let real = quoted(&real_terraform());
        let first = |gate: &Gate| {
            let (once, gate) = (quoted(&self.dir.join("once")), gate.command());
            format!("case \"$*\" in *plan*) mkdir {once} 2>/dev/null && ({gate});; esac")
        };
        let text = match held {
            Held::Before(gate) => format!("{}\nexec {real} \"$@\"\n", first(gate)),
            Held::After(gate) => format!("{real} \"$@\"\ncode=$?\n{}\nexit $code\n", first(gate)),
        };
        let plans = quoted(&self.dir.join("plans"));
        program(&path, &format!("#!/bin/sh\necho x >> {plans}\n{text}"));
        path
    }

    /// A plan whose Terraform is held up.
    fn planning(&self, held: Held<'_>, generation: u8, options: &[&str]) -> Running {
        let path = self.held_up(held);
        let mut command = self.plan_with(options, generation);
        command.env("TFWRAP_TERRAFORM", path);
        let running = Running::start(&mut command);
        let (Held::Before(gate) | Held::After(gate)) = held;
        gate.reached();
        running
    }

    /// What a person types for a call without the lock, with this in Terraform's place.
    fn typed(&self, terraform: &Path, call: &str) -> String {
        let [program, terraform, place] = [&wrapper(), terraform, self.dir].map(quoted);
        format!(
            "cd {place} && CHECKPOINT_DISABLE=1 TFWRAP_STATE_DIR={place}/.tfwrap-state \
             TFWRAP_TERRAFORM={terraform} {program} --plan-lock optimistic {call}"
        )
    }

    /// How often Terraform was started by a plan that is held up.
    fn plans(&self) -> usize {
        std::fs::read_to_string(self.dir.join("plans")).map_or(0, |it| it.lines().count())
    }
}

fn events<'a>(done: &'a Finished, event: &'a str) -> Vec<Value> {
    let lines = json_log::lines(&done.stderr).into_iter();
    lines.filter(|line| line["event"] == event).collect()
}

/// It took no lock, waited for nobody, and planned once.
#[track_caller]
fn expect_undisturbed(done: &Finished) {
    for event in ["acquired", "waiting", "replanned", "warning"] {
        assert_eq!(events(done, event), Vec::<Value>::new(), "{}", done.stderr);
    }
}

/// While one plans, others plan and apply as if it were not there; then it plans again, once.
fn an_apply_in_the_middle(dir: &Path, has_history: bool) {
    let scene = Scene::new(dir);
    let gate = Gate::new(dir, "planned");
    let github = dir.join("github-output");
    std::fs::write(&github, "").unwrap();
    let path = scene.held_up(Held::After(&gate));
    let mut command = scene.plan(3);
    command.args(["-out", "p"]).env("TFWRAP_TERRAFORM", path);
    command.env("GITHUB_ACTIONS", "true").env("GITHUB_OUTPUT", &github);
    let first = Running::start(&mut command);
    gate.reached();

    let other = run(&mut scene.plan(3)).expect_code(2);
    expect_undisturbed(&other);
    assert_eq!(other.stdout.matches("Plan: 1 to add, 1 to change, 1 to destroy").count(), 1);
    let mut second = scene.tfwrap();
    second.args(["--log-format", "json"]);
    let applied = run(&mut apply(second, 2, "true")).expect_code(0);
    assert_eq!(events(&applied, "waiting"), Vec::<Value>::new(), "{}", applied.stderr);
    assert_eq!(first.stdout(), "", "nobody knows yet what it is a plan of");
    gate.open();

    let first = first.finish().expect_code(2);
    assert_eq!(first.stdout.matches("Plan: ").count(), 1, "{}", first.stdout);
    assert!(
        first.stdout.contains("2 -> 3") && !first.stdout.contains("1 -> 3"),
        "{}",
        first.stdout
    );
    let replanned = events(&first, "replanned");
    assert_eq!(replanned.len(), 1, "{}", first.stderr);
    let said = replanned[0]["message"].as_str().unwrap();
    if has_history {
        let who = format!("{} ended apply at ", tfwrap::identity::who());
        assert!(said.contains(&who), "{said}");
    }
    assert!(said.contains("changed"), "{said}");
    assert!(!events(&first, "acquired").is_empty(), "under the lock: {}", first.stderr);
    assert_eq!(scene.plans(), 2);
    let outputs = std::fs::read_to_string(github).unwrap();
    assert!(outputs.contains("\nreplanned=true\n"), "{outputs}");

    // It is of the state as it is, so Terraform does not call it stale.
    run(scene.tfwrap().args(["apply", "-no-color", "p"])).expect_code(0);
    let after = run(&mut scene.plan(3)).expect_code(0);
    expect_undisturbed(&after);
    assert!(after.stdout.contains("No changes."), "{}", after.stdout);
}

/// Whoever writes is waited for, and nobody waits for those who wait for it so.
fn a_plan_waits_for_an_apply(dir: &Path) {
    let scene = Scene::new(dir);
    for (name, generation, command) in [("ours", 2, scene.tfwrap()), ("stock", 3, terraform(dir))] {
        let gate = Gate::new(dir, name);
        let writer = applying(command, generation, &gate);
        let timed_out = run(&mut scene.plan_with(&["--lock-timeout=0s"], generation));
        let timed_out = timed_out.expect_code(75);
        assert_eq!((timed_out.stdout.as_str(), events(&timed_out, "error").len()), ("", 1));
        let plan = Running::start(&mut scene.plan(generation));
        plan.says("\"event\":\"waiting\"");
        assert!(
            plan.stderr().contains("\"operation\":\"OperationTypeApply\""),
            "{}",
            plan.stderr()
        );
        gate.open();
        writer.finish().expect_code(0);
        let plan = plan.finish().expect_code(0);
        assert!(plan.stdout.contains("No changes."), "{name}: {}", plan.stdout);
        assert_eq!(events(&plan, "acquired"), Vec::<Value>::new(), "{}", plan.stderr);
    }
}

/// An apply begins after the look, has written its first half when Terraform reads, and goes on. Returns
/// what the plan said.
fn half_an_apply(dir: &Path, off: &str) -> Finished {
    let scene = Scene::new(dir);
    let gates = ["before", "halfway"].map(|name| Gate::new(dir, name));
    let path = scene.held_up(Held::Before(&gates[0]));
    let mut command = scene.plan(2);
    command.env("TFWRAP_TERRAFORM", path).env("TFWRAP_TEST_OFF", off);
    let plan = Running::start(&mut command);
    gates[0].reached();
    let apply = applying(scene.tfwrap(), 2, &gates[1]);
    gates[0].open();
    if off.is_empty() {
        plan.says("\"event\":\"replanned\"");
        plan.says("\"event\":\"waiting\"");
        assert_eq!(plan.stdout(), "");
    } else {
        crate::support::harness::eventually("the plan ends", || plan.is_over());
    }
    gates[1].open();
    apply.finish().expect_code(0);
    plan.finish()
}

#[test]
fn a_plan_never_shows_half_an_apply() {
    let dir = local_backend_dir();
    let plan = half_an_apply(dir.path(), "").expect_code(0);
    assert!(plan.stdout.contains("No changes."), "{}", plan.stdout);
    let replanned = events(&plan, "replanned");
    assert_eq!(replanned[0]["holder"]["operation"], "OperationTypeApply", "{replanned:?}");
}

/// The control: without the second look it does.
#[test]
fn without_the_second_look_it_shows_half_an_apply() {
    let dir = local_backend_dir();
    let plan = half_an_apply(dir.path(), "second-look").expect_code(2);
    // The first is changed already, and the second is gone.
    assert!(plan.stdout.contains("Plan: 1 to add, 0 to change"), "{}", plan.stdout);
}

/// The lock file alone.
fn lock_file_dir(name: &str) -> TempDir {
    backend_dir(&aws_like().url, &format!("optimistic/{name}/terraform.tfstate"), "")
}

#[tokio::test(flavor = "multi_thread")]
async fn in_dynamodb_an_apply_in_the_middle_is_planned_after() {
    let dir = s3_dir("optimistic-middle").await;
    an_apply_in_the_middle(dir.path(), true);
}

#[test]
fn with_a_lock_file_an_apply_in_the_middle_is_planned_after() {
    an_apply_in_the_middle(lock_file_dir("middle").path(), true);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_both_an_apply_in_the_middle_is_planned_after() {
    let stage = pair::Stage::initialised("optimistic-middle").await;
    an_apply_in_the_middle(stage.dir.path(), true);
}

#[test]
fn of_a_local_state_an_apply_in_the_middle_is_planned_after() {
    an_apply_in_the_middle(local_backend_dir().path(), false);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_dynamodb_a_plan_waits_for_an_apply() {
    let dir = s3_dir("optimistic-waits").await;
    a_plan_waits_for_an_apply(dir.path());
}

#[test]
fn with_a_lock_file_a_plan_waits_for_an_apply() {
    a_plan_waits_for_an_apply(lock_file_dir("waits").path());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_both_a_plan_waits_for_an_apply() {
    let stage = pair::Stage::initialised("optimistic-waits").await;
    a_plan_waits_for_an_apply(stage.dir.path());
}

#[test]
fn of_a_local_state_a_plan_waits_for_an_apply() {
    a_plan_waits_for_an_apply(local_backend_dir().path());
}
