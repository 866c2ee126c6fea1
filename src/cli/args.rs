//! What follows the commands of ours.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::duration;

/// What follows `run`; only for its help, since the command is not ours to parse.
#[derive(Debug, Parser)]
#[command(
    name = "tfwrap run",
    about = "Runs any command under the locks; `terraform` and `tofu` inside it go through tfwrap and \
             use the locks that are held",
    override_usage = "tfwrap [OPTIONS] run -- <COMMAND> [ARGS]..."
)]
pub(super) struct RunArgs {
    /// The command and its arguments, such as `make deploy`, or `sh -c 'terraform plan -out=p &&
    /// terraform apply p'`
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<std::ffi::OsString>,
}

/// What follows `status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Parser)]
#[command(
    name = "tfwrap status",
    about = "Shows who holds the locks of this directory, and who waits for them in which order",
    override_usage = "tfwrap [OPTIONS] status [--all] [--format text|json] [--watch]"
)]
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

/// What follows `doctor`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Parser)]
#[command(
    name = "tfwrap doctor",
    about = "Checks the way to the lock, with what helps beside each failure: settings, programs, \
             credentials, table or bucket, permissions, conditions, the clock, leftovers. It tries the \
             permissions on keys of its own, and leaves nothing behind",
    override_usage = "tfwrap [OPTIONS] doctor [--format text|json]"
)]
pub struct DoctorArgs {
    /// How it looks on stdout
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
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(
    name = "tfwrap table",
    about = "Makes a lock table in DynamoDB, or prints the policy that its users need",
    override_usage = "tfwrap [OPTIONS] table create [NAME] [--deletion-protection] [--tag KEY=VALUE]...\n       tfwrap [OPTIONS] table policy [--format json|terraform]",
    disable_help_subcommand = true
)]
pub struct TableArgs {
    /// Which of the two
    #[command(subcommand)]
    pub command: TableCommand,
}

/// What `table` does.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum TableCommand {
    /// Makes the lock table, unless it is there: on demand, with the string hash key `LockID`; waits
    /// until it is active
    #[command(
        override_usage = "tfwrap [OPTIONS] table create [NAME] [--deletion-protection] [--tag KEY=VALUE]..."
    )]
    Create(TableCreateArgs),
    /// Prints the least policy of IAM with which the locks of this directory can be taken, narrowed to
    /// their keys: just what `doctor` tries
    #[command(override_usage = "tfwrap [OPTIONS] table policy [--format json|terraform]")]
    Policy(TablePolicyArgs),
}

/// What follows `table create`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct TableCreateArgs {
    /// Its name, with `?region=`, `&endpoint=`, `&profile=` as in `--lock`; else the backend's
    pub name: Option<String>,
    /// Nobody can delete it until that is taken back
    #[arg(long)]
    pub deletion_protection: bool,
    /// Its past can be restored
    #[arg(long)]
    pub point_in_time_recovery: bool,
    /// A tag of it (repeatable)
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
    /// As a document of IAM, or as `data "aws_iam_policy_document"`
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

/// What follows `unlock`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Parser)]
#[command(
    name = "tfwrap unlock",
    about = "Removes the lock with this ID, if its holder sends no heartbeat",
    override_usage = "tfwrap [OPTIONS] unlock <ID> [--yes] [--force]"
)]
pub struct UnlockArgs {
    /// The lock ID, as `tfwrap status` and a Terraform that is locked out print it
    pub id: String,
    /// Do not ask for confirmation
    #[arg(long)]
    pub yes: bool,
    /// Remove the lock even if its holder is alive; that run is interrupted and ends with 76
    #[arg(long)]
    pub force: bool,
}

/// What follows `recover`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Parser)]
#[command(
    name = "tfwrap recover",
    about = "Releases what killed runs of this machine or this CI job left behind",
    override_usage = "tfwrap [OPTIONS] recover [--wait <DURATION>]"
)]
pub struct RecoverArgs {
    /// How long to wait for runs of this CI job that have not ended. They are asked to end. Whatever
    /// is left of their Terraform is killed shortly before the wait is over. Without `--wait`, nobody
    /// is asked or waited for
    #[arg(long, value_name = "DURATION", value_parser = parse_wait)]
    pub wait: Option<Duration>,
}

fn parse_wait(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|error| error.to_string())
}

/// What follows `hold`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Parser)]
#[command(
    name = "tfwrap hold",
    about = "Acquires the locks and leaves a keeper behind, so that several commands can run under them",
    override_usage = "tfwrap [OPTIONS] hold [--format shell|github|json]"
)]
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Parser)]
#[command(
    name = "tfwrap release",
    about = "Releases what `tfwrap hold` acquired, once whatever still runs under it has ended",
    override_usage = "tfwrap [OPTIONS] release [ID]"
)]
pub struct ReleaseArgs {
    /// The lock ID. Without it: the hold whose environment this is, or the holds of this CI job, or
    /// the only hold on this machine
    pub id: Option<String>,
}
