//! The help of every command, and what there is for who types none.

use std::collections::BTreeMap;
use std::path::Path;

use tfwrap::cli::{CliCommand, TableArgs, TableCommand, own_commands, whole_command};
use tfwrap::terraform::LISTED_COMMANDS;

use crate::{agreed, typed};

/// The words of each command of ours that has none below it.
fn commands() -> Vec<Vec<String>> {
    let whole = whole_command();
    let mut all = Vec::new();
    for name in own_commands() {
        let below = whole.find_subcommand(&name).expect("it").get_subcommands();
        let below: Vec<_> = below.map(|it| vec![name.clone(), it.get_name().to_owned()]).collect();
        all.push(vec![name]);
        all.extend(below);
    }
    all
}

/// What is asked for, on stdout.
#[track_caller]
fn asked(dir: &Path, args: &[&str], width: usize) -> String {
    let columns = width.to_string();
    let (stdout, stderr, code) = typed(dir, args, &[("COLUMNS", &columns)]);
    assert_eq!((stderr.as_str(), code), ("", Some(0)), "{args:?}");
    assert!(!stdout.contains('\u{1b}'), "no colour");
    assert!(!stdout.starts_with("error:"), "{stdout}");
    stdout
}

#[test]
fn every_commands_help_is_as_agreed() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut texts = BTreeMap::new();
    let mut all = vec![Vec::new()];
    all.extend(commands());
    for command in &all {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let answer = |flag| asked(dir.path(), &[&words[..], &[flag]].concat(), 100);
        let (long, short) = (answer("--help"), answer("-h"));
        assert_eq!(asked(dir.path(), &[&["help"], &words[..]].concat(), 100), long, "{words:?}");
        assert!(long.contains("Example"), "{long}");
        let name = if words.is_empty() { "tfwrap".to_owned() } else { words.join("-") };
        texts.insert(format!("{name}-short"), short);
        texts.insert(name, long);
    }
    for words in [&["plan"][..], &["init"], &["fmt"], &["state"], &["state", "mv"]] {
        let name = format!("terraform-{}", words.join("-"));
        texts.insert(name, asked(dir.path(), &[&["help"], words].concat(), 100));
    }
    agreed("help", &texts);
}

#[test]
fn every_help_keeps_within_the_terminal() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut all = vec![Vec::new()];
    all.extend(commands());
    all.extend(LISTED_COMMANDS.iter().map(|it| it.words.iter().map(ToString::to_string).collect()));
    for command in &all {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        for width in [60, 80] {
            let text = asked(dir.path(), &[&["help"], &words[..]].concat(), width);
            // Below the usual width, but for what is typed as it stands and the table of exit codes.
            let stays = |line: &str| {
                let line = line.trim_start();
                line.contains("tfwrap ")
                    || line.starts_with(|c: char| c == '[' || c.is_ascii_digit())
            };
            let wide: Vec<_> = text
                .lines()
                .filter(|line| line.chars().count() > width && !(width < 80 && stays(line)))
                .collect();
            assert!(wide.is_empty(), "{words:?} at {width}: {wide:#?}");
        }
    }
}

#[test]
fn a_missing_command_shows_which_there_are() {
    let dir = tempfile::tempdir().expect("a directory");
    for (args, asked_for) in [(&[][..], &["-h"][..]), (&["table"], &["table", "-h"])] {
        let (stdout, stderr, code) = typed(dir.path(), args, &[]);
        assert_eq!((stdout.as_str(), code), ("", Some(64)), "{args:?}");
        assert_eq!(stderr, asked(dir.path(), asked_for, 100), "{args:?}");
        let (stdout, stderr, code) = typed(dir.path(), args, &[("TFWRAP_LOG_FORMAT", "json")]);
        assert_eq!((stdout.as_str(), code), ("", Some(64)), "{args:?}");
        assert!(stderr.starts_with('{') && stderr.lines().count() == 1, "{stderr}");
    }
}

/// No wildcard: a new command does not compile until someone has been here.
fn name_of(words: &CliCommand) -> &'static str {
    match words {
        CliCommand::Terraform(_) => "",
        CliCommand::Run(_) => "run",
        CliCommand::Status(_) => "status",
        CliCommand::Wait(_) => "wait",
        CliCommand::History(_) => "history",
        CliCommand::Doctor(_) => "doctor",
        CliCommand::Unlock(_) => "unlock",
        CliCommand::Recover(_) => "recover",
        CliCommand::Hold(_) => "hold",
        CliCommand::Release(_) => "release",
        CliCommand::Table(TableArgs { command: TableCommand::Create(_) }) => "table create",
        CliCommand::Table(TableArgs { command: TableCommand::Policy(_) }) => "table policy",
    }
}

#[test]
fn each_name_means_its_command() {
    for args in [
        &["plan"][..],
        &["run", "--", "x"],
        &["status"],
        &["wait"],
        &["history"],
        &["doctor"],
        &["unlock", "x"],
        &["recover"],
        &["hold"],
        &["release"],
        &["table", "create"],
        &["table", "policy"],
    ] {
        let args: Vec<_> = [&["tfwrap"], args].concat().iter().map(Into::into).collect();
        let words = tfwrap::cli::parse(&args).expect("a command line").words;
        let typed: Vec<_> =
            args[1..].iter().filter_map(|it: &std::ffi::OsString| it.to_str()).collect();
        assert!(typed.join(" ").starts_with(name_of(&words)), "{args:?}: {words:?}");
        assert_eq!(name_of(&words).is_empty(), typed == ["plan"], "{args:?}");
    }
}
