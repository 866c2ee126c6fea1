//! All commands as one: for their help, for completion and for the manual. To parse a command line,
//! it is not needed.

use clap::{Arg, Command, CommandFactory, Subcommand, ValueHint};

use super::{CliAnswer, CliCommand, Document, Options};
use crate::terraform::{LISTED_COMMANDS, ListedCommand, LockCare};

/// What tfwrap is for.
pub(super) const ABOUT: &str = "Runs one Terraform at a time per state: waits for Terraform's own lock, holds \
                                it, always releases it";

/// tfwrap's exit codes and their meanings.
pub(super) const EXIT_CODES: &[(&str, &str)] = &[
    ("1", "`unlock` refused, or a check of `doctor` failed"),
    ("64", "wrong usage"),
    ("69", "the lock store cannot be reached, or does not exist"),
    ("70", "a bug in tfwrap, or a machine that lacks what every run needs"),
    ("74", "the lock was not released; `recover`, `release`: something is left"),
    ("75", "the lock was not acquired in time"),
    ("76", "the lock was lost"),
    ("77", "access denied to the lock store; no credentials, or expired ones"),
    ("78", "the configuration is wrong or incomplete"),
    ("79", "with `--outdated fail`: a newer run was applied already"),
    ("126", "the command cannot be executed"),
    ("127", "the command was not found"),
    ("128+N", "ended by signal N"),
];

/// What precedes tfwrap's own exit codes.
pub(super) const TERRAFORMS_CODE: &str = "Terraform's own code passes through unchanged.";

pub(super) const EXAMPLES: &[&str] = &[
    "tfwrap --lock-timeout 45m apply -auto-approve",
    "tfwrap run -- sh -c 'terraform plan -out=p && terraform apply p'",
    "tfwrap status --watch",
];

const TEMPLATE: &str = "\
{about-with-newline}
{usage-heading} {usage}

{before-help}{all-args}{after-help}";

/// tfwrap with all its commands, and Terraform's (hidden from the list of tfwrap's own).
#[must_use]
pub fn whole_command() -> Command {
    let own = Document::augment_subcommands(CliCommand::augment_subcommands(Options::command()));
    let top = LISTED_COMMANDS.iter().filter(|it| it.words.len() == 1);
    looks_like_ours(own)
        .about(ABOUT)
        .subcommands(top.map(of_terraform))
        .help_template(TEMPLATE)
        .before_help(terraforms())
        .after_help(format!(
            "Examples:\n{}\n`tfwrap help COMMAND` explains a command; `tfwrap --help` lists all options and \
             exit codes.",
            lines(EXAMPLES.iter().copied())
        ))
        .after_long_help(format!(
            "Examples:\n{}\nExit codes: {TERRAFORMS_CODE} tfwrap's own are\n{}\n`tfwrap help COMMAND` explains a \
             command.",
            lines(EXAMPLES.iter().copied()),
            lines(EXIT_CODES.iter().map(|(code, meaning)| format!("{code:>5}  {meaning}")))
        ))
}

/// The rest of how a command of ours looks; clap hands it down.
pub(super) fn looks_like_ours(command: Command) -> Command {
    command.max_term_width(100).disable_help_subcommand(true)
}

/// What there is, for who typed nothing.
pub(super) fn overview() -> CliAnswer {
    CliAnswer::Overview(whole_command().render_help().ansi().to_string())
}

fn lines(of: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    of.into_iter().fold(String::new(), |text, line| format!("{text}  {line}\n"))
}

/// Which of Terraform's commands run under the lock.
pub(super) fn terraforms() -> String {
    let held = LISTED_COMMANDS.iter().filter(|it| it.lock_care() == LockCare::Holds);
    let held: Vec<_> = held.map(|it| it.words.join(" ")).collect();
    format!(
        "COMMAND is one of Terraform's or one of those below. Terraform's {} run under the lock of their \
         state. All others go to Terraform unchanged.",
        held.join(", ")
    )
}

/// A command of Terraform's, with those below it.
fn of_terraform(listed: &ListedCommand) -> Command {
    let name = listed.words.join(" ");
    let is_below = |it: &&ListedCommand| {
        it.words.len() > listed.words.len() && it.words.starts_with(listed.words)
    };
    let below: Vec<_> = LISTED_COMMANDS.iter().filter(is_below).map(of_terraform).collect();
    let held =
        LISTED_COMMANDS.iter().filter(is_below).filter(|it| it.lock_care() == LockCare::Holds);
    let held: Vec<_> = held.map(|it| it.words.join(" ")).collect();
    let care = if held.is_empty() {
        care(&name, listed.lock_care())
    } else {
        format!(
            "Commands of Terraform's. Of these, {} run under the lock of the state. The others go to Terraform \
             unchanged.",
            held.join(", ")
        )
    };
    let args = below.is_empty().then(|| {
        Arg::new("args")
            .value_name("ARGS")
            .num_args(0..)
            .value_hint(ValueHint::AnyPath)
            .help("Terraform's own options and arguments")
    });
    let usage = if below.is_empty() { "[ARGS]..." } else { "<COMMAND> [ARGS]..." };
    clap::Command::new(*listed.words.last().expect("a command has a name"))
        .about(listed.about)
        .override_usage(format!("tfwrap [OPTIONS] {name} {usage}"))
        .after_help(format!("{care}\n\nTerraform's own help:\n  tfwrap {name} -help"))
        .hide(listed.words.len() == 1)
        .disable_help_flag(true)
        .disable_help_subcommand(true)
        .args(args)
        .subcommands(below)
}

/// What tfwrap does with the command.
fn care(name: &str, care: LockCare) -> String {
    match care {
        LockCare::Holds => format!(
            "A command of Terraform's. tfwrap takes the lock of the state, waits for it for up to \
             `--lock-timeout`, runs `terraform {name}` with `-lock=false`, and releases the lock."
        ),
        LockCare::LeavesToTerraform => {
            "A command of Terraform's that takes a lock itself. tfwrap executes Terraform in its own place, \
             and lets it wait for up to `--lock-timeout` if Terraform can."
                .to_owned()
        }
        LockCare::NoLock => "A command of Terraform's that takes no lock. tfwrap executes Terraform in its \
             own place, with these arguments, and does nothing else."
            .to_owned(),
    }
}

/// The names of tfwrap's own commands.
#[must_use]
pub fn own_commands() -> Vec<String> {
    let own = Document::augment_subcommands(CliCommand::augment_subcommands(clap::Command::new(
        "tfwrap",
    )));
    own.get_subcommands().map(|it| it.get_name().to_owned()).collect()
}
