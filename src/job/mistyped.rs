//! What goes to Terraform and was probably meant for tfwrap. It still goes there: Terraform may know
//! better.

use std::ffi::OsString;

use clap::CommandFactory as _;

use super::{Job, Place};
use crate::cli::{self, Options};
use crate::nearest::nearest;
use crate::terraform::{Invocation, LISTED_COMMANDS, is_known_word};

/// The job of handing it over, with a word on that, unless there is another one already.
pub(super) fn told(mut job: Job, args: &[OsString], call: &Invocation, place: &Place<'_>) -> Job {
    if let Job::Exec { warning: warning @ None, .. } = &mut job
        && place.called_as.is_none()
    {
        *warning = meant_for_us(args, call);
    }
    job
}

fn meant_for_us(args: &[OsString], call: &Invocation) -> Option<String> {
    let args = &args[usize::from(call.chdir().is_some())..];
    match call.command() {
        Some(command) => option(&command.name(), &args[command.words().len()..]),
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
    // Both have these.
    let is_ours = |long: &str| long != "lock" && long != "lock-timeout";
    let longs: Vec<_> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
    let words = args.iter().filter_map(|arg| arg.to_str()).take_while(|arg| *arg != "--");
    let long = words.into_iter().find_map(|word| {
        let (long, value) = word.strip_prefix("--")?.split_once('=').unwrap_or((&word[2..], ""));
        // But a URL is a lock of ours.
        let is_meant = is_ours(long) || (long == "lock" && value.contains("://"));
        (is_meant && longs.contains(&long)).then_some(long)
    })?;
    Some(format!(
        "`--{long}` after `{name}` goes to Terraform; tfwrap's options go before the command: \
         `tfwrap --{long} … {name}`"
    ))
}
