//! What was typed: tfwrap's own options, then the words that are not ours to parse.
//!
//! Everything from the Terraform command on is Terraform's, byte for byte. So the arguments are
//! split before clap sees them, and clap parses our part alone. What is parsed is built when it is
//! needed: a call that is handed over must not wait for the help of all commands.

mod args;
mod documents;
mod refusal;
mod tree;

use std::ffi::{OsStr, OsString};
use std::path::Path;

pub use args::{
    CliCommand, DoctorArgs, Format, HistoryArgs, HistoryFormat, HoldArgs, HoldFormat, PolicyFormat,
    RecoverArgs, ReleaseArgs, RunArgs, StatusArgs, TableArgs, TableCommand, TableCreateArgs,
    TablePolicyArgs, UnlockArgs, WaitArgs,
};
pub use tree::{own_commands, whole_command};

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint};
use documents::Document;

/// tfwrap's options as typed; every value is still text, resolved in [`crate::settings`].
#[derive(Debug, Clone, Default, Parser)]
#[command(
    name = "tfwrap",
    version,
    about = tree::ABOUT,
    override_usage = "tfwrap [OPTIONS] <COMMAND> [ARGS]...\n       tfwrap [OPTIONS] -- <TERRAFORM COMMAND> [ARGS]...",
    disable_help_subcommand = true,
    max_term_width = 100
)]
#[expect(clippy::struct_excessive_bools, reason = "a command line is a set of switches")]
#[expect(clippy::doc_markdown, reason = "the text of `--help`, where variables go bare")]
pub struct Options {
    /// Maximum wait for all locks together, such as `90s` or `1h30m`
    /// [env: TFWRAP_LOCK_TIMEOUT] [default: 30m]
    ///
    /// `0s` tries once. Terraform's own `-lock-timeout=`, after the command, means the same and wins.
    #[arg(long, value_name = "DURATION", value_hint = ValueHint::Other)]
    pub lock_timeout: Option<String>,
    /// An additional lock beside the backend's (repeatable): `s3://BUCKET/KEY.tflock`,
    /// `dynamodb://TABLE/LOCK-ID` or `file:///PATH` [env: TFWRAP_LOCK]
    ///
    /// `?region=`, `&endpoint=` and `&profile=` say what the environment's AWS settings do not. Several
    /// in the variable are separated by spaces. All are acquired in one global order, all or none.
    #[arg(long, value_name = "URL", action = ArgAction::Append, value_hint = ValueHint::Url)]
    pub lock: Vec<String>,
    /// How long without a heartbeat until others may take over the lock, or `never`
    /// [env: TFWRAP_LEASE] [default: 10m in CI, else never]
    ///
    /// At least `15s`. The kernel alone ends the lock of a local state.
    #[arg(long, value_name = "DURATION|never", value_hint = ValueHint::Other)]
    pub lease: Option<String>,
    /// Acquire only the `--lock` ones; Terraform locks its state for itself
    /// [env: TFWRAP_NO_BACKEND_LOCK]
    ///
    /// Without `--lock`: for a backend that locks nothing, run unlocked and say so.
    #[arg(long, hide_short_help = true)]
    pub no_backend_lock: bool,
    /// Compete with backoff instead of waiting in the queue [env: TFWRAP_NO_LINE]
    #[arg(long, hide_short_help = true)]
    pub no_line: bool,
    /// Write no entry into the history of the locks [env: TFWRAP_NO_HISTORY]
    ///
    /// `tfwrap history` shows the entries.
    #[arg(long, hide_short_help = true)]
    pub no_history: bool,
    /// How `plan` is kept from reading half an apply: `exclusive` takes the lock, `optimistic` takes none,
    /// and plans again under the lock if the state changed meanwhile [env: TFWRAP_PLAN_LOCK] [default:
    /// exclusive]
    ///
    /// An optimistic plan waits for whoever writes, and for nobody else; nothing waits for it.
    #[arg(long, value_name = "exclusive|optimistic", hide_short_help = true)]
    pub plan_lock: Option<String>,
    /// What `apply` and `destroy` do when a newer commit or pipeline run was applied already: `run`, `skip`
    /// (exit with 0) or `fail` (with 79) [env: TFWRAP_OUTDATED] [default: run]
    ///
    /// The history of the state's lock tells. Not known counts as not outdated.
    #[arg(long, value_name = "run|skip|fail", hide_short_help = true)]
    pub outdated: Option<String>,
    /// Whether to write a step summary: `auto` on GitHub Actions, `always` wherever `GITHUB_STEP_SUMMARY`
    /// names a file, or `never` [env: TFWRAP_SUMMARY] [default: auto]
    #[arg(long, value_name = "auto|always|never", hide_short_help = true)]
    pub summary: Option<String>,
    /// What to do when the lock is no longer ours: `stop` the child or `warn`
    /// [env: TFWRAP_ON_LOCK_LOST] [default: stop]
    #[arg(long, value_name = "stop|warn", hide_short_help = true, help_heading = END)]
    pub on_lock_lost: Option<String>,
    /// What to do with a second INT or TERM: `hold` keeps it from Terraform, `forward` passes it
    /// on [env: TFWRAP_SECOND_SIGNAL] [default: hold in CI, else forward]
    ///
    /// Terraform takes a second one as "exit at once, data loss may have occurred".
    #[arg(long, value_name = "hold|forward", hide_short_help = true, help_heading = END)]
    pub second_signal: Option<String>,
    /// Kill Terraform's process group this long after its first signal, or `none`
    /// [env: TFWRAP_GRACE] [default: none]
    #[arg(long, value_name = "DURATION|none", value_hint = ValueHint::Other)]
    #[arg(hide_short_help = true, help_heading = END)]
    pub grace: Option<String>,
    /// How long Terraform may take to end after tfwrap was killed; after that, the guardian kills
    /// it [env: TFWRAP_ORPHAN_GRACE] [default: 3m]
    #[arg(long, value_name = "DURATION", value_hint = ValueHint::Other)]
    #[arg(hide_short_help = true, help_heading = END)]
    pub orphan_grace: Option<String>,
    /// Maximum duration of a `hold`; after that, the lock is released once whatever still runs
    /// under it has ended [env: TFWRAP_MAX_HOLD] [default: 6h]
    #[arg(long, value_name = "DURATION", value_hint = ValueHint::Other)]
    #[arg(hide_short_help = true, help_heading = END)]
    pub max_hold: Option<String>,
    /// The Terraform or OpenTofu binary [env: TFWRAP_TERRAFORM] [default: `terraform`, else
    /// `tofu`, on PATH]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::ExecutablePath)]
    pub terraform: Option<OsString>,
    /// Switch to this directory first, like Terraform's `-chdir`
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub chdir: Option<OsString>,
    /// The configuration file [env: TFWRAP_CONFIG] [default: `.tfwrap.yaml`, searched upwards to
    /// the first `.git`]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<OsString>,
    /// Format of tfwrap's own lines on stderr: `text` or `json` [env: TFWRAP_LOG_FORMAT]
    /// [default: text]
    #[arg(long, value_name = "text|json", hide_short_help = true)]
    pub log_format: Option<String>,
    /// Print only warnings and errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Also print what was found and done
    #[arg(short, long)]
    pub verbose: bool,
    /// Colour: `auto`, `always` or `never` [env: NO_COLOR, CLICOLOR_FORCE] [default: auto]
    #[arg(long, value_name = "auto|always|never", hide_short_help = true)]
    pub color: Option<String>,
}

/// The heading of what is about ends.
const END: &str = "Options for stops and losses";

/// The command line, taken apart.
#[derive(Debug, Clone)]
pub struct CommandLine {
    /// Our part.
    pub options: Options,
    /// The rest.
    pub words: CliCommand,
}

/// What a command line is answered with, where it starts nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CliAnswer {
    /// What was asked for: a help, a script, a page; with the escapes of a terminal.
    Asked(String),
    /// A command is missing; this shows which there are.
    Overview(String),
    /// It is wrong.
    Refused {
        /// What is wrong.
        message: String,
        /// What to type instead.
        hint: String,
    },
}

/// Takes the arguments apart; `args` starts with the program's name.
///
/// # Errors
/// What is said of wrong usage, and the answers to `--help`, `help`, `--version`, `completions` and
/// `man`.
pub fn parse(args: &[OsString]) -> Result<CommandLine, CliAnswer> {
    let (program, args) = args
        .split_first()
        .map_or((OsStr::new("tfwrap"), args), |(program, rest)| (program.as_os_str(), rest));
    if is_terraforms_name(program) {
        return Ok(CommandLine {
            options: Options::default(),
            words: CliCommand::Terraform(args.to_vec()),
        });
    }
    if args.is_empty() {
        return Err(tree::overview());
    }
    let command = Options::command();
    let split = split(&command, args);
    let ours = || std::iter::once(OsString::from("tfwrap")).chain(split.ours.iter().cloned());
    let options = command
        .try_get_matches_from(ours())
        .and_then(|matches| Options::from_arg_matches(&matches))
        .map_err(|error| {
            // Again, by the one who knows all commands: that is whose help it is.
            let error = whole_command().try_get_matches_from(ours()).err().unwrap_or(error);
            refusal::of_options(&error, split.ours)
        })?;
    let words = words(&split)?;
    Ok(CommandLine { options, words })
}

/// The `--log-format` of a command line that cannot be taken apart.
#[must_use]
pub fn log_format(args: &[OsString]) -> Option<String> {
    const NAME: &str = "--log-format";
    let at = args.iter().position(|arg| arg.as_encoded_bytes().starts_with(NAME.as_bytes()))?;
    match args[at].to_str()?.strip_prefix(NAME)? {
        "" => args.get(at + 1)?.to_str().map(ToOwned::to_owned),
        value => value.strip_prefix('=').map(ToOwned::to_owned),
    }
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
            || matches!(
                text.as_ref(),
                "-help" | "-version" | "-install-autocomplete" | "-uninstall-autocomplete"
            );
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

fn words(split: &Split<'_>) -> Result<CliCommand, CliAnswer> {
    let Some(first) = split.rest.first() else {
        return Err(CliAnswer::Refused {
            message: "a command is missing".to_owned(),
            hint: "`tfwrap --help` lists commands and options".to_owned(),
        });
    };
    let name = first.to_str().filter(|_| !split.literal).unwrap_or_default();
    if CliCommand::has_subcommand(name) {
        let own = CliCommand::augment_subcommands(clap::Command::new("tfwrap"));
        return parsed(own, split, name);
    }
    if Document::has_subcommand(name) {
        let own = Document::augment_subcommands(clap::Command::new("tfwrap"));
        return Err(parsed::<Document>(own, split, name)?.answer());
    }
    Ok(CliCommand::Terraform(split.rest.to_vec()))
}

/// Parses a command of ours and what follows it.
fn parsed<T: FromArgMatches>(
    own: clap::Command,
    split: &Split<'_>,
    name: &str,
) -> Result<T, CliAnswer> {
    let args = std::iter::once(OsStr::new("tfwrap")).chain(split.rest.iter().map(|it| &**it));
    tree::looks_like_ours(own)
        .try_get_matches_from(args)
        .and_then(|matches| T::from_arg_matches(&matches))
        .map_err(|error| refusal::of_command(&error, name, split.rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(args: &[&str]) -> Result<CommandLine, CliAnswer> {
        parse(&args.iter().map(OsString::from).collect::<Vec<_>>())
    }

    fn is_wrong(args: &[&str]) -> bool {
        !matches!(parse_words(args), Ok(_) | Err(CliAnswer::Asked(_)))
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
        for words in [
            &["-chdir=a b", "plan"][..],
            &["-version"],
            &["-help"],
            &["-install-autocomplete"],
            &["-chdir", "x"],
        ] {
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
            assert_eq!(
                words,
                CliCommand::Run(RunArgs { command: vec!["make".into(), "-k".into()] })
            );
        }
        for args in
            [&["tfwrap", "run"][..], &["tfwrap", "run", "--"], &["tfwrap", "run", "-x", "y"]]
        {
            assert!(is_wrong(args), "{args:?}");
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
            assert!(is_wrong(args), "{args:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_without_its_value() {
        use std::os::unix::ffi::OsStrExt as _;
        let bytes = OsStr::from_bytes(b"5m\xff");
        let args = ["tfwrap", "--lock-timeout", "", "plan"].map(OsString::from);
        let args = args.map(|it| if it.is_empty() { bytes.into() } else { it });
        let said = |args: &[OsString]| match parse(args) {
            Err(CliAnswer::Refused { message, hint }) => format!("{message}; {hint}"),
            other => panic!("{other:?}"),
        };
        assert!(said(&args).starts_with("`--lock-timeout`: `5m\u{fffd}` is not UTF-8"));
        let hint = said(&["tfwrap", "-terraform=hunter2", "plan"].map(OsString::from));
        assert!(
            hint.contains("did you mean `--terraform`?") && !hint.contains("hunter2"),
            "{hint}"
        );
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
            assert!(is_wrong(args), "{args:?}");
        }
        whole_command().debug_assert();
    }
}
