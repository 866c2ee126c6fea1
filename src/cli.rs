//! What was typed: tfwrap's own options, then the words that are not ours to parse.
//!
//! Everything from the Terraform command on is Terraform's, byte for byte. So the arguments are
//! split before clap sees them, and clap parses our part alone.

mod args;

pub use args::{
    DoctorArgs, Format, HoldArgs, HoldFormat, PolicyFormat, RecoverArgs, ReleaseArgs, StatusArgs,
    TableArgs, TableCommand, TableCreateArgs, TablePolicyArgs, UnlockArgs,
};

use args::RunArgs;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser};

/// tfwrap's options as typed; every value is still text, resolved in [`crate::settings`].
#[derive(Debug, Clone, Default, Parser)]
#[command(
    name = "tfwrap",
    version,
    about = "Runs one Terraform at a time per state: waits for Terraform's own lock, holds it, always releases it",
    override_usage = "tfwrap [OPTIONS] <TERRAFORM COMMAND> [ARGS]...\n       tfwrap [OPTIONS] run -- <COMMAND> [ARGS]...\n       tfwrap [OPTIONS] status [--all] [--format text|json] [--watch]\n       tfwrap [OPTIONS] doctor [--format text|json]\n       tfwrap [OPTIONS] unlock <ID> [--yes] [--force]\n       tfwrap [OPTIONS] hold [--format shell|github|json]\n       tfwrap [OPTIONS] release [ID]\n       tfwrap [OPTIONS] recover [--wait <DURATION>]\n       tfwrap [OPTIONS] table create [NAME] [--deletion-protection] [--tag KEY=VALUE]...\n       tfwrap [OPTIONS] table policy [--format json|terraform]\n       tfwrap [OPTIONS] -- <TERRAFORM COMMAND> [ARGS]...",
    after_help = AFTER_HELP,
    disable_help_subcommand = true,
    max_term_width = 100
)]
#[expect(clippy::struct_excessive_bools, reason = "a command line is a set of switches")]
#[expect(clippy::doc_markdown, reason = "the text of `--help`, where variables go bare")]
pub struct Options {
    /// Maximum wait for all locks together, such as `90s` or `1h30m`; `0s` tries once
    /// [env: TFWRAP_LOCK_TIMEOUT] [default: 30m]
    #[arg(long, value_name = "DURATION")]
    pub lock_timeout: Option<String>,
    /// An additional lock beside the backend's (repeatable): `s3://BUCKET/KEY.tflock`,
    /// `dynamodb://TABLE/LOCK-ID` or `file:///PATH`, with `?region=`, `&endpoint=`, `&profile=`
    /// [env: TFWRAP_LOCK]
    #[arg(long, value_name = "URL", action = ArgAction::Append)]
    pub lock: Vec<String>,
    /// Acquire only the `--lock` ones; Terraform locks its state for itself
    /// [env: TFWRAP_NO_BACKEND_LOCK]
    #[arg(long)]
    pub no_backend_lock: bool,
    /// How long without a heartbeat until others may take over the lock, or `never`
    /// [env: TFWRAP_LEASE] [default: 10m in CI, else never]
    #[arg(long, value_name = "DURATION|never")]
    pub lease: Option<String>,
    /// Compete with backoff instead of waiting in the queue [env: TFWRAP_NO_LINE]
    #[arg(long)]
    pub no_line: bool,
    /// What to do when the lock is no longer ours: `stop` the child or `warn`
    /// [env: TFWRAP_ON_LOCK_LOST] [default: stop]
    #[arg(long, value_name = "stop|warn")]
    pub on_lock_lost: Option<String>,
    /// Kill Terraform's process group this long after its first signal, or `none`
    /// [env: TFWRAP_GRACE] [default: none]
    #[arg(long, value_name = "DURATION|none")]
    pub grace: Option<String>,
    /// How long Terraform may take to end after tfwrap was killed; after that, the guardian kills
    /// it [env: TFWRAP_ORPHAN_GRACE] [default: 3m]
    #[arg(long, value_name = "DURATION")]
    pub orphan_grace: Option<String>,
    /// Maximum duration of a `hold`; after that, the lock is released once whatever still runs
    /// under it has ended
    /// [env: TFWRAP_MAX_HOLD] [default: 6h]
    #[arg(long, value_name = "DURATION")]
    pub max_hold: Option<String>,
    /// What to do with a second INT or TERM: `hold` keeps it from Terraform, `forward` passes it
    /// on [env: TFWRAP_SECOND_SIGNAL] [default: hold in CI, else forward]
    #[arg(long, value_name = "hold|forward")]
    pub second_signal: Option<String>,
    /// The Terraform or OpenTofu binary [env: TFWRAP_TERRAFORM] [default: `terraform`, else
    /// `tofu`, on PATH]
    #[arg(long, value_name = "PATH")]
    pub terraform: Option<OsString>,
    /// Switch to this directory first, like Terraform's `-chdir`
    #[arg(long, value_name = "DIR")]
    pub chdir: Option<OsString>,
    /// The configuration file [env: TFWRAP_CONFIG] [default: `.tfwrap.yaml`, searched upwards to
    /// the first `.git`]
    #[arg(long, value_name = "FILE")]
    pub config: Option<OsString>,
    /// Format of tfwrap's own lines on stderr: `text` or `json` [env: TFWRAP_LOG_FORMAT]
    /// [default: text]
    #[arg(long, value_name = "text|json")]
    pub log_format: Option<String>,
    /// Print only warnings and errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Also print what was found and done
    #[arg(short, long)]
    pub verbose: bool,
    /// Colour: `auto`, `always` or `never` [env: NO_COLOR, CLICOLOR_FORCE] [default: auto]
    #[arg(long, value_name = "auto|always|never")]
    pub color: Option<String>,
}

const AFTER_HELP: &str = "\
Commands that take the state lock (plan, apply, destroy, refresh, import, taint, untaint, state mv,
state rm, state push, state replace-provider, workspace delete) run under it. All others go to
Terraform unchanged. `run` holds the lock around any command; `terraform` inside it goes through
tfwrap.

`status` shows who holds the locks and who waits for them. `unlock` removes the lock of a holder
that is gone. `hold` keeps the locks across several commands, until `release`. `recover` releases
what a killed run left behind. `doctor` checks the way to the lock. `table`
creates a lock table, or prints a policy. For details, run `tfwrap status --help` and so on.

Exit codes: Terraform's own, or 1 `unlock` refused or `doctor` failed, 64 usage, 69 lock store
unreachable, 70 bug, 74 lock not released or something left (`recover`, `release`), 75 lock not
acquired in time, 76 lock lost, 77 access denied, 78 configuration, 126 and 127 command not
executable or not found, 128+N ended by signal N.";

/// The words after the options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CliCommand {
    /// Terraform's command line, `-chdir=` included.
    Terraform(Vec<OsString>),
    /// `run -- …`: a command to hold the lock around; never empty.
    Run(Vec<OsString>),
    /// `status`.
    Status(StatusArgs),
    /// `doctor`.
    Doctor(DoctorArgs),
    /// `unlock`.
    Unlock(UnlockArgs),
    /// `recover`.
    Recover(RecoverArgs),
    /// `hold`.
    Hold(HoldArgs),
    /// `release`.
    Release(ReleaseArgs),
    /// `table`.
    Table(TableCommand),
}

/// The command line, taken apart.
#[derive(Debug, Clone)]
pub struct CommandLine {
    /// Our part.
    pub options: Options,
    /// The rest.
    pub words: CliCommand,
}

/// Takes the arguments apart; `args` starts with the program's name.
///
/// # Errors
/// What clap says of wrong usage, and its answers to `--help` and `--version`.
pub fn parse(args: &[OsString]) -> Result<CommandLine, clap::Error> {
    let (program, args) = args
        .split_first()
        .map_or((OsStr::new("tfwrap"), args), |(program, rest)| (program.as_os_str(), rest));
    if is_terraforms_name(program) {
        return Ok(CommandLine {
            options: Options::default(),
            words: CliCommand::Terraform(args.to_vec()),
        });
    }
    let mut command = Options::command();
    let split = split(&command, args);
    let ours = std::iter::once(OsString::from("tfwrap")).chain(split.ours.iter().cloned());
    let matches = command.try_get_matches_from_mut(ours)?;
    let options = Options::from_arg_matches(&matches)?;
    let words = words(&mut command, &split)?;
    Ok(CommandLine { options, words })
}

/// Whether tfwrap is called by a name of Terraform's (a symlink, the shim of `run`).
#[must_use]
pub fn is_terraforms_name(program: &OsStr) -> bool {
    let name = Path::new(program).file_name();
    name.is_some_and(|name| name == "terraform" || name == "tofu")
}

struct Split<'a> {
    ours: &'a [OsString],
    rest: &'a [OsString],
    /// `--` stood between: the rest is Terraform's, whatever its first word.
    literal: bool,
}

/// Finds where our options end: at `--`, at the first word, or at a flag that is Terraform's.
fn split<'a>(command: &clap::Command, args: &'a [OsString]) -> Split<'a> {
    let takes_value = |name: &str| {
        command
            .get_arguments()
            .any(|arg| arg.get_long() == Some(name) && arg.get_action().takes_values())
    };
    let mut at = 0;
    while let Some(word) = args.get(at) {
        let text = word.to_string_lossy();
        if text == "--" {
            return Split { ours: &args[..at], rest: &args[at + 1..], literal: true };
        }
        let terraforms = !text.starts_with('-')
            || text == "-"
            || text.starts_with("-chdir")
            || matches!(text.as_ref(), "-help" | "-version");
        if terraforms {
            break;
        }
        at += 1;
        if text.strip_prefix("--").is_some_and(takes_value) {
            at += 1;
        }
    }
    let at = at.min(args.len());
    Split { ours: &args[..at], rest: &args[at..], literal: false }
}

fn words(command: &mut clap::Command, split: &Split<'_>) -> Result<CliCommand, clap::Error> {
    use clap::error::ErrorKind::{InvalidSubcommand, MissingSubcommand};
    let Some((first, rest)) = split.rest.split_first() else {
        return Err(command.error(MissingSubcommand, "a command is missing"));
    };
    match first.to_str() {
        Some("run") if !split.literal => {}
        Some("status") if !split.literal => {
            return StatusArgs::try_parse_from(split.rest).map(CliCommand::Status);
        }
        Some("doctor") if !split.literal => {
            return DoctorArgs::try_parse_from(split.rest).map(CliCommand::Doctor);
        }
        Some("unlock") if !split.literal => {
            return UnlockArgs::try_parse_from(split.rest).map(CliCommand::Unlock);
        }
        Some("recover") if !split.literal => {
            return RecoverArgs::try_parse_from(split.rest).map(CliCommand::Recover);
        }
        Some("hold") if !split.literal => {
            return HoldArgs::try_parse_from(split.rest).map(CliCommand::Hold);
        }
        Some("table") if !split.literal && rest.is_empty() => {
            return Err(command.error(
                MissingSubcommand,
                "`table` needs one of its commands: `tfwrap table create` or `tfwrap table policy`",
            ));
        }
        Some("table") if !split.literal => {
            return TableArgs::try_parse_from(split.rest).map(|it| CliCommand::Table(it.command));
        }
        Some("release") if !split.literal => {
            return ReleaseArgs::try_parse_from(split.rest).map(CliCommand::Release);
        }
        _ => return Ok(CliCommand::Terraform(split.rest.to_vec())),
    }
    match rest.split_first() {
        Some((word, _)) if word == "--help" || word == "-h" || word == "-help" => {
            RunArgs::try_parse_from(["tfwrap run", "--help"])
                .map(|_| CliCommand::Run(rest.to_vec()))
        }
        Some((word, rest)) if word == "--" && !rest.is_empty() => {
            Ok(CliCommand::Run(rest.to_vec()))
        }
        Some((word, _)) if word != "--" && word.to_string_lossy().starts_with('-') => Err(command
            .error(
                InvalidSubcommand,
                format!(
                    "`{}` after `run`: options go before it, and the command after `--`",
                    word.to_string_lossy()
                ),
            )),
        Some((word, _)) if word != "--" => Ok(CliCommand::Run(rest.to_vec())),
        _ => {
            Err(command.error(MissingSubcommand, "`run` needs a command: `tfwrap run -- COMMAND`"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(args: &[&str]) -> Result<CommandLine, clap::Error> {
        parse(&args.iter().map(OsString::from).collect::<Vec<_>>())
    }

    fn terraform(words: &[&str]) -> CliCommand {
        CliCommand::Terraform(words.iter().map(OsString::from).collect())
    }

    #[test]
    fn everything_from_the_command_on_is_terraforms() {
        let line =
            parse_words(&["tfwrap", "--lock-timeout", "5m", "-q", "apply", "--color=x", "--"]);
        let line = line.unwrap();
        assert_eq!(line.options.lock_timeout.as_deref(), Some("5m"));
        assert!(line.options.quiet);
        assert_eq!(line.words, terraform(&["apply", "--color=x", "--"]));
    }

    #[test]
    fn terraforms_own_leading_flags_begin_its_part() {
        for words in [&["-chdir=a b", "plan"][..], &["-version"], &["-help"], &["-chdir", "x"]] {
            let args: Vec<_> = std::iter::once("tfwrap").chain(words.iter().copied()).collect();
            assert_eq!(parse_words(&args).unwrap().words, terraform(words));
        }
    }

    #[test]
    fn a_double_dash_makes_the_word_terraforms() {
        let line = parse_words(&["tfwrap", "--no-line", "--", "run", "x"]).unwrap();
        assert_eq!(line.words, terraform(&["run", "x"]));
    }

    #[test]
    fn run_takes_a_command_with_or_without_a_double_dash() {
        for args in [&["tfwrap", "run", "--", "make", "-k"][..], &["tfwrap", "run", "make", "-k"]] {
            let words = parse_words(args).unwrap().words;
            assert_eq!(words, CliCommand::Run(vec!["make".into(), "-k".into()]));
        }
        for args in
            [&["tfwrap", "run"][..], &["tfwrap", "run", "--"], &["tfwrap", "run", "-x", "y"]]
        {
            assert!(parse_words(args).unwrap_err().use_stderr(), "{args:?}");
        }
    }

    #[test]
    fn status_and_unlock_are_ours_unless_said_otherwise() {
        let words = |args: &[&str]| parse_words(args).unwrap().words;
        let watch = StatusArgs { all: false, format: Format::Json, watch: true };
        assert_eq!(
            words(&["tfwrap", "-q", "status", "--watch", "--format=json"]),
            CliCommand::Status(watch)
        );
        let unlock = UnlockArgs { id: "1-2".to_owned(), yes: true, force: true };
        assert_eq!(
            words(&["tfwrap", "unlock", "--yes", "1-2", "--force"]),
            CliCommand::Unlock(unlock)
        );
        assert_eq!(words(&["tfwrap", "--", "status"]), terraform(&["status"]));
        assert_eq!(words(&["/x/tofu", "unlock", "1"]), terraform(&["unlock", "1"]));
        for args in [
            &["tfwrap", "status", "x"][..],
            &["tfwrap", "status", "--format", "xml"],
            &["tfwrap", "unlock"],
            &["tfwrap", "unlock", "1", "2"],
        ] {
            assert!(parse_words(args).unwrap_err().use_stderr(), "{args:?}");
        }
        StatusArgs::command().debug_assert();
        UnlockArgs::command().debug_assert();
    }

    #[test]
    fn under_terraforms_name_every_argument_is_terraforms() {
        let line = parse_words(&["/x/terraform", "--lock-timeout", "run"]).unwrap();
        assert_eq!(line.words, terraform(&["--lock-timeout", "run"]));
    }

    #[test]
    fn wrong_usage_is_refused() {
        for args in [
            &["tfwrap"][..],
            &["tfwrap", "--lok-timeout", "5m", "apply"],
            &["tfwrap", "--lock-timeout"],
            &["tfwrap", "-q", "-v", "apply"],
        ] {
            assert!(parse_words(args).unwrap_err().use_stderr(), "{args:?}");
        }
        Options::command().debug_assert();
    }
}
