//! The lock file beside stock Terraform: under the same key, in the same words, removed by either.

use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tfwrap::lock::LockInfo;

use crate::aftermath::{EndsHolds, Receipt, STATE_DIR, kill_dead};
use crate::support::harness::{Finished, Gate, Running, applying, eventually, run, tfwrap};
use crate::support::s3_server::{Bucket, Manners, Written, aws_like, backend_dir, start};
use crate::support::servers::{BUCKET, terraform};

/// 32 bytes in base64.
const CUSTOMER_KEY: &str = "c2VjcmV0IG9mIHRoZSBjdXN0b21lciwgMzIgYnl0ZXM=";

/// An initialised directory.
struct Stage {
    server: &'static Bucket,
    dir: TempDir,
    /// Of the lock file in the workspace in use.
    file: String,
    workspace: String,
    env: Vec<(&'static str, &'static str)>,
}

impl Stage {
    fn new(key: &str, lines: &str) -> Self {
        Self::in_workspace(key, lines, "default", key)
    }

    fn in_workspace(key: &str, lines: &str, workspace: &str, state_key: &str) -> Self {
        let server = aws_like();
        let dir = backend_dir(&server.url, key, lines);
        run(terraform(dir.path()).args(["init", "-no-color"])).expect_code(0);
        let file = format!("{state_key}.tflock");
        Self { server, dir, file, workspace: workspace.to_owned(), env: Vec::new() }
    }

    fn in_it(&self, mut command: Command) -> Command {
        command.env("TF_WORKSPACE", &self.workspace).envs(self.env.iter().copied());
        command
    }

    fn stock(&self, args: &[&str]) -> Finished {
        run(self.in_it(terraform(self.dir.path())).args(args).arg("-no-color"))
    }

    fn ours(&self) -> Command {
        self.in_it(tfwrap(self.dir.path()))
    }

    /// Starts one of the two, and waits until it works.
    fn started(&self, command: Command, gate: &Gate) -> Running {
        let running = Running::start(&mut applying(self.in_it(command), &gate.command()));
        eventually("the gate is reached", || {
            assert!(!running.is_over(), "{}{}", running.stdout(), running.stderr());
            gate.is_reached()
        });
        running
    }

    fn lock(&self) -> Option<Written> {
        self.server.get(&self.file)
    }

    fn info(&self) -> LockInfo {
        let text = self.server.text(&self.file).expect("it is held");
        LockInfo::parse(&text).expect("a lock info")
    }
}

/// Whichever of the two holds the lock, the other waits for it, or says who has it; and what is
/// written is written alike, down to the headers.
#[test]
fn our_lock_file_is_written_as_terraforms_and_shuts_it_out() {
    let kms = "encrypt = true\n    kms_key_id = \"arn:aws:kms:eu-west-1:123456789012:key/12345678-1234-4234-8234-123456789012\"";
    let own = format!("encrypt = true\n    sse_customer_key = \"{CUSTOMER_KEY}\"");
    for (name, lines) in [
        ("plain", ""),
        ("aes", "encrypt = true"),
        ("kms", kms),
        ("customer", &own),
        ("acl", "acl = \"bucket-owner-full-control\""),
        ("no-checksum", "skip_s3_checksum = true"),
    ] {
        let key = format!("headers/{name}/terraform.tfstate");
        let stage = Stage::new(&key, lines);
        let (theirs, ours) =
            (Gate::new(stage.dir.path(), "theirs"), Gate::new(stage.dir.path(), "ours"));
        let stock = stage.started(terraform(stage.dir.path()), &theirs);
        let their_file = stage.lock().expect("it is held");
        let waiting = Running::start(&mut applying(stage.ours(), &ours.command()));
        waiting.says("waiting");
        assert!(waiting.stderr().contains(&tfwrap::identity::who()), "{}", waiting.stderr());
        assert!(!ours.is_reached(), "{name}: both run");
        theirs.open();
        stock.finish().expect_code(0);
        ours.reached();
        let our_file = stage.lock().expect("it is held");
        let info = stage.info();
        let stock = stage.stock(&["plan"]).expect_code(1);
        assert!(stock.stderr.contains("Error acquiring the state lock"), "{}", stock.stderr);
        // Terraform itself does not send the customer's key with this look.
        if name != "customer" {
            assert!(stock.stderr.contains(&info.id.0), "{}", stock.stderr);
            assert!(stock.stderr.contains("OperationTypeApply"), "{}", stock.stderr);
        }
        ours.open();
        let done = waiting.finish().expect_code(0);
        assert!(!done.stderr.contains(CUSTOMER_KEY), "{}", done.stderr);
        assert!(stage.lock().is_none(), "{name}: given back");
        stage.stock(&["plan"]).expect_code(0);
        let headers = |it: &Written| {
            let Written { content_type, acl, encryption, kms_key, customer_key, .. } = it.clone();
            let sums = [&it.sha256, &it.crc32].map(Option::is_some);
            (content_type, acl, encryption, kms_key, customer_key, sums)
        };
        assert_eq!(headers(&our_file), headers(&their_file), "{name}");
        // The same text, with one member more.
        let text = String::from_utf8(our_file.body).unwrap();
        assert!(text.starts_with(info.to_json().trim_end_matches('}')), "{text}");
        assert_eq!(info.path, format!("{BUCKET}/{key}"));
        let their_text = String::from_utf8(their_file.body).unwrap();
        assert_eq!(LockInfo::parse(&their_text).unwrap().to_json(), their_text);
        assert_eq!(LockInfo::parse(&their_text).unwrap().path, info.path);
    }
}

/// Of `OpenTofu`, which has these two: the tags of a lock are its own, those of a state are none of it.
#[test]
fn a_lock_file_has_the_tags_that_are_set_for_it() {
    let stage = Stage::new("tagged/terraform.tfstate", "");
    let record = stage.dir.path().join(".terraform/terraform.tfstate");
    let tags = r#""lock_tags": {"team": "a b&c", "cost": "ü"}, "state_tags": {"is": "state"}"#;
    let text = std::fs::read_to_string(&record).unwrap();
    let tagged = text.replacen("\"config\": {", &format!("\"config\": {{ {tags},"), 1);
    assert_ne!(tagged, text);
    std::fs::write(&record, tagged).unwrap();
    let gate = Gate::new(stage.dir.path(), "tagged");
    let mut command = stage.ours();
    // Each write has them: an overwrite without them would take them away.
    command.args(["--lease=15s", "run", "--", "sh", "-c", &gate.command()]);
    let ours = Running::start(&mut command);
    gate.reached();
    let first = stage.lock().expect("it is held");
    assert_eq!(first.tags.as_deref(), Some("cost=%C3%BC&team=a+b%26c"));
    eventually("a heartbeat", || stage.lock().is_some_and(|now| now.body != first.body));
    assert_eq!(stage.lock().expect("it is held").tags, first.tags);
    gate.open();
    ours.finish().expect_code(0);
    assert!(stage.lock().is_none());
    // Without them there is no such header.
    std::fs::write(&record, text).unwrap();
    let gate = Gate::new(stage.dir.path(), "plain");
    let ours = stage.started(tfwrap(stage.dir.path()), &gate);
    assert_eq!(stage.lock().expect("it is held").tags, None);
    gate.open();
    ours.finish().expect_code(0);
}

/// The keys of states of all forms and workspaces are Terraform's own: under our lock its own is
/// refused by just this object. And nothing of ours looks like a workspace.
#[test]
fn the_keys_of_lock_files_are_terraforms() {
    for (key, lines, workspace, state_key) in [
        ("root", "", "default", "root"),
        ("a b/k ", "", "default", "a b/k "),
        ("ünï/\u{1F512}", "", "default", "ünï/\u{1F512}"),
        ("a+b/%2F/100%", "", "default", "a+b/%2F/100%"),
        ("./odd/k", "", "default", "./odd/k"),
        ("w/k+1", "", "dev", "env:/dev/w/k+1"),
        ("w/k", "workspace_key_prefix = \"ws/x y\"", "dev", "ws/x y/dev/w/k"),
        ("bare/k", "workspace_key_prefix = \"\"", "dev", "dev/bare/k"),
    ] {
        let stage = Stage::in_workspace(key, lines, workspace, state_key);
        let gate = Gate::new(stage.dir.path(), "ours");
        let ours = stage.started(tfwrap(stage.dir.path()), &gate);
        // A waiter, so that there is a line.
        let waiting = Running::start(stage.ours().args(["plan", "-no-color"]));
        waiting.says("waiting");
        let id = stage.info().id.0;
        assert_eq!(stage.info().path, format!("{BUCKET}/{state_key}"));
        let stock = stage.stock(&["plan"]).expect_code(1);
        assert!(stock.stderr.contains(&id), "{key}: {}", stock.stderr);
        let listed = stage.stock(&["workspace", "list"]).expect_code(0).stdout;
        let ours_listed = listed.split_whitespace().filter(|it| it.contains("tf")).count();
        assert_eq!(ours_listed, 0, "{listed}");
        gate.open();
        ours.finish().expect_code(0);
        waiting.finish().expect_code(0);
        assert!(stage.lock().is_none(), "{key}");
    }
}

/// Each by its ID, and by no other.
#[test]
fn a_lock_file_is_force_unlocked_by_either_with_its_id_only() {
    let stage = Stage::new("force/terraform.tfstate", "");
    let wrong = "11111111-2222-3333-4444-555555555555";
    // Ours, by Terraform: noticed with the next heartbeat, or at the end.
    let gate = Gate::new(stage.dir.path(), "ours");
    let ours = stage.started(tfwrap(stage.dir.path()), &gate);
    let id = stage.info().id.0;
    stage.stock(&["force-unlock", "-force", wrong]).expect_code(1);
    assert_eq!(stage.info().id.0, id);
    run(stage.in_it(terraform(stage.dir.path())).args(["force-unlock", "-force", &id]))
        .expect_code(0);
    assert!(stage.lock().is_none());
    gate.open();
    let ours = ours.finish().expect_code(76);
    assert!(ours.stderr.contains("lost"), "{}", ours.stderr);
    // Terraform's, by us, once it is dead.
    let gate = Gate::new(stage.dir.path(), "theirs");
    let stock = stage.started(terraform(stage.dir.path()), &gate);
    stock.signal(Signal::SIGKILL);
    stock.finish();
    gate.open();
    let id = stage.info().id.0;
    let timed_out = run(stage.ours().args(["--lock-timeout=0s", "plan"])).expect_code(75);
    let command = format!("terraform force-unlock {id}");
    assert!(timed_out.stderr.contains(&command), "{}", timed_out.stderr);
    run(stage.ours().args(["unlock", wrong, "--yes"])).expect_code(1);
    assert_eq!(stage.info().id.0, id);
    run(stage.ours().args(["unlock", &id, "--yes"])).expect_code(0);
    assert!(stage.lock().is_none());
    // A delete marker is as nothing; without one a lock is a version, and so is its end.
    let before = stage.server.versions(&stage.file);
    run(&mut applying(stage.ours(), "true")).expect_code(0);
    assert_eq!(stage.server.versions(&stage.file), before + 2);
}

/// `status` and JSON, the name of the lock, `hold` and `release`.
#[test]
fn status_hold_and_release_know_the_lock_file() {
    let stage = Stage::new("hold/terraform.tfstate", "");
    let status = || {
        let done = run(stage.ours().args(["status", "--format", "json"])).expect_code(0);
        serde_json::from_str::<Value>(&done.stdout).unwrap()["locks"][0].clone()
    };
    assert_eq!(status()["state"], "free");
    assert_eq!(status()["lock"], format!("s3://{BUCKET}/{}", stage.file));
    let _ends = EndsHolds(stage.dir.path().join(STATE_DIR));
    let held =
        run(stage.ours().args(["--lease", "10m", "hold", "--format", "json"])).expect_code(0);
    let held: Value = serde_json::from_str(&held.stdout).unwrap();
    let env = held["env"].as_object().unwrap();
    assert_eq!((&status()["state"], &status()["kept_by"]), (&"held".into(), &"lease".into()));
    let stock = stage.stock(&["plan"]).expect_code(1);
    assert!(stock.stderr.contains("Operation: hold"), "{}", stock.stderr);
    let mut below = stage.ours();
    below.envs(env.iter().map(|(name, value)| (name, value.as_str().unwrap())));
    let below = run(below.args(["apply", "-auto-approve", "-no-color"])).expect_code(0);
    assert!(!below.stderr.contains("waiting"), "{}", below.stderr);
    let mut release = stage.ours();
    release.envs(env.iter().map(|(name, value)| (name, value.as_str().unwrap())));
    run(release.arg("release")).expect_code(0);
    assert!(stage.lock().is_none());
}

/// By its guardian; and by `recover` where that was killed, too, which finds the customer's key where
/// it was, since no receipt has it.
#[test]
fn a_killed_runs_lock_file_is_given_back_and_no_receipt_has_the_customers_key() {
    let in_backend = format!("encrypt = true\n    sse_customer_key = \"{CUSTOMER_KEY}\"");
    for (name, lines, env) in [
        ("backend", in_backend.as_str(), &[][..]),
        ("variable", "encrypt = true", &[("AWS_SSE_CUSTOMER_KEY", CUSTOMER_KEY)][..]),
    ] {
        for with_guardian in [true, false] {
            let key = format!("killed/{name}-{with_guardian}/terraform.tfstate");
            let server = aws_like();
            let dir = backend_dir(&server.url, &key, lines);
            let init = run(terraform(dir.path()).args(["init", "-no-color"]).envs(env.to_vec()));
            init.expect_code(0);
            let (workspace, env) = ("default".to_owned(), env.to_vec());
            let stage = Stage { server, dir, file: format!("{key}.tflock"), workspace, env };
            let mut command = stage.ours();
            command.args(["run", "--", "sh", "-c", "touch ready; exec sleep 60"]);
            let ours = Running::start(&mut command);
            eventually("it is held, and its child runs", || {
                assert!(!ours.is_over(), "{}", ours.stderr());
                stage.dir.path().join("ready").exists()
            });
            assert!(stage.lock().is_some_and(|it| it.customer_key.is_some()));
            let receipts = || Receipt::all(&stage.dir.path().join(STATE_DIR));
            let mut receipt = receipts().remove(0);
            eventually("a receipt with its child", || {
                receipt = receipts().remove(0);
                !receipt.text["child"].is_null()
            });
            let text = receipt.text.to_string();
            assert!(text.contains("customer-key") && !text.contains(CUSTOMER_KEY), "{text}");
            if !with_guardian {
                ours.signal(Signal::SIGSTOP);
                kill_dead(receipt.guardian().expect("a guardian"));
            }
            ours.signal(Signal::SIGKILL);
            drop(ours);
            if !with_guardian {
                assert!(stage.lock().is_some(), "nobody gives it back");
                let child = receipt.text["child"]["leader"]["pid"].as_i64().expect("a child");
                kill_dead(nix::unistd::Pid::from_raw(i32::try_from(child).unwrap()));
                let done = run(stage.ours().arg("recover")).expect_code(0);
                assert!(done.stderr.contains("its lock is released"), "{}", done.stderr);
            }
            eventually("it is given back", || stage.lock().is_none());
        }
    }
}

/// A store that cannot hold a lock is found before Terraform runs.
#[test]
fn a_backend_that_cannot_be_held_is_78_and_nothing_runs() {
    let refusing = start(Manners::None);
    let dir = backend_dir(&refusing.url, "refused/terraform.tfstate", "");
    run(terraform(dir.path()).args(["init", "-no-color"])).expect_code(0);
    let done = run(&mut applying(tfwrap(dir.path()), "touch ran")).expect_code(78);
    assert!(done.stderr.contains("ignores `If-None-Match`"), "{}", done.stderr);
    assert!(!dir.path().join("ran").exists());
}
