//! What goes to Terraform and was probably meant for tfwrap. It still goes there: Terraform may know
//! better.

use std::ffi::OsString;

use clap::CommandFactory as _;

use super::{Job, Place};
use crate::cli::{self, Options};
use crate::nearest::nearest;
use crate::terraform::{Invocation, LISTED_COMMANDS, ListedCommand, is_known_word};

/// Our options that are Terraform's, too: of all commands (`-v` is `-version`), or of one.
const OF_BOTH: [(&str, &str); 5] =
    [("", "lock"), ("", "lock-timeout"), ("", "v"), ("import", "config"), ("test", "verbose")];

/// The job of handing it over, with a word on that, unless there is another one already.
pub(super) fn told(mut job: Job, args: &[OsString], call: &Invocation, place: &Place<'_>) -> Job {
    if let Job::Exec { warning: warning @ None, .. } = &mut job {
        *warning = meant_for_us(args, call, place);
    }
    job
}

/// The word on that, if there is any. Called by Terraform's name, tfwrap has no commands and options.
pub(super) fn meant_for_us(
    args: &[OsString],
    call: &Invocation,
    place: &Place<'_>,
) -> Option<String> {
    if place.called_as.is_some() {
        return None;
    }
    let args = &args[usize::from(call.chdir().is_some())..];
    if let Some(command) = call.command() {
        return option(&command.name(), &args[command.words().len()..]);
    }
    // One that locks nothing is known by its words alone.
    let is_it = |it: &&ListedCommand| {
        args.len() >= it.words.len() && args.iter().zip(it.words).all(|(arg, word)| arg == word)
    };
    match LISTED_COMMANDS.iter().filter(is_it).max_by_key(|it| it.words.len()) {
        Some(it) => option(&it.words.join(" "), &args[it.words.len()..]),
        None => command(args.first()?.to_str()?),
    }
}

/// A word that nobody knows and that is most like a command of ours.
fn command(word: &str) -> Option<String> {
    if is_known_word(word.as_ref()) || word.starts_with('-') {
        return None;
    }
    let own = cli::own_commands();
    if own.iter().any(|it| it == word) {
        return Some(format!(
            "`{word}` after `-chdir` or `--` goes to Terraform; tfwrap's own command takes `--chdir` \
             before it: `tfwrap --chdir DIR {word}`"
        ));
    }
    let known = own.iter().map(String::as_str);
    let meant = nearest(word, known.chain(LISTED_COMMANDS.iter().map(|it| it.words[0])))?;
    own.iter().any(|it| it == meant).then(|| {
        format!("`{word}` is no command of tfwrap's, so Terraform gets it; did you mean `tfwrap {meant}`?")
    })
}

/// An option of ours behind a command that Terraform will refuse for it.
fn option(name: &str, args: &[OsString]) -> Option<String> {
    let command = Options::command();
    let is_terraforms = |long: &str| {
        OF_BOTH.iter().any(|(of, flag)| *flag == long && (of.is_empty() || *of == name))
    };
    let words: Vec<_> = args
        .iter()
        .map(|arg| arg.to_str().unwrap_or_default())
        .take_while(|it| *it != "--")
        .collect();
    let (typed, ours) = words.iter().enumerate().find_map(|(index, word)| {
        // Go takes one dash and two for the same.
        let body = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
        let next = || words.get(index + 1).copied().unwrap_or_default();
        let (flag, value) = body.split_once('=').unwrap_or_else(|| (body, next()));
        // But a URL is a lock of ours.
        let is_meant = !is_terraforms(flag) || (flag == "lock" && value.contains("://"));
        let is_it = |arg: &&clap::Arg| {
            let short = arg.get_short().map(String::from);
            arg.get_long() == Some(flag) || short.as_deref() == Some(flag)
        };
        let ours = command.get_arguments().find(is_it).filter(|_| is_meant)?;
        Some((word.split('=').next().unwrap_or(word), ours))
    })?;
    let long = ours.get_long()?;
    // The value may be a secret.
    let value = if ours.get_action().takes_values() { " …" } else { "" };
    Some(format!(
        "`{typed}` after `{name}` goes to Terraform; tfwrap's options go before the command: \
         `tfwrap --{long}{value} {name}`"
    ))
}
