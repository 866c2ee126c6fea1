//! What every request to a store needs first: credentials. Getting them may take as long as a person
//! needs to log in; no limit of a request counts meanwhile, and a signal ends it at once.

use std::sync::Arc;
use std::time::Duration;

use super::event_loop::{EventLoop, LoopEvent};
use super::store_requests::{StoreReply, StoreRequest};
use crate::clock::uptime;
use crate::error::Error;
use crate::report::Notice;
use crate::store::Registers;
use crate::target::LockTarget;

/// How long nothing is said of it.
const SILENT: Duration = Duration::from_secs(5);

/// Gets them, and says whose they are, and whose are long in coming.
pub(super) async fn prepare(
    event_loop: &mut EventLoop,
    target: &LockTarget,
    store: &Arc<dyn Registers>,
) -> Result<(), Error> {
    event_loop.send(StoreRequest::Prepare(store.clone()));
    let whose = store.credentials();
    let mut silent_until = Some(uptime().plus(SILENT));
    let prepared = loop {
        match event_loop.idle(silent_until).await {
            Ok(LoopEvent::Reply(StoreReply::Prepared(prepared))) => break prepared,
            Ok(LoopEvent::Due) => {
                silent_until = None;
                if let Some(whose) = &whose {
                    let message = format!("waiting for AWS credentials: {whose}");
                    event_loop.say(Notice::Note { message });
                }
            }
            Ok(_) => {}
            Err(error) => {
                event_loop.abandon();
                return Err(error);
            }
        }
    };
    match prepared {
        Ok(()) => {
            if let Some(whose) = whose {
                event_loop.say(Notice::Detail { message: format!("credentials: {whose}") });
            }
            Ok(())
        }
        // Whoever sends the requests tries again, for as long as it is ready to.
        Err(error) if error.is_transient() => Ok(()),
        Err(source) => Err(Error::Store { lock: target.url(), source }),
    }
}
