//! `--outdated`: real commits, real Terraform, and a state that nothing touches when it is not to be.

mod unknown;
mod waits;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::faults::Stage;
use crate::support::harness::{Finished, run, tfwrap};
use crate::support::servers::{BUCKET, dynamodb, s3, terraform};

/// What the state and its digest are, byte for byte.
type State = (Option<Vec<u8>>, Option<String>);

/// A directory in a repository whose commits can be applied.
struct Scene {
    stage: Stage,
    /// Where the next ones work: the stage's directory, or a clone of it.
    dir: PathBuf,
}

/// A run of a pipeline on GitHub.
#[derive(Clone, Copy)]
struct CiRun<'a> {
    number: u64,
    workflow: &'a str,
    reference: &'a str,
}

const MAIN: CiRun<'static> = CiRun { number: 0, workflow: "deploy", reference: "refs/heads/main" };

impl CiRun<'_> {
    fn set(self, command: &mut Command, commit: &str) {
        let number = self.number.to_string();
        for (name, value) in [
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_SERVER_URL", "https://github.com"),
            ("GITHUB_REPOSITORY", "acme/infra"),
            ("GITHUB_RUN_ID", &format!("1953218{number}")),
            ("GITHUB_RUN_NUMBER", &number),
            ("GITHUB_ACTOR", "alice"),
            ("GITHUB_WORKFLOW", self.workflow),
            ("GITHUB_REF", self.reference),
            ("GITHUB_SHA", commit),
        ] {
            command.env(name, value);
        }
    }
}

fn git(dir: &Path, args: &[&str]) -> String {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=x", "-c", "user.email=x@x", "-C"]).arg(dir).args(args);
    let done = git.env("GIT_CONFIG_GLOBAL", "/dev/null").output().expect("git");
    assert!(done.status.success(), "{args:?}: {done:?}");
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

impl Scene {
    async fn new(name: &str) -> Self {
        let stage = Stage::initialised(&format!("outdated/{name}")).await;
        let dir = stage.path().to_owned();
        git(&dir, &["init", "--quiet", "--initial-branch=main"]);
        std::fs::write(dir.join(".gitignore"), ".terraform*\nran*\n*.tmp\n").unwrap();
        git(&dir, &["add", "--all"]);
        Self { stage, dir }
    }

    fn git(&self, args: &[&str]) -> String {
        git(&self.dir, args)
    }

    /// A further commit of what is checked out, and no other's twin.
    fn commit(&self) -> String {
        let name = uuid::Uuid::new_v4().to_string();
        self.git(&["commit", "--quiet", "--allow-empty", "--message", &name]);
        self.git(&["rev-parse", "HEAD"])
    }

    fn check_out(&self, commit: &str) {
        self.git(&["checkout", "--quiet", commit]);
    }

    fn history(&self) -> String {
        format!("{}.tfwrap/history", self.stage.lock_id())
    }

    /// How often the history was asked for.
    fn reads(&self) -> usize {
        self.stage.proxy.count_of("GetItem", &self.history())
    }

    /// How many applies had an effect.
    fn ran(&self) -> usize {
        std::fs::read_to_string(self.stage.path().join("ran")).map_or(0, |it| it.lines().count())
    }

    /// An apply that changes the state.
    fn applying(&self, options: &[&str]) -> Command {
        let mut command = tfwrap(&self.dir);
        command.args(options).args(["apply", "-auto-approve", "-no-color", "-var", &self.change()]);
        command
    }

    /// A variable that makes each apply do something.
    fn change(&self) -> String {
        let ran = self.stage.path().join("ran");
        format!("command=echo {} >> '{}'", self.ran(), ran.display())
    }

    fn apply(&self, options: &[&str]) -> Finished {
        run(&mut self.applying(options))
    }

    fn apply_in(&self, of: CiRun<'_>, options: &[&str]) -> Finished {
        let mut command = self.applying(options);
        of.set(&mut command, &self.git(&["rev-parse", "HEAD"]));
        run(&mut command)
    }

    async fn state(&self) -> State {
        let digest = format!("{}-md5", self.stage.lock_id());
        let digest = dynamodb().get_raw(&self.stage.table, &digest).await;
        let digest = digest.map(|item| item["Digest"].as_s().unwrap().clone());
        (s3().get(BUCKET, &self.stage.key), digest)
    }

    /// It runs.
    async fn runs(&self, what: &str, done: Finished) -> Finished {
        // The effect of this one is in the command of the next.
        assert_eq!(done.status.code(), Some(0), "{what}: {}", done.stderr);
        assert!(!done.stderr.contains("outdated"), "{what}: {}", done.stderr);
        assert!(done.stdout.contains("Apply complete!"), "{what}: {}", done.stdout);
        assert_eq!(self.stage.info().await, None, "{what}: the lock is free");
        done
    }

    /// Nothing is run: with `skip` it ends with 0, with `fail` with 79.
    async fn is_outdated(&self, of: Option<CiRun<'_>>, words: &[&str]) {
        for (option, code) in [("skip", 0), ("fail", 79)] {
            let (before, ran) = (self.state().await, self.ran());
            let writes = self.stage.proxy.count("PutItem") - self.stage.requests("PutItem");
            let options = ["--outdated", option];
            let done = match of {
                Some(of) => self.apply_in(of, &options),
                None => self.apply(&options),
            };
            assert_eq!(done.status.code(), Some(code), "{option}: {}", done.stderr);
            assert_eq!(done.stdout, "", "{option}: Terraform was not started");
            for words in words.iter().chain(&["outdated, Terraform is not started"]) {
                assert!(done.stderr.contains(words), "{words:?} in: {}", done.stderr);
            }
            assert_eq!(done.stderr.contains("`--outdated run`"), code == 79, "{}", done.stderr);
            assert_eq!((self.state().await, self.ran()), (before, ran), "{option}");
            assert_eq!(self.stage.info().await, None, "{option}: the lock is free");
            let written = self.stage.proxy.count("PutItem") - self.stage.requests("PutItem");
            assert_eq!(written - writes, 1, "{option}: nothing but its entry in the history");
        }
    }
}

#[tokio::test]
async fn an_older_commit_is_outdated_and_no_other_is() {
    let scene = Scene::new("commits").await;
    let skip = ["--outdated", "skip"];
    let (first, second) = (scene.commit(), scene.commit());
    let first_of_all = scene.apply(&skip);
    scene.runs("nothing was applied before", first_of_all).await;

    scene.check_out(&first);
    let words = [&first[..7], &second[..7], &tfwrap::identity::who()];
    scene.is_outdated(None, &words).await;
    scene.is_outdated(None, &[&format!("commit {} comes before", &first[..7])]).await;

    scene.check_out(&second);
    scene.runs("the same again", scene.apply(&skip)).await;
    std::fs::write(scene.dir.join("variables.tf"), "variable \"x\" { default = 1 }\n").unwrap();
    scene.git(&["add", "variables.tf"]);
    scene.commit();
    scene.runs("ahead", scene.apply(&skip)).await;
    scene.git(&["revert", "--no-edit", "HEAD"]);
    assert!(!scene.dir.join("variables.tf").exists());
    scene.runs("a revert is a commit", scene.apply(&skip)).await;
    scene.git(&["checkout", "--quiet", "-b", "other", &first]);
    scene.commit();
    scene.runs("diverged", scene.apply(&skip)).await;
    // By now that is the last one that was applied, and this comes before it.
    scene.check_out(&first);
    scene.is_outdated(None, &[]).await;
    scene.runs("on purpose", scene.apply(&["--outdated", "run"])).await;
    // And now this is.
    scene.runs("by default", scene.apply(&[])).await;
    scene.runs("the same again", scene.apply(&["--outdated", "fail"])).await;
}

#[tokio::test]
async fn of_one_pipeline_the_lower_number_is_outdated() {
    let scene = Scene::new("numbers").await;
    let skip = ["--outdated", "skip"];
    let run = |number| CiRun { number, ..MAIN };
    scene.commit();
    let pushed = scene.commit();
    // Pushed by force: neither comes before the other.
    scene.git(&["checkout", "--quiet", "-b", "forced", "HEAD~1"]);
    let forced = scene.commit();
    scene.runs("forced", scene.apply_in(run(6), &skip)).await;
    scene.runs("the same commit, in a run before it", scene.apply_in(run(5), &skip)).await;
    scene.runs("and again", scene.apply_in(run(6), &skip)).await;

    scene.check_out(&pushed);
    let link = "https://github.com/acme/infra/actions/runs/19532186";
    let words = [
        "run 5 comes before run 6 of acme/infra, deploy, refs/heads/main",
        &forced[..7],
        "alice",
        link,
    ];
    scene.is_outdated(Some(run(5)), &words).await;
    for (what, of) in [
        ("another pipeline", CiRun { workflow: "nightly", ..run(5) }),
        ("a tag", CiRun { reference: "refs/tags/main", ..run(5) }),
        ("a later run", run(7)),
    ] {
        scene.runs(what, scene.apply_in(of, &skip)).await;
        scene.check_out(&forced);
        scene.runs("back", scene.apply_in(run(6), &[])).await;
        scene.check_out(&pushed);
    }
    scene.runs("no pipeline", scene.apply(&skip)).await;
}

/// A job that checks out a branch applies what is there by then, whatever the number of its run.
#[tokio::test]
async fn what_git_knows_to_be_newer_is_not_outdated_by_its_number() {
    let scene = Scene::new("newer").await;
    let run = |number| CiRun { number, ..MAIN };
    let first = scene.commit();
    scene.runs("the first", scene.apply_in(run(12), &["--outdated", "skip"])).await;
    scene.commit();
    scene.runs("a later commit", scene.apply_in(run(11), &["--outdated", "skip"])).await;
    scene.check_out(&first);
    scene.is_outdated(Some(run(13)), &["comes before commit"]).await;
}

impl Scene {
    /// Goes on in a clone.
    fn cloned(&mut self, name: &str, args: &[&str]) {
        let url = format!("file://{}", self.stage.path().display());
        // Ignored there.
        let name = format!("{name}.tmp");
        let mut words = vec!["clone", "--quiet"];
        words.extend(args);
        words.extend([&*url, &*name]);
        git(self.stage.path(), &words);
        self.dir = self.stage.path().join(name);
        run(terraform(&self.dir).args(["init", "-no-color"])).expect_code(0);
    }
}

#[tokio::test]
async fn a_shallow_clone_knows_its_own_commit_alone_and_goes_by_the_number() {
    let mut scene = Scene::new("shallow").await;
    let (first, second) = (scene.commit(), scene.commit());
    scene.git(&["branch", "old", &first]);
    let run = |number| CiRun { number, ..MAIN };
    scene.runs("the second", scene.apply_in(run(6), &[])).await;
    scene.cloned("shallow", &["--depth=1", "--branch=old"]);
    assert_eq!(scene.git(&["rev-parse", "HEAD"]), first);
    scene.is_outdated(Some(run(5)), &["run 5 comes before run 6", &second[..7]]).await;
    let done = scene.apply(&["-v", "--outdated", "skip"]).expect_code(0);
    assert!(done.stderr.contains("git does not know both commits"), "{}", done.stderr);
    assert!(done.stdout.contains("Apply complete!"), "{}", done.stdout);
    // The whole history: number and commit agree.
    scene.dir = scene.stage.path().to_owned();
    scene.runs("the second", scene.apply(&[])).await;
    scene.cloned("whole", &["--branch=old"]);
    scene.is_outdated(None, &["comes before commit"]).await;
}

#[tokio::test]
async fn each_kind_of_apply_is_compared_and_a_plan_is_not() {
    let scene = Scene::new("kinds").await;
    let (first, _) = (scene.commit(), scene.commit());
    run(tfwrap(&scene.dir).args(["plan", "-out=p.tmp", "-no-color", "-var", &scene.change()]))
        .expect_code(0);
    scene.runs("newer", scene.apply(&[])).await;
    scene.check_out(&first);
    let before = scene.state().await;
    for words in [&["apply", "p.tmp"][..], &["destroy", "-auto-approve"], &["apply", "-destroy"]] {
        let mut command = tfwrap(&scene.dir);
        command.env("TFWRAP_OUTDATED", "fail").args(words);
        let done = run(&mut command).expect_code(79);
        assert_eq!(done.stdout, "");
    }
    let reads = scene.reads();
    let mut plan = tfwrap(&scene.dir);
    run(plan.env("TFWRAP_OUTDATED", "fail").args(["plan", "-no-color"])).expect_code(0);
    assert_eq!(scene.reads() - reads, 1, "that for its own entry");
    assert_eq!(scene.state().await, before);
    std::fs::write(scene.dir.join(".tfwrap.yaml"), "outdated: fail\n").unwrap();
    scene.apply(&[]).expect_code(79);
    std::fs::write(scene.dir.join(".tfwrap.yaml"), "outdated: never\n").unwrap();
    let done = scene.apply(&[]).expect_code(78);
    assert!(done.stderr.contains("`never` is none of `run`, `skip`, `fail`"), "{}", done.stderr);
}

#[tokio::test]
async fn it_costs_one_read_and_by_default_none() {
    let scene = Scene::new("cost").await;
    scene.commit();
    scene.runs("first", scene.apply(&[])).await;
    for (options, reads) in [
        (&[][..], 1),
        (&["--outdated", "run"], 1),
        (&["--outdated", "skip"], 2),
        (&["--outdated", "fail"], 2),
    ] {
        let before = scene.reads();
        scene.runs("again", scene.apply(options)).await;
        assert_eq!(scene.reads() - before, reads, "{options:?}, one is for its own entry");
    }
}

#[tokio::test]
async fn what_is_skipped_says_so_to_programs() {
    let scene = Scene::new("said").await;
    let (first, _) = (scene.commit(), scene.commit());
    scene.runs("newer", scene.apply(&[])).await;
    scene.check_out(&first);
    for (option, code) in [("skip", 0), ("fail", 79)] {
        let mut command = scene.applying(&["--log-format", "json", "--outdated", option]);
        MAIN.set(&mut command, &first);
        let (output, summary) = (scene.dir.join("output.tmp"), scene.dir.join("summary.tmp"));
        for file in [&output, &summary] {
            std::fs::write(file, "").unwrap();
        }
        command.env("GITHUB_OUTPUT", &output).env("GITHUB_STEP_SUMMARY", &summary);
        let done = run(&mut command).expect_code(code);
        let lines = done.stderr.lines().filter_map(|line| serde_json::from_str(line).ok());
        let lines: Vec<Value> = lines.collect();
        let end = lines.iter().find(|line| line["event"] == "finished").expect(&done.stderr);
        assert_eq!((&end["outcome"], &end["exit_code"]), (&"outdated".into(), &code.into()));
        let output = std::fs::read_to_string(&output).unwrap();
        assert!(output.contains("outdated") && output.contains(&code.to_string()), "{output}");
        let summary = std::fs::read_to_string(&summary).unwrap();
        assert!(summary.contains("outdated, Terraform was not started"), "{summary}");
        assert!(summary.contains("| reason | outdated, "), "{summary}");
        let shown = run(tfwrap(&scene.dir).args(["history", "--format=json", "--limit=1"]));
        let shown: Value = serde_json::from_str(&shown.expect_code(0).stdout).unwrap();
        assert_eq!(shown["runs"][0]["outcome"], "outdated");
    }
}
