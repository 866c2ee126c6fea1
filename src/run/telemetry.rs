//! Sends the spans of a run when everything else is done, beside its history. Whatever comes of it is said with
//! `-v`, and changes nothing.

use jiff::Timestamp;

use super::context::Context;
use super::event_loop::EventLoop;
use super::history::{BOUND, End};
use crate::job::LockedJob;
use crate::lock::{Holder, Uptime};
use crate::report::{Notice, operation_words};
use crate::store::post_json;
use crate::target::LockTarget;
use crate::telemetry::TracedRun;

/// When a run did what.
pub(super) struct RunTimes {
    pub(super) started: Uptime,
    /// The same by the wall clock; all other times are counted from it.
    pub(super) asked: Timestamp,
    /// When it had all its locks.
    pub(super) granted: Option<Uptime>,
    /// When their release began.
    pub(super) ended: Uptime,
    pub(super) end: End,
}

/// Sends the spans of this run, if it has any. Why they were not taken, in words.
pub(super) async fn send(
    job: &LockedJob,
    context: &Context,
    run: &RunTimes,
    holder: Option<&Holder>,
) -> Option<String> {
    let telemetry = context.telemetry.as_ref().filter(|_| cfg!(feature = "otel"))?;
    let at = |time: Uptime| run.asked + time.since(run.started);
    let waited_for = holder.and_then(Holder::info).map(|info| {
        let operation = operation_words(&info.operation);
        format!("{} ({operation})", info.who)
    });
    let document = telemetry.document(&TracedRun {
        locks: job.targets.iter().map(LockTarget::url).collect(),
        operation: operation_words(&job.operation),
        asked: run.asked,
        granted: run.granted.map(at),
        ended: at(run.ended),
        released: at(run.end.over),
        waited_for,
        outcome: run.end.outcome,
        code: run.end.code,
    });
    let (to, headers) = (telemetry.endpoint(), telemetry.headers());
    let sent = post_json(to, headers, document, (&context.env, &job.dir));
    let why = match tokio::time::timeout(BOUND, sent).await {
        Ok(Ok(())) => return None,
        Ok(Err(why)) => why,
        Err(_) => format!("no answer within {BOUND:?}"),
    };
    Some(format!("the spans of this run were not sent to `{}`: {why}", telemetry.shown()))
}

/// Says why they were not sent, if so.
pub(super) fn say(event_loop: &EventLoop, unsent: Option<String>) {
    if let Some(message) = unsent {
        event_loop.say(Notice::Detail { message });
    }
}
