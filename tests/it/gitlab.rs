//! On GitLab: a wait is a section of the log, and the outputs are in a dotenv file. The component is tried by
//! `.ci/run gitlab`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::harness::{Gate, Running, applying, run, tfwrap};
use crate::support::servers::local_backend_dir;

/// tfwrap in a job, with a file for its outputs.
fn job(dir: &Path, dotenv: &Path) -> Command {
    let mut command = tfwrap(dir);
    command.env("GITLAB_CI", "true").env("TFWRAP_DOTENV", dotenv);
    command
}

fn outputs(dotenv: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(dotenv).unwrap();
    let lines = text.lines().map(|line| line.split_once('=').unwrap());
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn a_wait_on_gitlab_is_a_section_and_the_outputs_are_in_the_dotenv_file() {
    let dir = local_backend_dir();
    let [first, second] = ["first.env", "second.env"].map(|name| dir.path().join(name));
    let gate = Gate::new(dir.path(), "ours");
    let ours = Running::start(&mut applying(job(dir.path(), &first), &gate.command()));
    gate.reached();
    let early = outputs(&first);
    assert_eq!(early.keys().collect::<Vec<_>>(), ["TFWRAP_LOCK_ID"], "before the end");

    let theirs = Running::start(job(dir.path(), &second).args(["plan", "-no-color"]));
    theirs.says("waiting for the lock");
    gate.open();
    let done = ours.finish().expect_code(0);
    assert!(!done.stderr.contains("section_"), "it did not wait: {}", done.stderr);
    let done = theirs.finish().expect_code(0);
    let (before, rest) = done.stderr.split_once("\x1b[0Ksection_start:").unwrap();
    assert!(!before.contains("tfwrap: waiting for the lock `"), "{}", done.stderr);
    let (wait, after) = rest.split_once("\x1b[0Ksection_end:").unwrap();
    assert!(wait.contains("tfwrap: waiting for the lock `"), "{}", done.stderr);
    assert!(after.contains("tfwrap: got the lock `"), "{}", done.stderr);

    let ended = outputs(&first);
    assert_eq!(ended["TFWRAP_LOCK_ID"], early["TFWRAP_LOCK_ID"]);
    assert_eq!([&ended["TFWRAP_OUTCOME"], &ended["TFWRAP_HOLDER"]], ["success", ""]);
    assert!(outputs(&second)["TFWRAP_HOLDER"].contains(" for apply, "));
}

#[test]
fn elsewhere_there_is_no_section_and_a_dotenv_file_that_cannot_be_written_is_said_once() {
    let dir = local_backend_dir();
    let mut command = job(dir.path(), Path::new("/no/such/directory/file"));
    command.env("GITLAB_CI", "false").args(["--lock-timeout", "1s"]);
    let done = run(command.args(["plan", "-no-color"])).expect_code(0);
    assert!(!done.stderr.contains("section_"), "{}", done.stderr);
    let warned = done.stderr.matches("(from `TFWRAP_DOTENV`)").count();
    assert_eq!(warned, 1, "{}", done.stderr);
    assert!(done.stderr.contains("tfwrap: hint: set `TFWRAP_DOTENV` to a file"), "{}", done.stderr);
}
