//! The workspace trap (hashicorp/terraform#36088): Terraform creates a missing workspace under the
//! very lock that we would hold. Who creates it, and what is done where nobody can.

use std::collections::HashMap;
use std::fs;
use std::process::Command;

use aws_sdk_dynamodb::types::AttributeValue;
use nix::sys::signal::Signal;

use crate::aftermath::{EndsHolds, Receipt, STATE_DIR};
use crate::faults::Stage;
use crate::support::harness::{Finished, Running, applying, eventually, run, tfwrap};
use crate::support::json_log;
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::servers::{BUCKET, dynamodb, s3, terraform};

/// A directory with both servers behind proxies, and a workspace that it does not have.
struct Trap {
    stage: Stage,
    s3: Proxy,
    workspace: &'static str,
}

impl Trap {
    /// Not yet initialised.
    async fn new(name: &str, workspace: &'static str) -> Self {
        let stage = Stage::new(&format!("trap/{name}")).await;
        let trap = Self { stage, s3: Proxy::before(&s3().url), workspace };
        trap.stage.edit_backend(&s3().url, trap.s3.url());
        trap
    }

    async fn initialised(name: &str, workspace: &'static str) -> Self {
        let trap = Self::new(name, workspace).await;
        trap.init();
        trap
    }

    fn init(&self) {
        run(terraform(self.stage.path()).args(["init", "-no-color"])).expect_code(0);
    }

    fn state_key(&self) -> String {
        format!("env:/{}/{}", self.workspace, self.stage.key)
    }

    fn lock_id(&self) -> String {
        format!("{BUCKET}/{}", self.state_key())
    }

    async fn lock(&self) -> Option<String> {
        let item = dynamodb().get_raw(&self.stage.table, &self.lock_id()).await?;
        Some(item["Info"].as_s().unwrap().clone())
    }

    fn tfwrap(&self) -> Command {
        let mut command = tfwrap(self.stage.path());
        command.env("TF_WORKSPACE", self.workspace);
        command
    }

    /// `tfwrap run` around a script in this workspace.
    fn script(&self, script: &str) -> Command {
        let mut command = self.tfwrap();
        command.args(["run", "--", "sh", "-ec", script]);
        command
    }

    /// Terraform, with its arguments written down.
    fn noting(&self, mut command: Command) -> Command {
        let file = self.stage.path().join("noting-terraform");
        // By its path: under `run` the name would lead back to tfwrap.
        let path = run(Command::new("sh").args(["-c", "command -v terraform"])).stdout;
        let script = format!("#!/bin/sh\necho \"$*\" >> calls\nexec {} \"$@\"\n", path.trim());
        crate::support::harness::program(&file, &script);
        command.env("TFWRAP_TERRAFORM", file);
        command
    }

    /// The `apply` that Terraform was called with.
    fn apply_call(&self) -> String {
        let calls = fs::read_to_string(self.stage.path().join("calls")).unwrap();
        calls.lines().find(|call| call.starts_with("apply")).expect(&calls).to_owned()
    }

    /// Someone else has the lock of the workspace.
    async fn taken(&self) {
        let info = r#"{"ID":"s-1","Operation":"x","Info":"","Who":"stranger@elsewhere","Version":"1","Created":"2026-01-02T03:04:05Z","Path":"p"}"#;
        let item = [("LockID", self.lock_id()), ("Info", info.to_owned())];
        let item = item.map(|(name, value)| (name.to_owned(), AttributeValue::S(value)));
        dynamodb().put_raw(&self.stage.table, HashMap::from(item)).await;
    }

    /// An item of the table goes.
    async fn gone(&self, lock_id: &str) {
        let request = dynamodb().client().delete_item().table_name(&self.stage.table);
        request.key("LockID", AttributeValue::S(lock_id.to_owned())).send().await.unwrap();
    }

    async fn all_well(&self, done: &Finished) {
        assert_eq!(done.status.code(), Some(0), "{}{}", done.stdout, done.stderr);
        assert!(s3().get(BUCKET, &self.state_key()).is_some(), "the workspace is there");
        assert_eq!(self.lock().await, None, "given back");
    }
}

fn native_warnings(done: &Finished) -> Vec<&str> {
    done.stderr.lines().filter(|line| line.contains("Terraform locks for itself: ")).collect()
}

#[tokio::test]
async fn two_who_create_the_workspace_at_once_both_succeed() {
    let trap = Trap::initialised("race", "race").await;
    let before = trap.s3.count("ListObjectsV2");
    // Both have looked before either goes on.
    trap.s3.plan([Rule::on("ListObjectsV2", Fault::HoldReply).times(2)]);
    let both = [
        Running::start(&mut applying(trap.tfwrap(), "true")),
        Running::start(&mut trap.script("terraform apply -auto-approve -no-color")),
    ];
    trap.s3.arrived("ListObjectsV2", before + 2).await;
    assert_eq!(s3().get(BUCKET, &trap.state_key()), None);
    trap.s3.release();
    // The second may hold the lock while the first has ended.
    for done in both.map(Running::finish) {
        trap.all_well(&done).await;
        assert_eq!(native_warnings(&done), [""; 0], "{}", done.stderr);
    }
}

#[tokio::test]
async fn without_leave_to_list_terraform_locks_for_itself() {
    let trap = Trap::initialised("denied", "w").await;
    trap.s3.plan([Rule::on("ListObjectsV2", Fault::Status(403, "AccessDenied"))]);
    let mut command = trap.noting(trap.tfwrap());
    command.args(["--lock-timeout", "77s"]);
    let done = run(&mut applying(command, "true"));
    trap.all_well(&done).await;
    let warnings = native_warnings(&done);
    let words = "access denied: `s3:ListBucket` on bucket `tfstate`";
    assert!(warnings.len() == 1 && warnings[0].contains(words), "{}", done.stderr);
    let call = trap.apply_call();
    let left = call.split(' ').find_map(|arg| arg.strip_prefix("-lock-timeout=")).expect(&call);
    let left = tfwrap::duration::parse(left).unwrap().as_secs();
    assert!((17..=77).contains(&left), "what is left of the wait: {call}");
    assert!(!call.contains("-lock=false"), "{call}");

    fs::remove_file(trap.stage.path().join("calls")).unwrap();
    let inner = "terraform apply -auto-approve -no-color";
    let done = run(&mut trap.noting(trap.script(inner)));
    trap.all_well(&done).await;
    assert!(native_warnings(&done)[0].contains("`s3:ListBucket`"), "{}", done.stderr);
    assert!(trap.apply_call().contains("-lock-timeout="), "{}", trap.apply_call());

    // The control: where listing is allowed, the lock is ours and Terraform takes none.
    trap.s3.plan([]);
    fs::remove_file(trap.stage.path().join("calls")).unwrap();
    let done = run(&mut applying(trap.noting(trap.tfwrap()), "true"));
    trap.all_well(&done).await;
    assert_eq!(done.stderr, "");
    assert!(trap.apply_call().contains("-lock=false"), "{}", trap.apply_call());
}

#[tokio::test]
async fn a_key_that_terraform_never_finds_in_its_listing_leaves_the_lock_to_it() {
    let trap = Trap::new("odd", "w").await;
    trap.stage.edit_backend("\"trap/odd/", "\"./trap/odd/");
    trap.init();
    for mut command in [
        applying(trap.noting(trap.tfwrap()), "true"),
        trap.noting(trap.script("terraform apply -auto-approve -no-color")),
    ] {
        let done = run(&mut command);
        trap.all_well(&done).await;
        assert!(native_warnings(&done)[0].contains("not in its shortest form"), "{}", done.stderr);
        assert!(trap.apply_call().contains("-lock-timeout="), "{}", trap.apply_call());
        fs::remove_file(trap.stage.path().join("calls")).unwrap();
    }
    // In the workspace `default` nobody looks for it: the lock is ours.
    let mut command = applying(trap.noting(tfwrap(trap.stage.path())), "true");
    let done = run(&mut command).expect_code(0);
    assert_eq!(done.stderr, "");
    assert!(trap.apply_call().contains("-lock=false"), "{}", trap.apply_call());
}

#[tokio::test]
async fn a_workspace_of_a_directory_that_is_not_initialised_is_created_below_a_run() {
    let trap = Trap::new("uninitialised", "fresh").await;
    let script = "terraform init -no-color; terraform apply -auto-approve -no-color";
    let done = run(&mut trap.script(script));
    trap.all_well(&done).await;
    assert!(native_warnings(&done)[0].contains("not initialised"), "{}", done.stderr);
    // Now it is there, and the whole script runs under one lock.
    let done = run(&mut trap.script(script));
    trap.all_well(&done).await;
    assert!(!done.stderr.contains("tfwrap: "), "{}", done.stderr);
}

/// A keeper that keeps nothing would have nothing to give back, and nobody to end it.
#[tokio::test]
async fn a_hold_that_can_hold_nothing_is_78_and_leaves_no_keeper() {
    let trap = Trap::new("hold", "fresh").await;
    let mut command = trap.tfwrap();
    let done = run(command.arg("hold")).expect_code(78);
    assert!(done.stderr.contains("no lock here to hold"), "{}", done.stderr);
    assert_eq!(done.stdout, "");
    assert_eq!(Receipt::all(&trap.stage.path().join(STATE_DIR)).len(), 0);
    // The control: with the workspace there is something to hold.
    run(&mut trap.script("terraform init -no-color; terraform workspace list")).expect_code(0);
    let _ends = EndsHolds(trap.stage.path().join(STATE_DIR));
    run(trap.tfwrap().args(["-chdir=.", "apply", "-auto-approve"])).expect_code(0);
    run(trap.tfwrap().arg("hold")).expect_code(0);
    assert_eq!(Receipt::all(&trap.stage.path().join(STATE_DIR)).len(), 1);
    run(trap.tfwrap().arg("release")).expect_code(0);
}

#[tokio::test]
async fn a_workspace_that_is_deleted_while_we_wait_is_created_again() {
    let trap = Trap::initialised("deleted", "gone").await;
    run(&mut applying(trap.tfwrap(), "true")).expect_code(0);
    trap.taken().await;
    let ours = Running::start(&mut applying(trap.tfwrap(), "true"));
    ours.says("stranger@elsewhere");
    // As `terraform workspace delete` by whoever has the lock.
    s3().remove(BUCKET, &trap.state_key());
    trap.gone(&format!("{}-md5", trap.lock_id())).await;
    trap.gone(&trap.lock_id()).await;
    let done = ours.finish();
    trap.all_well(&done).await;
}

#[tokio::test]
async fn a_stop_while_we_look_for_the_workspace_again_gives_the_lock_back() {
    let trap = Trap::initialised("stopped", "w").await;
    run(&mut applying(trap.tfwrap(), "true")).expect_code(0);
    trap.taken().await;
    let before = trap.s3.count("ListObjectsV2");
    trap.s3.plan([Rule::on("ListObjectsV2", Fault::Hold).after(1).times(1)]);
    let ours = Running::start(&mut applying(trap.tfwrap(), "touch applied"));
    ours.says("stranger@elsewhere");
    trap.gone(&trap.lock_id()).await;
    trap.s3.arrived("ListObjectsV2", before + 2).await;
    assert!(trap.lock().await.is_some_and(|info| info.contains("OperationTypeApply")));
    ours.signal(Signal::SIGTERM);
    let done = ours.finish().expect_code(143);
    assert_eq!(trap.lock().await, None, "{}", done.stderr);
    assert!(!trap.stage.path().join("applied").exists());
    trap.s3.release();
}

#[tokio::test]
async fn a_missing_workspace_whose_lock_someone_holds_is_75() {
    let trap = Trap::initialised("held", "w").await;
    trap.taken().await;
    for options in [&["--lock-timeout=1s"][..], &["--lock-timeout=0s"]] {
        let mut command = trap.tfwrap();
        command.args(options);
        let done = run(&mut applying(command, "touch applied")).expect_code(75);
        for words in
            ["stranger@elsewhere", "`--lock-timeout`", "tfwrap unlock s-1", &trap.lock_id()]
        {
            assert!(done.stderr.contains(words), "{words}: {}", done.stderr);
        }
        assert!(!trap.stage.path().join("applied").exists());
    }
    // That command works, where Terraform's own comes to the same trap.
    let mut command = terraform(trap.stage.path());
    command.env("TF_WORKSPACE", "w").args(["force-unlock", "-force", "s-1"]);
    let done = run(&mut command).expect_code(1);
    assert!(trap.lock().await.is_some(), "{}", done.stderr);
    run(trap.tfwrap().args(["unlock", "--yes", "s-1"])).expect_code(0);
    // The control: once they are gone it is created and used.
    let done = run(&mut applying(trap.tfwrap(), "touch applied"));
    trap.all_well(&done).await;
    assert_eq!(done.stderr, "");
    assert!(trap.stage.path().join("applied").exists());
}

/// Its lock is waited for like any other: with a word at once, and in the line.
#[tokio::test]
async fn the_lock_of_a_missing_workspace_is_waited_for_like_any_other() {
    let trap = Trap::initialised("waits", "w").await;
    trap.taken().await;
    let mut command = trap.tfwrap();
    command.arg("--log-format=json");
    let ours = Running::start(&mut applying(command, "touch applied"));
    ours.says("\"event\":\"waiting\"");
    eventually("it stands in the line", || {
        let status = run(trap.tfwrap().arg("status"));
        status.stdout.contains("waiting, in this order:\n")
    });
    trap.gone(&trap.lock_id()).await;
    let done = ours.finish();
    trap.all_well(&done).await;
    let events = json_log::lines(&done.stderr);
    for (event, holder) in [("waiting", "/holder/who"), ("finished", "/holder/who")] {
        let said = events.iter().find(|it| it["event"] == event).expect(event);
        assert_eq!(said.pointer(holder), Some(&"stranger@elsewhere".into()), "{said}");
    }
    assert!(!done.stderr.contains("starting over"), "{}", done.stderr);
    assert!(trap.stage.path().join("applied").exists());
}

/// Who is refused the lock whenever Terraform asks for it does not take and give it for ever.
#[tokio::test]
async fn a_workspace_that_terraform_never_gets_to_create_is_left_to_it() {
    let trap = Trap::initialised("refused", "w").await;
    let file = trap.stage.path().join("refused-terraform");
    let path = run(Command::new("sh").args(["-c", "command -v terraform"])).stdout;
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *state?pull) echo 'Error acquiring the state lock' >&2; exit 1; esac\n\
         exec {} \"$@\"\n",
        path.trim()
    );
    crate::support::harness::program(&file, &script);
    let mut command = trap.tfwrap();
    command.env("TFWRAP_TERRAFORM", file);
    let done = run(&mut applying(command, "true"));
    trap.all_well(&done).await;
    assert_eq!(native_warnings(&done).len(), 1, "{}", done.stderr);
}

#[tokio::test]
async fn a_busy_bucket_delays_and_does_no_more() {
    let trap = Trap::initialised("busy", "w").await;
    trap.s3.plan([
        Rule::on("ListObjectsV2", Fault::Status(503, "SlowDown")).times(1),
        Rule::on("ListObjectsV2", Fault::DropReply).times(1),
    ]);
    let done = run(&mut applying(trap.tfwrap(), "true"));
    trap.all_well(&done).await;
    // What takes 2 s, as on a busy machine, is worth a word.
    let is_delay = |line: &str| line.contains("requests for `");
    assert!(done.stderr.lines().all(is_delay), "{}", done.stderr);
}

#[tokio::test]
async fn a_stop_while_the_workspace_is_created_leaves_no_lock() {
    let trap = Trap::initialised("stop-create", "w").await;
    let creating = Rule::on("PutItem", Fault::Hold).key(&trap.lock_id()).times(1);
    trap.stage.proxy.plan([creating]);
    let ours = Running::start(&mut applying(trap.tfwrap(), "touch applied"));
    trap.stage.proxy.arrived(&format!("PutItem {}", trap.lock_id()), 1).await;
    ours.signal(Signal::SIGTERM);
    trap.stage.proxy.release();
    let done = ours.finish().expect_code(143);
    assert!(done.stderr.contains("nothing was run"), "{}", done.stderr);
    assert_eq!(trap.lock().await, None, "{}", done.stderr);
    assert!(!trap.stage.path().join("applied").exists());
}

/// Terraform is not asked to create it, which would take three times as long, without a word.
#[tokio::test]
async fn a_missing_workspace_whose_lock_nobody_answers_for_is_69() {
    let trap = Trap::initialised("silent", "w").await;
    trap.stage.proxy.plan([Rule::all(Fault::Refuse)]);
    let mut ours = trap.noting(trap.tfwrap());
    let done = run(ours.args(["plan", "-no-color"])).expect_code(69);
    let said = &done.stderr;
    assert_eq!(said.matches("; retrying").count(), 1, "{said}");
    assert!(
        said.contains("error: dynamodb://") && !said.contains("could not be created"),
        "{said}"
    );
    let calls = fs::read_to_string(trap.stage.path().join("calls")).unwrap_or_default();
    assert!(!calls.contains("state pull"), "{calls}");
}
