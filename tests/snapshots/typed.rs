//! What is said of wrong usage and of wrong configuration, through the program itself.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::{agreed, typed};

/// What is typed, with the variables that are set, and what comes of it, as on a terminal.
#[track_caller]
fn played(dir: &Path, args: &[&str], variables: &[(&str, &str)], code: i32) -> String {
    let (stdout, stderr, ended) = typed(dir, args, variables);
    assert_eq!((stdout.as_str(), ended), ("", Some(code)), "{args:?}: {stderr}");
    assert!(stderr.lines().all(|line| line.starts_with("tfwrap: ")), "{stderr}");
    let mut line = String::from("$");
    for (name, value) in variables {
        let _ = write!(line, " {name}={value}");
    }
    for word in [&["tfwrap"], args].concat() {
        let _ = write!(line, " {}", shell_words::quote(word));
    }
    let here = dir.canonicalize().expect("a directory");
    let stderr = stderr.replace(here.to_str().expect("UTF-8"), "HERE");
    format!("{line}\n{stderr}[{code}]\n\n")
}

fn usage(dir: &Path) -> String {
    let cases: &[&[&str]] = &[
        &["-q"],
        &["--lok-timeout", "5m", "plan"],
        &["-lock-timeout=5m", "plan"],
        &["--lock-timeout", "90", "plan"],
        &["--lock-timeout"],
        &["--lease", "5s", "plan"],
        &["--second-signal", "x", "plan"],
        &["--on-lock-lost", "x", "plan"],
        &["--grace", "soon", "plan"],
        &["--log-format", "xml", "plan"],
        &["--lock", "redis://x/y", "plan"],
        &["--lock", "dynamodb://t", "plan"],
        &["--color", "pink", "plan"],
        &["-q", "-v", "plan"],
        &["run"],
        &["run", "-x", "y"],
        &["run", "--", ""],
        &["table", "crate"],
        &["help", "aply"],
        &["help", "state", "mvv"],
        &["completions"],
        &["completions", "bsh"],
        &["status", "x"],
        &["status", "--wach"],
        &["status", "--lease", "5m"],
        &["status", "--format", "xml"],
        &["unlock"],
        &["unlock", "-force", "x"],
        &["unlock", ""],
        &["release", ""],
        &["recover", "--wait", "90"],
        &["hold", "--", "sleep", "1"],
        &["release", "1", "2"],
        &["--chdir", "missing", "plan"],
        &["--no-backend-lock", "plan"],
        &["--lock", "file:///tmp/x", "--lock", "file:///tmp/x", "plan"],
    ];
    cases.iter().map(|args| played(dir, args, &[], 64)).collect()
}

fn configuration(dir: &Path) -> String {
    let yaml = dir.join(".tfwrap.yaml");
    let mut all = String::new();
    for text in [
        "# c\nlock-timout: 5m\n",
        "lease: never\nlock-timeout: 90\n",
        "lease: [\n",
        "second-signal: maybe\n",
        "lease: never\n\tquiet: true\n",
        "lease:\n",
        "unlocked:\n  - paln\n",
    ] {
        fs::write(&yaml, text).expect("a file");
        let _ = write!(all, "$ cat .tfwrap.yaml\n{text}");
        all += &played(dir, &["plan"], &[], 78);
    }
    fs::remove_file(&yaml).expect("the file");
    for variable in [("TFWRAP_LEASE", "1s"), ("TFWRAP_CONFIG", "/missing"), ("TFWRAP_DEPTH", "9")] {
        all += &played(dir, &["plan"], &[variable], 78);
    }
    all
}

#[test]
fn wrong_usage_is_64_and_wrong_configuration_78_as_agreed() {
    let dir = tempfile::tempdir().expect("a directory");
    let texts = [("usage", usage(dir.path())), ("configuration", configuration(dir.path()))];
    agreed("typed", &texts.map(|(name, text)| (name.to_owned(), text)).into());
}
