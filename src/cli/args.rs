//! What follows the commands of ours.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum, ValueHint};

use crate::duration;

/// The end of each command's help.
macro_rules! example {
    ($($line:literal),+) => {
        concat!(
            "Example:\n",
            $("  ", $line, "\n",)+
            "\n`tfwrap --help` has the options that go before the command, and the exit codes."
        )
    };
}
pub(super) use example;

/// The words after the options.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum CliCommand {
    /// Terraform's command line, `-chdir=` included.
    #[command(skip)]
    Terraform(Vec<OsString>),
    /// Run any command under the locks
    ///
    /// `terraform` and `tofu` inside it go through tfwrap and use the locks that are held.
    #[command(
        override_usage = "tfwrap [OPTIONS] run -- <COMMAND> [ARGS]...",
        after_help = example!(
            "tfwrap run -- make deploy",
            "tfwrap run -- sh -c 'terraform plan -out=p && terraform apply p'"
        )
    )]
    Run(RunArgs),
    /// Keep the locks across several commands, until `release`
    ///
    /// Acquires the locks, leaves a keeper behind that renews them, and prints the environment for the
    /// commands that follow.
    #[command(
        override_usage = "tfwrap [OPTIONS] hold [--format shell|github|json]",
        after_help = example!("held=$(tfwrap hold) && eval \"$held\"")
    )]
    Hold(HoldArgs),
    /// Release what `hold` acquired
    ///
    /// Waits until whatever still runs under the locks has ended, for up to `--lock-timeout`. It
    /// interrupts nobody.
    #[command(
        override_usage = "tfwrap [OPTIONS] release [ID]",
        after_help = example!("tfwrap release")
    )]
    Release(ReleaseArgs),
    /// Show who holds the locks, and who waits for them
    ///
    /// Shows the locks of this directory and workspace, with those who wait in their order. It only
    /// reads.
    #[command(
        override_usage = "tfwrap [OPTIONS] status [--all] [--format text|json] [--watch]",
        after_help = example!("tfwrap status --watch")
    )]
    Status(StatusArgs),
    /// Show the last runs, and what share of the last week was waiting
    ///
    /// The last runs that asked for the locks of this directory and workspace: who, what, with which
    /// commit, how long they waited and for whom, how long they held the lock, and how they ended.
    #[command(
        override_usage = "tfwrap [OPTIONS] history [--limit <N>] [--format text|json|mermaid|html]",
        after_help = example!(
            "tfwrap history",
            "tfwrap history --limit 100 --format html > history.html"
        )
    )]
    History(HistoryArgs),
    /// Wait until nobody holds the locks
    ///
    /// Waits for up to `--lock-timeout` (then exits with 75), prints whom it waited for, and acquires
    /// nothing: somebody may take a lock right after it.
    #[command(
        override_usage = "tfwrap [OPTIONS] wait [--line]",
        after_help = example!("tfwrap --lock-timeout 10m wait --line && ./check-drift")
    )]
    Wait(WaitArgs),
    /// Remove the lock of a holder that is gone
    ///
    /// Shows the lock with this ID, watches for a heartbeat, asks, and removes exactly what it showed.
    #[command(
        override_usage = "tfwrap [OPTIONS] unlock <ID> [--yes] [--force]",
        after_help = example!("tfwrap unlock 28e8a6c8-39d1-5a99-58ed-ea0d4970a5f4")
    )]
    Unlock(UnlockArgs),
    /// Release what killed runs left behind
    ///
    /// Looks only at runs of this machine or this CI job. You can call it any number of times.
    #[command(
        override_usage = "tfwrap [OPTIONS] recover [--wait <DURATION>]",
        after_help = example!("tfwrap recover --wait 4m")
    )]
    Recover(RecoverArgs),
    /// Check the way to the lock
    ///
    /// Checks settings, programs, credentials, table or bucket, permissions, conditions, the clock and
    /// leftovers, with what helps beside each failure. It tries the permissions on keys of its own, and
    /// leaves nothing behind.
    #[command(
        override_usage = "tfwrap [OPTIONS] doctor [--format text|json]",
        after_help = example!("tfwrap doctor")
    )]
    Doctor(DoctorArgs),
    /// Create a lock table, or print the policy for its users
    #[command(
        override_usage = "tfwrap [OPTIONS] table create [NAME]\n       tfwrap [OPTIONS] table policy",
        after_help = example!("tfwrap table create", "tfwrap table policy --format terraform"),
        disable_help_subcommand = true
    )]
    Table(TableArgs),
}

/// What follows `run`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct RunArgs {
    /// The command and its arguments; never empty
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_name = "COMMAND",
        value_hint = ValueHint::CommandWithArguments
    )]
    pub command: Vec<OsString>,
}

/// What follows `status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Args)]
pub struct StatusArgs {
    /// Show every lock of the table or bucket that holds this directory's lock, the silent ones first,
    /// then the oldest; needs `dynamodb:Scan`, or `s3:ListBucket`
    #[arg(long)]
    pub all: bool,
    /// Format of the output on stdout
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "text|json",
        hide_possible_values = true
    )]
    pub format: Format,
    /// Poll every 2 s until interrupted (then exit with 0): on a terminal, redraw; elsewhere, print
    /// again when something has changed
    #[arg(long)]
    pub watch: bool,
}

/// What follows `wait`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Args)]
pub struct WaitArgs {
    /// Wait until nobody waits for the locks either
    #[arg(long)]
    pub line: bool,
}

/// What follows `doctor`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Args)]
pub struct DoctorArgs {
    /// Format of the output on stdout
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "text|json",
        hide_possible_values = true
    )]
    pub format: Format,
}

/// What follows `table`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct TableArgs {
    /// Which of the two
    #[command(subcommand)]
    pub command: TableCommand,
}

/// What `table` does.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum TableCommand {
    /// Create the lock table, unless it exists
    ///
    /// On demand, with the string hash key `LockID`; waits until it is active. A table that exists gets
    /// the tags and the protection that you ask for.
    #[command(
        override_usage = "tfwrap [OPTIONS] table create [NAME] [--tag KEY=VALUE]...\n                                        [--deletion-protection]\n                                        [--point-in-time-recovery]",
        after_help = example!(
            "tfwrap table create",
            "tfwrap table create 'locks?region=eu-west-1' --tag team=infra"
        )
    )]
    Create(TableCreateArgs),
    /// Print the least IAM policy for the locks of this directory
    ///
    /// Narrowed to their keys: just what `doctor` tries.
    #[command(
        override_usage = "tfwrap [OPTIONS] table policy [--format json|terraform]",
        after_help = example!("tfwrap table policy --format terraform >policy.tf")
    )]
    Policy(TablePolicyArgs),
}

/// What follows `table create`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct TableCreateArgs {
    /// Its name, with `?region=`, `&endpoint=`, `&profile=` as in `--lock`; else the backend's
    pub name: Option<String>,
    /// Protect it from deletion
    #[arg(long)]
    pub deletion_protection: bool,
    /// Enable point-in-time recovery
    #[arg(long)]
    pub point_in_time_recovery: bool,
    /// Tag it (repeatable)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_tag)]
    pub tag: Vec<(String, String)>,
}

fn parse_tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a tag is `KEY=VALUE`".to_owned()),
    }
}

/// What follows `table policy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Args)]
pub struct TablePolicyArgs {
    /// An IAM document, or a `data "aws_iam_policy_document"` of Terraform's
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "json|terraform",
        hide_possible_values = true
    )]
    pub format: PolicyFormat,
}

/// What a policy looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum PolicyFormat {
    /// A document of IAM.
    #[default]
    Json,
    /// A data source of Terraform's AWS provider.
    Terraform,
}

/// What an answer on stdout looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Lines for people.
    #[default]
    Text,
    /// A JSON document.
    Json,
}

/// What follows `history`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub struct HistoryArgs {
    /// How many runs to show, the last ones; 100 are kept
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: usize,
    /// Format of the output on stdout: `mermaid` is a chart in Markdown, `html` a page with a timeline
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "text|json|mermaid|html",
        hide_possible_values = true
    )]
    pub format: HistoryFormat,
}

/// How `history` shows the runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum HistoryFormat {
    /// Lines for people.
    #[default]
    Text,
    /// A JSON document.
    Json,
    /// Markdown with a chart.
    Mermaid,
    /// A page with a timeline.
    Html,
}

/// What follows `unlock`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct UnlockArgs {
    /// The lock ID, as `tfwrap status` and a Terraform that is locked out print it
    #[arg(value_parser = parse_id)]
    pub id: String,
    /// Do not ask for confirmation
    #[arg(long)]
    pub yes: bool,
    /// Remove the lock even if its holder is alive; that run is interrupted and ends with 76
    #[arg(long)]
    pub force: bool,
}

/// A variable that is not set leaves nothing behind.
fn parse_id(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("it is empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// What follows `recover`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct RecoverArgs {
    /// How long to wait for runs of this CI job that have not ended. They are asked to end. Whatever
    /// is left of their Terraform is killed shortly before the wait is over. Without `--wait`, nobody
    /// is asked or waited for
    #[arg(long, value_name = "DURATION", value_parser = parse_wait, value_hint = ValueHint::Other)]
    pub wait: Option<Duration>,
}

fn parse_wait(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|error| error.to_string())
}

/// What follows `hold`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Args)]
pub struct HoldArgs {
    /// Format of the environment for the later commands: `shell` for
    /// `held=$(tfwrap hold) && eval "$held"`, `github` to write it into the files of GitHub Actions
    /// for the later steps of the job, `json` for programs
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "shell|github|json",
        hide_possible_values = true
    )]
    pub format: HoldFormat,
}

/// How `hold` gives the environment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum HoldFormat {
    /// Commands of a POSIX shell.
    #[default]
    Shell,
    /// Into the files of GitHub Actions.
    Github,
    /// A JSON document.
    Json,
}

/// What follows `release`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct ReleaseArgs {
    /// The lock ID. Without it: the hold whose environment this is, or the holds of this CI job, or
    /// the only hold on this machine
    #[arg(value_parser = parse_id)]
    pub id: Option<String>,
}
