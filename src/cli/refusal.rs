//! What clap says, in the form of tfwrap's own errors: what is wrong, and what was probably meant.

use std::ffi::OsString;

use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::{CliAnswer, Options};
use crate::nearest::nearest;

/// Of the options before the command.
pub(super) fn of_options(error: &clap::Error, typed: &[OsString]) -> CliAnswer {
    let hint = with_one_dash(error, typed, &longs(&Options::command()));
    answer(error, typed, hint, "`tfwrap --help` lists commands and options")
}

/// Of a command of ours, called `name`, with its words.
pub(super) fn of_command(error: &clap::Error, name: &str, words: &[OsString]) -> CliAnswer {
    let wrong = text(error, ContextKind::InvalidArg).unwrap_or_default();
    let long = wrong.trim_start_matches("--");
    let known = longs(&Options::command());
    let hint = match error.kind() {
        ErrorKind::UnknownArgument if known.iter().any(|it| wrong == format!("--{it}")) => {
            Some(format!("tfwrap's options go before the command: `tfwrap --{long} … {name}`"))
        }
        ErrorKind::UnknownArgument if name == "run" => Some(
            "tfwrap's options go before `run`, and the command after `--`: `tfwrap run -- COMMAND`"
                .to_owned(),
        ),
        ErrorKind::UnknownArgument if name == "hold" && !wrong.starts_with('-') => Some(format!(
            "`hold` takes no command; `tfwrap run -- {wrong} …` runs one under the locks"
        )),
        ErrorKind::MissingRequiredArgument | ErrorKind::ValueValidation | ErrorKind::InvalidValue
            if name == "unlock" =>
        {
            Some("`tfwrap status` shows the ID".to_owned())
        }
        ErrorKind::ValueValidation | ErrorKind::InvalidValue if name == "release" => Some(
            "`tfwrap status` shows the ID; without one, `tfwrap release` ends the hold whose environment \
             it has, or the only one"
                .to_owned(),
        ),
        ErrorKind::MissingRequiredArgument if name == "run" => {
            Some("type it after `--`: `tfwrap run -- COMMAND`".to_owned())
        }
        _ => {
            let own = super::whole_command();
            own.find_subcommand(name).and_then(|own| with_one_dash(error, words, &longs(own)))
        }
    };
    let mut said = answer(error, words, hint, &format!("`tfwrap help {name}` explains it"));
    if let (CliAnswer::Refused { message, .. }, Some(ContextValue::Strings(args))) =
        (&mut said, error.get(ContextKind::InvalidArg))
    {
        let args = args.iter().map(|arg| arg.trim_end_matches('.')).collect::<Vec<_>>().join(", ");
        *message = format!("`{name}` needs {args}");
    }
    said
}

/// Of a help that there is not: the last of these words is none of `known`.
pub(super) fn of_no_command(words: &[OsString], known: &[String]) -> CliAnswer {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let (last, above) = words.split_last().expect("one that is not known");
    let meant = nearest(last, known.iter().map(String::as_str))
        .map(|word| format!("did you mean `{}`?", [above, &[word.into()]].concat().join(" ")));
    CliAnswer::Refused {
        message: format!("neither tfwrap nor Terraform has a command `{}`", words.join(" ")),
        hint: joined(meant, "`tfwrap --help` lists the commands"),
    }
}

fn answer(error: &clap::Error, typed: &[OsString], hint: Option<String>, end: &str) -> CliAnswer {
    let said = error.render();
    let message = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return CliAnswer::Asked(said.ansi().to_string());
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return CliAnswer::Overview(said.ansi().to_string());
        }
        ErrorKind::InvalidUtf8 => not_utf8(typed),
        _ => first_lines(&said.to_string()),
    };
    let meant =
        [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand, ContextKind::SuggestedValue];
    let meant = meant.into_iter().find_map(|kind| text(error, kind));
    let hint = hint.or_else(|| meant.map(|word| format!("did you mean `{word}`?")));
    CliAnswer::Refused { message, hint: joined(hint, end) }
}

fn joined(hint: Option<String>, end: &str) -> String {
    match hint {
        Some(hint) if hint.ends_with('?') => format!("{hint} {end}"),
        Some(hint) => format!("{hint}; {end}"),
        None => end.to_owned(),
    }
}

/// What is wrong, without clap's tips and usage.
fn first_lines(said: &str) -> String {
    let lines = said.lines().map(str::trim).take_while(|line| {
        !["Usage:", "For more", "tip:"].iter().any(|start| line.starts_with(start))
    });
    let message = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    message.trim_start_matches("error: ").to_owned()
}

/// The word of this kind; of several the nearest, which clap puts last.
fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => texts.last().cloned(),
        _ => None,
    }
}

fn longs(command: &clap::Command) -> Vec<String> {
    command.get_arguments().filter_map(|arg| arg.get_long()).map(ToOwned::to_owned).collect()
}

/// Whoever comes from Terraform types long options with one dash, which reads as several short ones.
fn with_one_dash(error: &clap::Error, typed: &[OsString], longs: &[String]) -> Option<String> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let wrong = text(error, ContextKind::InvalidArg).filter(|wrong| !wrong.starts_with("--"))?;
    let words = typed.iter().filter_map(|word| word.to_str());
    let word = words.filter(|word| word.len() > 2).find(|word| word.starts_with(&wrong))?;
    // Without its value, which may be a secret.
    let word = word.split('=').next()?;
    let meant = nearest(&word[1..], longs.iter().map(String::as_str))?;
    Some(format!("`{word}` has one dash: did you mean `--{meant}`?"))
}

/// Which of these words cannot be read.
fn not_utf8(typed: &[OsString]) -> String {
    let at = typed.iter().position(|word| word.to_str().is_none());
    let before = at.and_then(|at| typed[..at].last()).and_then(|word| word.to_str());
    match (at, before) {
        (Some(at), Some(option)) if option.starts_with("--") => {
            format!("`{option}`: `{}` is not UTF-8", typed[at].to_string_lossy())
        }
        (Some(at), _) => format!("`{}` is not UTF-8", typed[at].to_string_lossy()),
        (None, _) => "an argument is not UTF-8".to_owned(),
    }
}
