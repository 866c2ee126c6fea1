//! `--help` of every command.

use std::collections::BTreeMap;

use clap::CommandFactory as _;
use tfwrap::cli::{CliCommand, Options, TableCommand};

use crate::{agreed, typed};

/// Our commands, as the usage lists them.
fn commands() -> Vec<String> {
    let usage = Options::command().render_usage().to_string();
    let words = usage.lines().filter_map(|line| line.split("tfwrap [OPTIONS] ").nth(1));
    let is_plain = |word: &&str| word.bytes().all(|c| c.is_ascii_lowercase());
    let names = words
        .map(|words| words.split_whitespace().take_while(is_plain).collect::<Vec<_>>().join(" "));
    names.filter(|name| !name.is_empty()).collect()
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
        CliCommand::Table(TableCommand::Create(_)) => Some("table create"),
        CliCommand::Table(TableCommand::Policy(_)) => Some("table policy"),
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
        let before: Vec<&str> = command.iter().flat_map(|it| it.split(' ')).collect();
        let [long, short] =
            ["--help", "-h"].map(|flag| answer(&[before.as_slice(), &[flag]].concat()));
        let name = command.as_deref().unwrap_or("tfwrap").replace(' ', "-");
        if short != long {
            texts.insert(format!("{name}-short"), short);
        }
        texts.insert(name, long);
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
        &["tfwrap", "table", "create"],
        &["tfwrap", "table", "policy"],
    ] {
        let args: Vec<_> = args.iter().map(Into::into).collect();
        let command = command_of(&tfwrap::cli::parse(&args).expect("a command line").words);
        assert!(command.is_none_or(|it| listed.iter().any(|listed| listed == it)), "{command:?}");
    }
    assert_eq!(listed.len(), 9, "each is parsed above: {listed:?}");
}
