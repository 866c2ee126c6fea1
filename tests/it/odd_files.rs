//! Odd files of Terraform's own, with stock Terraform as the measure: what it takes is not refused,
//! and what it refuses it says itself.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use crate::support::harness::{Running, run, tfwrap};
use crate::support::servers::terraform;

const RESOURCE: &str =
    "variable \"a\" {\n default = \"\"\n}\nresource \"terraform_data\" \"x\" {}\n";

/// A file: its name and what is in it. A name that ends in `/` is a directory.
type Odd = (&'static [u8], Vec<u8>);

struct Case {
    name: &'static str,
    files: Vec<Odd>,
    env: Option<(&'static str, &'static [u8])>,
    args: &'static [&'static str],
    /// What stock Terraform does.
    code: i32,
}

fn case(name: &'static str, files: Vec<Odd>, args: &'static [&'static str], code: i32) -> Case {
    Case { name, files, env: None, args, code }
}

fn environment(name: &'static str, text: &[u8], code: i32) -> Case {
    case(name, vec![(b".terraform/environment", text.to_vec())], &["apply", "-auto-approve"], code)
}

fn config(name: &'static str, file: &'static [u8], text: impl Into<Vec<u8>>, code: i32) -> Case {
    case(name, vec![(file, text.into())], &["apply", "-auto-approve"], code)
}

fn cases() -> Vec<Case> {
    let workspace: Odd = (b"terraform.tfstate.d/a b/", Vec::new());
    let deep = format!("locals {{\n a = {}1{}\n}}\n", "[".repeat(64), "]".repeat(64));
    let chained = format!("locals {{\n a = 1{}\n}}\n", " + 1".repeat(128));
    let backend = "terraform {\n backend \"local\" {}\n}\n";
    let split = |text: &str| [b"# caf\xe9 backend\n", text.as_bytes()].concat();
    let mut cases = vec![
        case("a workspace to delete", vec![workspace], &["workspace", "delete", "a b"], 0),
        case("no workspace to delete", vec![], &["workspace", "delete", "a b"], 1),
        case("no name to delete", vec![], &["workspace", "delete", ""], 1),
        case("directory", vec![(b".terraform/environment/", Vec::new())], &["plan"], 0),
        environment("spaces around it", b"\t\xc2\xa0a b \n", 0),
        environment("not UTF-8", b"caf\xe9", 0),
        environment("NUL", b"a\0b", 1),
        config("Latin-1 in a comment", b"b.tf", split("locals {}\n"), 0),
        config("brackets in brackets", b"b.tf", [&split(""), deep.as_bytes()].concat(), 0),
        config("operators", b"b.tf", [&split(""), chained.as_bytes()].concat(), 0),
        config("a large number", b"b.tf", split("locals {\n a = 1e1000\n}\n"), 0),
        config("a surrogate", b"b.tf.json", r#"{"locals": {"cloud": "\ud800", "a": 1e1000}}"#, 0),
        config("a name that is no text", b"\xff.tf", "locals {}\n", 0),
        config("a backend beside it", b"b.tf", split(backend), 1),
        config(
            "a backend in a heredoc",
            b"b.tf",
            format!("locals {{\n a = <<T\n{backend}T\n}}\n"),
            0,
        ),
        config("no HCL", b"b.tf", "backend } \"\n", 1),
        config("no JSON", b"b.tf.json", "{\"terraform\": {\"backend\": x", 1),
    ];
    for (env, args) in [(&b"-var=a=\xff"[..], &["plan"][..]), (b"-var='a=\xff", &["plan"])] {
        let name = "a variable that is not UTF-8";
        let code = i32::from(env.contains(&b'\''));
        let env = Some(("TF_CLI_ARGS", env));
        cases.push(Case { name, files: vec![], env, args, code });
    }
    cases
}

fn put(dir: &Path, (name, bytes): &Odd) {
    let path = dir.join(OsStr::from_bytes(name));
    if name.ends_with(b"/") {
        fs::create_dir_all(path).unwrap();
    } else {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Everything below, but for what tfwrap keeps for itself.
fn left(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let relative = path.strip_prefix(dir).unwrap().to_owned();
            if relative.starts_with(".tfwrap-state") {
                continue;
            }
            if path.is_dir() {
                dirs.push(path);
            }
            found.insert(relative);
        }
    }
    found
}

#[test]
fn odd_files_are_to_tfwrap_what_they_are_to_terraform() {
    for Case { name, files, env, args, code } in cases() {
        let play = |program: fn(&Path) -> Command| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("main.tf"), RESOURCE).unwrap();
            for file in &files {
                put(dir.path(), file);
            }
            let env = env.map(|(name, value)| (name, OsString::from_vec(value.to_vec())));
            let ended = run(program(dir.path()).envs(env).args(args));
            (ended, left(dir.path()))
        };
        let (stock, stocks) = play(terraform);
        let said = format!("{name}: {}{}", stock.stdout, stock.stderr);
        assert_eq!(stock.status.code(), Some(code), "stock, {said}");
        let (ours, oursleft) = play(tfwrap);
        let said = format!("{name}: {}{}", ours.stdout, ours.stderr);
        // That the directory is not initialised we say ourselves, before Terraform.
        let initialised = !ours.stderr.contains("the directory is not initialised");
        let expected = if initialised { code } else { 78 };
        assert_eq!(ours.status.code(), Some(expected), "{said}");
        assert_eq!(
            initialised,
            !stock.stderr.contains("Backend initialization required"),
            "{said}"
        );
        assert_eq!(oursleft, stocks, "{said}");
        assert!(!ours.stderr.contains("report this"), "{said}");
    }
}

/// Terraform would wait for ever to read them.
#[test]
fn a_pipe_in_the_place_of_a_file_holds_nobody_up() {
    for (name, args) in [
        (".terraform/terraform.tfstate", &["plan"][..]),
        (".terraform/environment", &["status"]),
        ("p.bin", &["apply", "p.bin"]),
        ("b.tf", &["plan"]),
        ("b.tf.json", &["state", "rm", "terraform_data.x"]),
        ("b_override.tf", &["run", "--", "terraform", "apply"]),
        (".terraform.lock.hcl", &["apply"]),
    ] {
        let dir = in_dir(name);
        mkfifo(&dir.path().join(name), Mode::S_IRWXU).unwrap();
        let ended = run(tfwrap(dir.path()).args(args)).expect_code(78);
        let said = format!("{name}` is a pipe, not a regular file");
        assert!(ended.stderr.contains(&said), "{}", ended.stderr);
        let lock = dir.path().join(".terraform.tfstate.lock.info");
        assert!(!lock.exists(), "{name}: no lock is taken");
    }
}

fn in_dir(name: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("main.tf"), RESOURCE).unwrap();
    fs::create_dir(dir.path().join(".terraform")).unwrap();
    assert!(!dir.path().join(name).exists(), "{name}");
    dir
}

type Put<'a> = &'a dyn Fn(&Path);

/// Stock reads what a link leads to, and neither a directory nor what a saved plan needs no more.
#[test]
fn what_is_no_file_and_keeps_nobody_waiting_is_terraforms() {
    let pipe = |path: &Path| mkfifo(path, Mode::S_IRWXU).unwrap();
    let null = |path: &Path| symlink("/dev/null", path).unwrap();
    let device = |path: &Path| symlink("/dev/zero", path).unwrap();
    let nowhere = |path: &Path| symlink("nowhere", path).unwrap();
    let socket = |path: &Path| drop(UnixListener::bind(path).unwrap());
    let directory = |path: &Path| fs::create_dir(path).unwrap();
    let cases: [(&str, Put<'_>, &[&str], i32, &str); 11] = [
        ("b.tf", &null, &["plan"], 0, ""),
        ("b.auto.tfvars", &null, &["plan"], 0, ""),
        ("b.tf", &directory, &["plan"], 0, ""),
        ("b.tf", &socket, &["plan"], 1, "could not be read"),
        ("b.tf", &nowhere, &["plan"], 1, "could not be read"),
        ("b.tf", &device, &["plan"], 78, "b.tf` is a device, not a regular file"),
        (".b.tf", &pipe, &["plan"], 0, ""),
        ("b.tf", &pipe, &["apply", "plan"], 0, ""),
        ("b.tf", &pipe, &["validate", "-help"], 0, ""),
        ("b.auto.tfvars", &pipe, &["state", "rm", "terraform_data.x"], 0, ""),
        ("b.auto.tfvars", &pipe, &["plan"], 0, "until somebody writes to it"),
    ];
    for (name, put, args, code, said) in cases {
        let dir = in_dir(name);
        run(terraform(dir.path()).args(["apply", "-auto-approve"])).expect_code(0);
        run(terraform(dir.path()).args(["plan", "-out=plan"])).expect_code(0);
        put(&dir.path().join(name));
        let running = Running::start(tfwrap(dir.path()).args(args));
        if said.starts_with("until") {
            // As with stock: whoever has a secret writes it there meanwhile.
            running.says(said);
            fs::write(dir.path().join(name), "a = \"1\"\n").unwrap();
        }
        let ended = running.finish().expect_code(code);
        assert!(ended.stderr.contains(said), "{name} {args:?}: {}", ended.stderr);
        let warned = ended.stderr.contains("tfwrap: ");
        assert_eq!(warned, code == 78 || said.starts_with("until"), "{name}: {}", ended.stderr);
    }
}
