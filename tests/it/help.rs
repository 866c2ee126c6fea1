//! `help`, and what is said of a command that nobody knows.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::process::Command;

use tfwrap::terraform::LISTED_COMMANDS;

use crate::support::harness::{run, tfwrap, wrapper};
use crate::support::servers::{clean, terraform};

fn empty() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// The commands of a help of Terraform's, below a line that ends in `ommands:`.
fn commands_in(help: &str) -> BTreeSet<String> {
    let mut is_list = false;
    let mut found = BTreeSet::new();
    for line in help.lines() {
        if !line.starts_with(' ') {
            is_list = line.ends_with("ommands:") || (is_list && line.is_empty());
        } else if let Some(name) = line.split_whitespace().next().filter(|_| is_list) {
            found.insert(name.to_owned());
        }
    }
    assert!(!found.is_empty(), "{help}");
    found
}

#[test]
fn the_commands_are_those_that_terraform_lists() {
    let dir = empty();
    // Of other releases than the one that the tests are made for.
    let elsewhere = ["modules", "query", "stacks"].map(str::to_owned);
    for above in [&[][..], &["state"], &["workspace"], &["providers"], &["metadata"]] {
        let mut help = terraform(dir.path());
        let told = commands_in(&run(help.args(above).arg("-help")).expect_code(0).stdout);
        let listed: BTreeSet<_> = LISTED_COMMANDS
            .iter()
            .filter_map(|it| it.words.split_last().filter(|(_, words)| *words == above))
            .map(|(name, _)| (*name).to_owned())
            .collect();
        let missing: Vec<_> = told.difference(&listed).collect();
        assert!(missing.is_empty(), "{above:?}: {missing:?}");
        let gone: Vec<_> = listed.difference(&told).filter(|it| !elsewhere.contains(it)).collect();
        assert!(gone.is_empty(), "{above:?}: {gone:?}");
    }
}

#[test]
fn terraforms_own_help_is_where_ours_says() {
    let dir = empty();
    for words in [&["plan"][..], &["fmt"], &["state", "mv"]] {
        let ours = run(tfwrap(dir.path()).arg("help").args(words)).expect_code(0).stdout;
        let line = format!("  tfwrap {} -help\n", words.join(" "));
        assert!(ours.ends_with(&line), "{ours}");
        let there = run(tfwrap(dir.path()).args(words).arg("-help")).expect_code(0).stdout;
        let terraforms = run(terraform(dir.path()).args(words).arg("-help")).expect_code(0).stdout;
        assert_eq!(there, terraforms, "{words:?}");
    }
}

#[test]
fn nothing_in_a_directory_keeps_the_help_away() {
    let dir = empty();
    fs::write(dir.path().join(".tfwrap.yaml"), "lease: [").unwrap();
    for args in
        [&["help"][..], &["help", "plan"], &["status", "-h"], &["completions", "bash"], &["man"]]
    {
        let done = run(tfwrap(dir.path()).args(args).env("TFWRAP_LEASE", "x")).expect_code(0);
        assert!(done.stderr.is_empty() && !done.stdout.is_empty(), "{args:?}: {}", done.stderr);
    }
}

#[test]
fn a_help_that_cannot_be_written_is_an_error() {
    let dir = empty();
    for args in [&["--help"][..], &["help", "plan"], &["man"]] {
        let mut command = tfwrap(dir.path());
        command.args(args).stdout(File::options().write(true).open("/dev/full").unwrap());
        let done = command.output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(78), "{said}");
        assert!(said.contains("stdout: No space left on device"), "{said}");
        let mut shell = Command::new("sh");
        clean(&mut shell, dir.path());
        shell.args(["-c", "\"$0\" \"$@\" >&-"]).arg(wrapper()).args(args);
        let done = run(&mut shell).expect_code(78);
        assert!(done.stderr.contains("it is closed"), "{}", done.stderr);
    }
}

#[test]
fn a_mistyped_command_goes_to_terraform_with_a_word_on_ours() {
    let dir = empty();
    let stock = |word: &str| run(terraform(dir.path()).arg(word)).expect_code(1);
    let ours = |words: &[&str]| run(tfwrap(dir.path()).args(words)).expect_code(1);
    for (word, meant) in [("statsu", "status"), ("hlep", "help"), ("relase", "release")] {
        let (stock, ours) = (stock(word), ours(&[word]));
        let said = format!("did you mean `tfwrap {meant}`?");
        let first = ours.stderr.lines().next().unwrap();
        assert!(first.starts_with("tfwrap: warning: ") && first.ends_with(&said), "{first}");
        // And Terraform says what it says.
        assert_eq!(ours.stdout, stock.stdout);
        assert!(ours.stderr.ends_with(&stock.stderr), "{}", ours.stderr);
    }
    // Terraform's own are Terraform's to name, and so is what is like nothing.
    for word in ["aply", "versio", "xyzzy"] {
        let (stock, ours) = (stock(word), ours(&[word]));
        assert_eq!((ours.stdout, ours.stderr), (stock.stdout, stock.stderr), "{word}");
    }
    // Ours behind what leads to Terraform's.
    let inside = format!("-chdir={}", dir.path().display());
    for words in [&[inside.as_str(), "wait"][..], &["--", "wait"]] {
        let said = ours(words).stderr;
        let first = said.lines().next().unwrap();
        assert!(first.starts_with("tfwrap: warning: `wait` after `-chdir` or `--`"), "{said}");
        assert!(first.ends_with("`tfwrap --chdir DIR wait`"), "{said}");
        assert!(said.contains("Terraform has no command named \"wait\""), "{said}");
    }
    // Called by Terraform's name, tfwrap has no commands.
    let link = dir.path().join("terraform");
    symlink(wrapper(), &link).unwrap();
    let mut linked = Command::new(&link);
    clean(&mut linked, dir.path());
    assert_eq!(run(linked.arg("statsu")).expect_code(1).stderr, stock("statsu").stderr);
}

#[test]
fn an_option_after_the_command_is_said_to_be_terraforms() {
    let dir = empty();
    let done = run(tfwrap(dir.path()).args(["plan", "--lease=5m", "-no-color"])).expect_code(1);
    let said = "tfwrap's options go before the command: `tfwrap --lease … plan`";
    assert!(done.stderr.contains(said), "{}", done.stderr);
    assert!(done.stderr.contains("flag provided but not defined: -lease"), "{}", done.stderr);
    for (args, says) in [
        // Go takes one dash and two for the same, and the next word for a value.
        (&["-lease=5m"][..], "`-lease` after `plan`"),
        (&["-lease", "5m"], "`tfwrap --lease … plan`"),
        (&["-no-line"], "`tfwrap --no-line plan`"),
        (
            &["-q"],
            "`-q` after `plan` goes to Terraform; tfwrap's options go before the command: `tfwrap --quiet plan`",
        ),
        (&["-verbose"], "`tfwrap --verbose plan`"),
        // A URL is no value of Terraform's `-lock`.
        (&["--lock=file:///x"], "`tfwrap --lock … plan`"),
        (&["--lock", "file:///x"], "`tfwrap --lock … plan`"),
    ] {
        let done = run(tfwrap(dir.path()).arg("plan").args(args)).expect_code(1);
        assert!(done.stderr.contains(says), "{args:?}: {}", done.stderr);
    }
    // So it is with commands that take no lock.
    for (args, says) in [
        (&["state", "list", "--verbose"][..], "`tfwrap --verbose state list`"),
        (&["output", "-quiet"], "`tfwrap --quiet output`"),
        (&["workspace", "list", "-lease=5m"], "`tfwrap --lease … workspace list`"),
    ] {
        let done = run(tfwrap(dir.path()).args(args));
        assert!(done.stderr.contains(says), "{args:?}: {}", done.stderr);
    }
    // Terraform has these, too.
    for args in [
        &["plan", "--lock-timeout=5m", "-nonsense"][..],
        &["plan", "--lock-timeout", "5m", "-nonsense"],
        &["plan", "-lock", "-nonsense"],
        &["import", "-config=x", "-nonsense", "a", "b"],
        &["test", "-verbose", "-nonsense"],
        &["plan", "-v"],
    ] {
        let done = run(tfwrap(dir.path()).args(args));
        assert!(!done.stderr.contains("tfwrap: "), "{args:?}: {}", done.stderr);
    }
}
