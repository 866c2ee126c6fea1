//! `tfwrap history`: the last runs that asked for the locks.

use std::io::ErrorKind;

use super::Opened;
use crate::cli::{HistoryArgs, HistoryFormat};
use crate::clock::wall;
use crate::error::Error;
use crate::lock::history::{self, History};
use crate::report::{
    LockHistory, Notice, answer, histories_as_html, histories_as_json, histories_as_mermaid,
    histories_as_text,
};
use crate::run::EventLoop;
use crate::run::store_requests::{self, LockRegister};
use crate::supervise::take_name_of_onlooker;
use crate::target::LockTarget;

/// Reads each history and prints them.
pub(crate) async fn run(
    event_loop: &mut EventLoop,
    targets: &[LockTarget],
    args: HistoryArgs,
) -> Result<(), Error> {
    take_name_of_onlooker();
    // Of a pair the second half.
    let locks = LockTarget::locks(targets).filter_map(<[LockTarget]>::last);
    let (locks, without): (Vec<_>, Vec<_>) = locks.partition(|target| target.has_history());
    for target in &without {
        event_loop
            .reporter
            .say(Notice::Detail { message: format!("`{}` has no history", target.url()) });
    }
    if locks.is_empty() {
        return Err(none(&without));
    }
    let mut histories = Vec::new();
    for target in locks {
        let lock = Opened::one(target).await?;
        let (store, lock_key) = lock.line;
        let register = LockRegister { lock: target.url(), store, key: history::key(&lock_key) };
        let stored = store_requests::read(event_loop, &register, store_requests::PATIENCE).await?;
        let history =
            History::of(stored.as_ref().map(|it| &it.record)).map_err(|why| Error::Config {
                message: format!("the history of `{}` cannot be read: {why}", register.lock),
                hint: None,
            })?;
        histories.push(LockHistory::new(register.lock, &history));
    }
    let (limit, now) = (args.limit, wall());
    let text = match args.format {
        HistoryFormat::Text => histories_as_text(&histories, limit, now),
        HistoryFormat::Json => histories_as_json(&histories, limit, now),
        HistoryFormat::Mermaid => histories_as_mermaid(&histories, limit, now),
        HistoryFormat::Html => histories_as_html(&histories, limit, now),
    };
    match answer(&text) {
        // Who has read enough (`tfwrap history | head -1`) closes the pipe.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Error::Config {
            message: format!("the answer cannot be written to stdout: {error}"),
            hint: None,
        }),
        _ => Ok(()),
    }
}

/// The error where no lock has one.
fn none(locks: &[&LockTarget]) -> Error {
    let names: Vec<_> = locks.iter().map(|target| format!("`{}`", target.url())).collect();
    let message = match &names[..] {
        [] => "there is no lock here, and so no history".to_owned(),
        names => format!("no history is kept of {}", names.join(" and ")),
    };
    let hint = "locks in DynamoDB, in S3 and in files of `--lock` have a history; one of a local state would be \
                left in its directory";
    Error::Config { message, hint: Some(hint.to_owned()) }
}
