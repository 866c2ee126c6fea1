//! A case, played by stock Terraform and by tfwrap, each in fresh copies of the same places.
//!
//! `how`: `plan` calls `tfwrap plan` and not `tfwrap run -- true`; `chdir` from the directory above;
//! `ws` in workspace `w`; `hcl` and `json` write the backend out and call tfwrap before
//! `terraform init`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::case::{Case, Places, Setup};
use crate::services::{Desk, Log};
use crate::verdict::Trace;

/// The longest that one call may take: longer than what Terraform waits for anything here.
const LIMIT: Duration = Duration::from_secs(100);
const STEP: Duration = Duration::from_millis(4);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Player {
    Stock,
    Tfwrap,
}

/// Where cases are played, one after the other.
#[derive(Debug)]
pub(crate) struct Arena {
    dir: PathBuf,
    places: Places,
    desk: Arc<Desk>,
    /// The tfwrap that plays.
    program: String,
    /// Of the backend block, as `init` writes it down.
    hash: u64,
}

impl Arena {
    pub(crate) fn new(dir: &Path, desk: Arc<Desk>) -> Self {
        let places = Places {
            work: dir.join("work"),
            home: dir.join("home"),
            passwd: dir.join("passwd"),
            ca: dir.join("private.pem"),
        };
        set_child_subreaper(true).unwrap();
        #[expect(clippy::disallowed_methods, reason = "configures the tests, not the program")]
        let program = std::env::var("TFWRAP_AWS_PROGRAM")
            .unwrap_or_else(|_| env!("CARGO_BIN_EXE_tfwrap").to_owned());
        let mut arena = Self { dir: dir.to_owned(), places, desk, program, hash: 0 };
        arena.hash = arena.learn_hash();
        arena
    }

    /// What Terraform has for a backend block with nothing in it: the same whatever it is
    /// completed with.
    fn learn_hash(&self) -> u64 {
        let setup = Case::of("init | AWS_ACCESS_KEY_ID=AKIAI | AWS_SECRET_ACCESS_KEY=s")
            .set_up(&self.places);
        self.put_up(&setup);
        self.desk.open(&[]);
        fs::remove_dir_all(self.places.work.join(".terraform")).unwrap();
        let mut command = self.command("terraform", &setup);
        command.arg("init");
        for (name, value) in &setup.backend {
            let value = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
            command.arg(format!("-backend-config={name}={value}"));
        }
        let (code, said, _) = self.call(command);
        assert_eq!(code, Some(0), "terraform init: {said}");
        let state = fs::read(self.places.work.join(".terraform/terraform.tfstate")).unwrap();
        let state: Value = serde_json::from_slice(&state).unwrap();
        state["backend"]["hash"].as_u64().expect("a hash")
    }

    pub(crate) fn play(&self, case: &Case, player: Player) -> Trace {
        let setup = case.set_up(&self.places);
        self.put_up(&setup);
        self.desk.open(&setup.manners);
        let how = |word: &str| setup.how.iter().any(|it| it == word);
        let before_init = how("hcl") || how("json");
        let mut seconds = 0.0;
        if before_init && player == Player::Stock {
            let mut command = self.command("terraform", &setup);
            command.args(["init", "-no-color"]);
            let (code, said, took) = self.call(command);
            if code != Some(0) {
                return self.trace(&setup, code, said, took);
            }
            seconds = took;
            self.desk.open(&setup.manners);
        }
        let program = match player {
            Player::Stock => "terraform",
            Player::Tfwrap => &self.program,
        };
        let mut command = self.command(program, &setup);
        for (_, name, value) in setup.more.iter().filter(|(whose, ..)| *whose == player) {
            command.env(name, OsString::from_vec(value.clone()));
        }
        match (player, how("chdir")) {
            (Player::Stock, true) => drop(command.arg("-chdir=work")),
            (Player::Tfwrap, true) => drop(command.args(["--chdir", "work"])),
            (_, false) => {}
        }
        if how("chdir") {
            command.current_dir(&self.dir);
        }
        let mut askers = 1;
        if player == Player::Tfwrap && !how("plan") {
            command.args(["run", "--", "true"]);
        } else {
            command.args(["plan", "-no-color"]);
            askers += usize::from(player == Player::Tfwrap);
        }
        let (code, said, took) = self.call(command);
        Trace { askers, ..self.trace(&setup, code, said, seconds + took) }
    }

    fn trace(&self, setup: &Setup, code: Option<i32>, said: String, seconds: f64) -> Trace {
        let Log { table, roles, all } = self.desk.log();
        let text = |name: &str| setup.backend.get(name).and_then(Value::as_str).unwrap_or_default();
        let prefix = if setup.how.iter().any(|it| it == "ws") { "env:/w/" } else { "" };
        let state = format!("{prefix}{}", text("key"));
        let (write, lock) = if setup.is_file() {
            ("PUT", format!("{state}.tflock"))
        } else {
            ("PutItem", format!("{}/{state}", text("bucket")))
        };
        let of_lock: Vec<_> = table.iter().filter(|it| !it.item.ends_with("-md5")).collect();
        let first = of_lock.iter().find(|it| it.operation == write && it.item == lock);
        Trace {
            code,
            took_it: first.is_some_and(|it| it.granted),
            first: first.map(|it| it.how.clone()),
            all: of_lock.iter().map(|it| it.how.clone()).collect::<BTreeSet<_>>(),
            roles,
            requests: all,
            runs: self.runs(),
            askers: 1,
            unsaid: setup.says.iter().filter(|text| !said.contains(*text)).cloned().collect(),
            said,
            seconds,
        }
    }

    /// How often programs were asked for credentials.
    fn runs(&self) -> usize {
        let of = |name: &str| fs::read_to_string(self.places.home.join(name)).unwrap_or_default();
        ["proc-P.runs", "proc-F.runs"].map(|name| of(name).lines().count()).iter().sum()
    }

    /// Fresh places.
    fn put_up(&self, setup: &Setup) {
        let Places { work, home, passwd, .. } = &self.places;
        for dir in [work, home, passwd] {
            if dir.exists() {
                fs::remove_dir_all(dir).unwrap();
            }
            fs::create_dir(dir).unwrap();
        }
        let write = |path: &Path, bytes: &[u8]| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        for (path, bytes) in &setup.files {
            write(path, bytes);
        }
        let how = |word: &str| setup.how.iter().any(|it| it == word);
        if how("json") {
            let config = json!({"terraform": {"backend": {"s3": setup.backend}}});
            write(&work.join("main.tf.json"), config.to_string().as_bytes());
        } else {
            let backend = if how("hcl") { native(&setup.backend) } else { String::new() };
            let config = format!("terraform {{\n  backend \"s3\" {{\n{backend}  }}\n}}\n");
            write(&work.join("main.tf"), config.as_bytes());
        }
        if !how("json") && !how("hcl") {
            // Its lists are sets, which Terraform writes in order.
            let mut config = setup.backend.clone();
            config.values_mut().for_each(sort);
            let state = json!({
                "version": 3, "terraform_version": "1.11.4",
                "backend": {"type": "s3", "config": config, "hash": self.hash},
            });
            write(&work.join(".terraform/terraform.tfstate"), state.to_string().as_bytes());
        }
        if how("ws") {
            write(&work.join(".terraform/environment"), b"w");
        }
    }

    fn command(&self, program: &str, setup: &Setup) -> Command {
        #[expect(clippy::disallowed_methods, reason = "terraform and the shell must be found")]
        let path = std::env::var_os("PATH").unwrap();
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", path)
            .env("CHECKPOINT_DISABLE", "1")
            .env("TF_IN_AUTOMATION", "1")
            .env("TF_INPUT", "0")
            .env("TFWRAP_LOCK_TIMEOUT", "0s")
            .env("TFWRAP_STATE_DIR", self.places.work.join(".state"))
            .envs(setup.env.iter().map(|(k, v)| (k, OsString::from_vec(v.clone()))))
            .current_dir(&self.places.work);
        command
    }

    /// Runs it to its end, or to ours: the code, what it said, and the seconds.
    fn call(&self, mut command: Command) -> (Option<i32>, String, f64) {
        let out = self.dir.join("said");
        let file = File::create(&out).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .process_group(0);
        let began = tfwrap::clock::wall();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut status = None;
        for _ in 0..LIMIT.as_millis() / STEP.as_millis() {
            status = child.try_wait().unwrap();
            if status.is_some() {
                break;
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "a test has no loop that it could block"
            )]
            std::thread::sleep(STEP);
        }
        let seconds = tfwrap::clock::wall().duration_since(began).as_secs_f64();
        if status.is_none() {
            let group = Pid::from_raw(i32::try_from(child.id()).unwrap());
            let _ = killpg(group, Signal::SIGKILL);
            drop(child.wait());
        }
        end_the_rest();
        let said = String::from_utf8_lossy(&fs::read(out).unwrap()).into_owned();
        (status.and_then(|status| status.code()), said, seconds)
    }
}

/// Ends what a call has left behind, such as a guardian that still looks for a late request. All of
/// that is this process's own by now: nobody else takes orphans in.
fn end_the_rest() {
    for _ in 0..1000 {
        let rest = children();
        if rest.is_empty() {
            return;
        }
        for child in rest {
            let _ = kill(child, Signal::SIGKILL);
            let _ = waitpid(child, None);
        }
    }
    panic!("there is always more left behind: {:?}", children());
}

fn children() -> Vec<Pid> {
    let own = std::process::id().to_string();
    let is_ours = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        fields.split(' ').nth(1) == Some(own.as_str())
    };
    let all = fs::read_dir("/proc").unwrap();
    all.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(is_ours)
        .map(Pid::from_raw)
        .collect()
}

fn sort(value: &mut Value) {
    match value {
        Value::Array(list) => list.sort_by_key(ToString::to_string),
        Value::Object(map) => map.values_mut().for_each(sort),
        _ => {}
    }
}

/// The backend in Terraform's own syntax.
fn native(backend: &serde_json::Map<String, Value>) -> String {
    fn value(of: &Value) -> String {
        match of {
            Value::Object(map) => {
                let fields: Vec<String> =
                    map.iter().map(|(name, it)| format!("{name:?} = {}", value(it))).collect();
                format!("{{ {} }}", fields.join(", "))
            }
            Value::Array(list) => {
                let list: Vec<String> = list.iter().map(value).collect();
                format!("[{}]", list.join(", "))
            }
            other => other.to_string().replace("${", "$${"),
        }
    }
    let lines = backend.iter().map(|(name, it)| format!("    {name} = {}", value(it)));
    lines.chain([String::new()]).collect::<Vec<_>>().join("\n")
}
