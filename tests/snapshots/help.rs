//! `--help` of every command.

use std::collections::BTreeMap;

use clap::CommandFactory as _;
use tfwrap::cli::{CliCommand, Options};

use crate::{agreed, typed};

/// Our commands, as the usage lists them.
fn commands() -> Vec<String> {
    let usage = Options::command().render_usage().to_string();
    let words = usage.lines().filter_map(|line| line.split("tfwrap [OPTIONS] ").nth(1));
    let first = words.filter_map(|words| words.split_whitespace().next());
    first.filter(|word| word.starts_with(char::is_alphabetic)).map(str::to_owned).collect()
}

/// No wildcard: a new command does not compile until someone has been here, and the test below
/// wants it in the usage.
fn command_of(words: &CliCommand) -> Option<&'static str> {
    match words {
        CliCommand::Terraform(_) => None,
        CliCommand::Run(_) => Some("run"),
        CliCommand::Status(_) => Some("status"),
        CliCommand::Doctor(_) => Some("doctor"),
        CliCommand::Unlock(_) => Some("unlock"),
        CliCommand::Recover(_) => Some("recover"),
        CliCommand::Hold(_) => Some("hold"),
        CliCommand::Release(_) => Some("release"),
    }
}

#[test]
fn every_commands_help_is_as_agreed() {
    let dir = tempfile::tempdir().expect("a directory");
    let answer = |args: &[&str]| {
        let (stdout, stderr, code) = typed(dir.path(), args, &[]);
        assert_eq!((stderr.as_str(), code), ("", Some(0)), "{args:?}");
        assert!(!stdout.contains('\u{1b}'), "no colour");
        let wide = stdout.lines().find(|line| line.chars().count() > 100);
        assert_eq!(wide, None, "{args:?}");
        stdout
    };
    let mut texts = BTreeMap::new();
    let mut all = vec![None];
    all.extend(commands().into_iter().map(Some));
    for command in all {
        let before: Vec<&str> = command.as_deref().into_iter().collect();
        let [long, short] =
            ["--help", "-h"].map(|flag| answer(&[before.as_slice(), &[flag]].concat()));
        let name = command.as_deref().unwrap_or("tfwrap");
        if short != long {
            texts.insert(format!("{name}-short"), short);
        }
        texts.insert(name.to_owned(), long);
    }
    agreed("help", &texts);
}

#[test]
fn the_usage_lists_every_command() {
    let listed = commands();
    for args in [
        &["tfwrap", "plan"][..],
        &["tfwrap", "run", "--", "x"],
        &["tfwrap", "status"],
        &["tfwrap", "doctor"],
        &["tfwrap", "unlock", "x"],
        &["tfwrap", "recover"],
        &["tfwrap", "hold"],
        &["tfwrap", "release"],
    ] {
        let args: Vec<_> = args.iter().map(Into::into).collect();
        let command = command_of(&tfwrap::cli::parse(&args).expect("a command line").words);
        assert!(command.is_none_or(|it| listed.iter().any(|listed| listed == it)), "{command:?}");
    }
    assert_eq!(listed.len(), 7, "each is parsed above: {listed:?}");
}
