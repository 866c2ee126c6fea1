//! What every request for a lock needs first: credentials, and a store that can hold a lock.
//! Getting credentials may take as long as a person needs to log in. Meanwhile no request limit
//! applies, and a signal ends the wait at once.

use std::sync::Arc;
use std::time::Duration;

use super::event_loop::{EventLoop, LoopEvent};
use super::messages::{answers_again, out_of_reach};
use super::outage::{Access, Outage};
use super::request::{StoreReply, StoreRequest};
use crate::clock::uptime;
use crate::error::Error;
use crate::report::Notice;
use crate::store::{Conditions, Registers, StoreError};
use crate::target::LockTarget;

/// How long nothing is said of it.
const SILENT: Duration = Duration::from_secs(5);

/// Gets them, and says whose they are, and whose are long in coming. Returns how the store answered meanwhile.
pub(super) async fn prepare(
    event_loop: &mut EventLoop,
    target: &LockTarget,
    store: &Arc<dyn Registers>,
) -> Result<Outage, Error> {
    let mut outage = Outage::default();
    let mut prepared = get(event_loop, store).await?;
    if prepared.is_ok() && store.conditions() == Conditions::Untried {
        prepared = try_conditions(event_loop, target, store, &mut outage).await?;
    }
    found(target, prepared)?;
    Ok(outage)
}

/// The same for a mere look: gets the credentials.
pub(super) async fn credentials(
    event_loop: &mut EventLoop,
    target: &LockTarget,
    store: &Arc<dyn Registers>,
) -> Result<(), Error> {
    let prepared = get(event_loop, store).await?;
    found(target, prepared)
}

async fn get(
    event_loop: &mut EventLoop,
    store: &Arc<dyn Registers>,
) -> Result<Result<(), StoreError>, Error> {
    let whose = store.credentials();
    let waiting = whose.as_ref().map(|whose| format!("waiting for AWS credentials: {whose}"));
    let prepared = answer(event_loop, StoreRequest::Prepare(store.clone()), waiting).await?;
    if let (Ok(()), Some(whose)) = (&prepared, whose) {
        event_loop.say(Notice::Detail { message: format!("credentials: {whose}") });
    }
    Ok(prepared)
}

fn found(target: &LockTarget, prepared: Result<(), StoreError>) -> Result<(), Error> {
    match prepared {
        Ok(()) => Ok(()),
        // Whoever sends the requests tries again, for as long as it is ready to.
        Err(error) if error.is_transient() => Ok(()),
        Err(source) => Err(Error::Store { lock: target.url(), source }),
    }
}

/// What comes of it, with a word if the store is long in answering.
async fn try_conditions(
    event_loop: &mut EventLoop,
    target: &LockTarget,
    store: &Arc<dyn Registers>,
    outage: &mut Outage,
) -> Result<Result<(), StoreError>, Error> {
    event_loop.send(StoreRequest::TryConditions(store.clone()));
    outage.asked(uptime(), Access::Write);
    loop {
        match event_loop.idle(outage.deadline()).await {
            Ok(LoopEvent::Reply(StoreReply::Prepared(tried))) => {
                let error = tried.as_ref().err();
                if let Some(lasted) = outage.answered(uptime(), Access::Write, error) {
                    event_loop.say(answers_again(&target.url(), lasted));
                }
                return Ok(tried);
            }
            Ok(_) if outage.is_due(uptime()) => event_loop.say(out_of_reach(&target.url(), None)),
            Ok(_) => {}
            Err(error) => {
                event_loop.abandon();
                return Err(error);
            }
        }
    }
}

/// What comes of it, with a word if that is long in coming.
async fn answer(
    event_loop: &mut EventLoop,
    request: StoreRequest,
    waiting: Option<String>,
) -> Result<Result<(), StoreError>, Error> {
    event_loop.send(request);
    let mut silent_until = Some(uptime().plus(SILENT));
    loop {
        match event_loop.idle(silent_until).await {
            Ok(LoopEvent::Reply(StoreReply::Prepared(prepared))) => return Ok(prepared),
            Ok(LoopEvent::Due) => {
                silent_until = None;
                if let Some(message) = &waiting {
                    event_loop.say(Notice::Note { message: message.clone() });
                }
            }
            Ok(_) => {}
            Err(error) => {
                event_loop.abandon();
                return Err(error);
            }
        }
    }
}
