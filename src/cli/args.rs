//! What follows the commands of ours.

use std::time::Duration;

use clap::{Parser, ValueEnum};

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
