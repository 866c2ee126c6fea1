//! Each Terraform that there is, from 1.0 on: the one on `PATH`, and those that `TFWRAP_TEST_TERRAFORMS`
//! names (`.ci/run terraform-versions` installs some). The same rows for all of them, on each store that a version
//! has; what differs from version to version is said in a row.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tfwrap::lock::LockInfo;
use tfwrap::version::{takes_false_for_true, unknown_rules};

use crate::support::harness::{Finished, Gate, Running, quoted, real_terraform, run};
use crate::support::s3_server::aws_like;
use crate::support::servers::{BUCKET, REGION, clean, dynamodb, s3};

/// A binary, and which it is.
#[derive(Debug, Clone)]
struct Terraform {
    path: PathBuf,
    release: (u32, u32),
}

/// Where states and locks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    Local,
    Table,
    LockFile,
}

/// Every binary that there is.
fn terraforms() -> Vec<Terraform> {
    #[expect(clippy::disallowed_methods, reason = "configures the tests, not the program")]
    let named = std::env::var("TFWRAP_TEST_TERRAFORMS").unwrap_or_default();
    let named = named.split_whitespace().map(PathBuf::from);
    [real_terraform()].into_iter().chain(named).map(Terraform::at).collect()
}

impl Terraform {
    fn at(path: PathBuf) -> Self {
        let here = tempfile::tempdir().unwrap();
        let mut command = Command::new(&path);
        clean(&mut command, here.path());
        let said = run(command.arg("version")).expect_code(0).stdout;
        let version = said.strip_prefix("Terraform v").expect(&said);
        let mut parts = version.split('.').map(|part| part.parse().unwrap());
        let release = (parts.next().unwrap(), parts.next().unwrap());
        Self { path, release }
    }

    fn stores(&self) -> Vec<Store> {
        let mut stores = vec![Store::Local, Store::Table];
        stores.extend((self.release >= (1, 10)).then_some(Store::LockFile));
        stores
    }

    /// Whether it has a resource that needs no provider from a registry.
    fn has_resource(&self) -> bool {
        self.release >= (1, 4)
    }

    fn name(&self) -> String {
        format!("{}-{}", self.release.0, self.release.1)
    }
}

/// A directory that a binary works in.
struct Stage<'a> {
    terraform: &'a Terraform,
    store: Store,
    dir: TempDir,
    key: String,
    table: String,
}

impl<'a> Stage<'a> {
    async fn new(terraform: &'a Terraform, store: Store, row: &str) -> Self {
        let key = format!("versions/{}/{row}/{store:?}/terraform.tfstate", terraform.name());
        let table = format!("versions-{}-{row}", terraform.name());
        let dir = tempfile::tempdir().unwrap();
        let mut main = "output \"now\" {\n  value = timestamp()\n}\n".to_owned();
        if terraform.has_resource() {
            main += "resource \"terraform_data\" \"a\" {}\nresource \"terraform_data\" \"b\" {}\n";
        }
        fs::write(dir.path().join("main.tf"), main).unwrap();
        let stage = Self { terraform, store, dir, key, table };
        if let Some(lines) = stage.backend().await {
            let text = format!("terraform {{\n  backend \"s3\" {{\n{lines}  }}\n}}\n");
            fs::write(stage.path().join("backend.tf"), text).unwrap();
        }
        run(stage.stock().args(["init", "-no-color"])).expect_code(0);
        stage
    }

    async fn backend(&self) -> Option<String> {
        let (at, lock) = match self.store {
            Store::Local => return None,
            Store::Table => {
                s3().create_bucket(BUCKET);
                dynamodb().create_lock_table(&self.table).await;
                (s3().url.as_str(), format!("dynamodb_table = \"{}\"\n", self.table))
            }
            Store::LockFile => (aws_like().url.as_str(), "use_lockfile = true\n".to_owned()),
        };
        let (key, table) = (&self.key, &dynamodb().url);
        let ways = if self.terraform.release >= (1, 6) {
            format!(
                "use_path_style = true\nskip_requesting_account_id = true\n\
                 endpoints = {{ s3 = \"{at}\", dynamodb = \"{table}\" }}\n"
            )
        } else {
            format!(
                "force_path_style = true\nendpoint = \"{at}\"\ndynamodb_endpoint = \"{table}\"\n"
            )
        };
        Some(format!(
            "bucket = \"{BUCKET}\"\nkey = \"{key}\"\nregion = \"{REGION}\"\n{lock}{ways}\
             skip_credentials_validation = true\nskip_metadata_api_check = true\n\
             skip_region_validation = true\n"
        ))
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn stock(&self) -> Command {
        let mut command = Command::new(&self.terraform.path);
        clean(&mut command, self.path());
        command
    }

    fn ours(&self) -> Command {
        let mut command = crate::support::harness::tfwrap(self.path());
        command.arg("--terraform").arg(&self.terraform.path);
        command
    }

    /// What stands in the lock of a workspace.
    async fn lock(&self, workspace: &str) -> Option<String> {
        let key = match workspace {
            "default" => self.key.clone(),
            other => format!("env:/{other}/{}", self.key),
        };
        match self.store {
            Store::Local => {
                let dir = match workspace {
                    "default" => self.path().to_owned(),
                    other => self.path().join("terraform.tfstate.d").join(other),
                };
                fs::read_to_string(dir.join(".terraform.tfstate.lock.info")).ok()
            }
            Store::Table => {
                let item = dynamodb().get_raw(&self.table, &format!("{BUCKET}/{key}")).await?;
                Some(item["Info"].as_s().unwrap().clone())
            }
            Store::LockFile => aws_like().text(&format!("{key}.tflock")),
        }
    }

    /// A stock `apply` that has the lock of a workspace, and waits at its prompt for [`Gate::open`].
    async fn prompting(&self, workspace: &str, gate: &Gate) -> Running {
        let mut shell = Command::new("sh");
        clean(&mut shell, self.path());
        let terraform = quoted(&self.terraform.path);
        let text =
            format!("( ( {} ); echo yes ) | exec {terraform} apply -no-color", gate.command());
        shell.args(["-c", &text]).env_remove("TF_INPUT").env("TF_WORKSPACE", workspace);
        let running = Running::start(&mut shell);
        for _ in 0..600 {
            if self.lock(workspace).await.is_some() && gate.is_reached() {
                return running;
            }
            assert!(!running.is_over(), "{}{}", running.stdout(), running.stderr());
            crate::support::harness::pause(std::time::Duration::from_millis(50));
        }
        panic!("it takes no lock: {}{}", running.stdout(), running.stderr());
    }
}

/// Plays a row for each binary and each store that it has.
async fn each(row: &str, play: impl AsyncFn(&Stage<'_>)) {
    for terraform in terraforms() {
        for store in terraform.stores() {
            println!("{row}: {terraform:?} {store:?}");
            play(&Stage::new(&terraform, store, row).await).await;
        }
    }
}

fn all(done: &Finished) -> String {
    format!("{}{}", done.stdout, done.stderr)
}

/// The same lock, in the same words: whoever of the two has it, the other is shut out.
#[tokio::test]
async fn every_version_takes_the_lock_that_we_take() {
    each("key", async |stage| {
        let gate = Gate::new(stage.path(), "theirs");
        let theirs = stage.prompting("default", &gate).await;
        let text = stage.lock("default").await.expect("a lock");
        let info = LockInfo::parse(&text).expect("a lock info");
        assert_eq!(info.to_json(), text, "byte for byte");
        assert_eq!(info.operation, "OperationTypeApply");
        let ours = run(stage.ours().args(["--lock-timeout=0s", "plan"])).expect_code(75);
        assert!(ours.stderr.contains(&info.who), "{}", ours.stderr);
        gate.open();
        theirs.finish().expect_code(0);

        let gate = Gate::new(stage.path(), "ours");
        let ours = Running::start(stage.ours().args(["run", "--", "sh", "-c", &gate.command()]));
        gate.reached();
        let theirs = all(&run(stage.stock().args(["plan", "-no-color"])).expect_code(1));
        assert!(theirs.contains("Error acquiring the state lock"), "{theirs}");
        assert!(theirs.contains("Operation: run"), "{theirs}");
        gate.open();
        ours.finish().expect_code(0);
        run(stage.stock().args(["plan", "-no-color"])).expect_code(0);
        assert_eq!(stage.lock("default").await, None);
    })
    .await;
}

const COMMANDS: &[&[&str]] = &[
    &["plan", "-out=p.bin"],
    &["apply", "p.bin"],
    &["plan", "-detailed-exitcode"],
    &["apply", "-auto-approve"],
    &["refresh"],
    &["state", "push", "pulled"],
    &["workspace", "delete", "w"],
    &["workspace", "delete", "none"],
    &["plan", "extra"],
    &["plan", "-no-such-flag"],
    &["destroy", "-auto-approve"],
];

const COMMANDS_ON_RESOURCES: &[&[&str]] = &[
    &["apply", "-auto-approve"],
    &["taint", "terraform_data.a"],
    &["untaint", "terraform_data.a"],
    &["state", "mv", "terraform_data.a", "terraform_data.c"],
    &["state", "mv", "terraform_data.c", "terraform_data.a"],
    &["state", "rm", "terraform_data.b"],
    &["import", "terraform_data.b", "x"],
    &["state", "replace-provider", "-auto-approve", "hashicorp/null", "hashicorp/random"],
];

/// Every command that we lock for ends as without us, and takes no lock of its own.
#[tokio::test]
async fn every_version_has_our_commands_with_their_flags() {
    for terraform in terraforms() {
        for store in terraform.stores() {
            let stages = [
                Stage::new(&terraform, store, "commands-stock").await,
                Stage::new(&terraform, store, "commands-ours").await,
            ];
            for stage in &stages {
                run(stage.stock().args(["apply", "-auto-approve"])).expect_code(0);
                let state = run(stage.stock().args(["state", "pull"])).expect_code(0);
                let pulled = state.stdout.replacen("\"serial\": ", "\"serial\": 1", 1);
                fs::write(stage.path().join("pulled"), pulled).unwrap();
                run(stage.stock().args(["workspace", "new", "w"])).expect_code(0);
                run(stage.stock().args(["workspace", "select", "default"])).expect_code(0);
            }
            let on_resources = COMMANDS_ON_RESOURCES.iter().filter(|_| terraform.has_resource());
            for command in COMMANDS.iter().chain(on_resources) {
                let stock = run(stages[0].stock().args(*command));
                let mut ours = stages[1].ours();
                let ours = run(ours.args(["--log-format", "json"]).args(*command));
                let what =
                    format!("{terraform:?} {store:?} {command:?}: {}{}", all(&stock), all(&ours));
                assert_eq!(ours.status.code(), stock.status.code(), "{what}");
                // What Terraform refuses at once is not locked for everywhere.
                if ours.status.success() {
                    assert!(ours.stderr.contains(r#""event":"acquired""#), "{what}");
                    assert!(ours.stderr.contains(r#""event":"released""#), "{what}");
                }
                assert_eq!(stages[1].lock("default").await, None, "{what}");
            }
        }
    }
}

/// Up to 1.14 `console` takes the lock, and no flag keeps it from that; since then it takes none.
#[tokio::test]
async fn console_takes_the_lock_up_to_1_14() {
    each("console", async |stage| {
        run(stage.stock().args(["apply", "-auto-approve"])).expect_code(0);
        let expected = i32::from(stage.terraform.release < (1, 15));
        let gate = Gate::new(stage.path(), "theirs");
        let theirs = stage.prompting("default", &gate).await;
        let console = |mut command: Command| {
            let mut child = command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            child.wait().unwrap().code().unwrap()
        };
        let mut ours = stage.ours();
        ours.arg("console");
        assert_eq!(console(ours), expected, "{:?}", stage.terraform);
        gate.open();
        theirs.finish().expect_code(0);
        let mut below = stage.ours();
        below.args(["run", "--", "terraform", "console"]);
        assert_eq!(console(below), expected, "{:?}", stage.terraform);
    })
    .await;
}

/// The lock of the workspace that is named, not of the one that is selected.
#[tokio::test]
async fn a_workspace_is_deleted_under_its_own_lock_in_every_version() {
    each("delete", async |stage| {
        run(stage.stock().args(["workspace", "new", "w"])).expect_code(0);
        run(stage.stock().args(["workspace", "select", "default"])).expect_code(0);
        let gate = Gate::new(stage.path(), "theirs");
        let theirs = stage.prompting("w", &gate).await;
        run(stage.ours().args(["--lock-timeout=0s", "workspace", "delete", "w"])).expect_code(75);
        run(stage.ours().args(["--lock-timeout=0s", "plan"])).expect_code(0);
        gate.open();
        theirs.finish().expect_code(0);
        run(stage.ours().args(["workspace", "delete", "-force", "w"])).expect_code(0);
        assert_eq!(stage.lock("w").await, None);
    })
    .await;
}

/// From 1.15 on every command warns of `dynamodb_table`, before that none that succeeds. Whatever it
/// says, it says it under tfwrap, too, once.
#[tokio::test]
async fn the_warning_of_the_table_is_terraforms_own() {
    each("deprecated", async |stage| {
        let count = |done: Finished| all(&done).matches("\"dynamodb_table\" is deprecated").count();
        let stock = count(run(stage.stock().args(["plan", "-no-color"])).expect_code(0));
        let ours = count(run(stage.ours().args(["plan", "-no-color"])).expect_code(0));
        let warns = stage.store == Store::Table && stage.terraform.release >= (1, 15);
        assert_eq!(
            (stock, ours),
            (usize::from(warns), usize::from(warns)),
            "{:?}",
            stage.terraform
        );
    })
    .await;
}

/// From 1.15 on a saved plan is refused in another workspace than its own; before, what it is applied
/// to is the state of the selected one. Under tfwrap as without.
#[tokio::test]
async fn a_saved_plan_in_another_workspace_is_refused_from_1_15_on() {
    each("plan", async |stage| {
        run(stage.stock().args(["workspace", "new", "w"])).expect_code(0);
        run(stage.stock().args(["plan", "-out=p.bin"])).expect_code(0);
        run(stage.stock().args(["workspace", "select", "default"])).expect_code(0);
        let refused = stage.terraform.release >= (1, 15);
        for mut command in [stage.ours(), stage.stock()] {
            let done = run(command.args(["apply", "-no-color", "p.bin"]));
            let text = all(&done).replace('\n', " ");
            let says = text.contains("workspace is currently in use");
            assert_eq!(says, refused, "{:?}: {text}", stage.terraform);
            assert!(!refused || done.status.code() == Some(1), "{text}");
        }
        assert_eq!(stage.lock("default").await, None);
        assert_eq!(stage.lock("w").await, None);
    })
    .await;
}

/// What is looked up by a version is what this binary does (`--test aws` shows it on the wire).
#[test]
fn the_rules_of_every_version_here_are_known() {
    for terraform in terraforms() {
        let old = terraform.release < (1, 15);
        assert_eq!(takes_false_for_true(&terraform.path), old, "{terraform:?}");
        assert_eq!(unknown_rules(&terraform.path), None, "{terraform:?}");
    }
}

/// One that came after us works by the rules of the newest that is known; `-v` says so.
#[test]
fn a_version_that_is_not_known_is_said_with_v() {
    let dir = crate::support::servers::local_backend_dir();
    let newer = dir.path().join("bin/terraform");
    crate::support::harness::program(&newer, "#!/bin/sh\necho 'Terraform v9.9.0'\n");
    for (options, is_said) in [(&["-v"][..], true), (&[], false)] {
        let mut command = crate::support::harness::tfwrap(dir.path());
        let done = run(command.args(options).arg("--terraform").arg(&newer).arg("plan"));
        let done = done.expect_code(0);
        let says = "the rules of Terraform 9.9 are not known here: those of 1.15 count";
        assert_eq!(done.stderr.contains(says), is_said, "{}", done.stderr);
    }
}
