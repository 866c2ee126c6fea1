//! What every request to a store needs first: credentials. Getting them may take as long as a person
//! needs to log in; no limit of a request counts meanwhile, and a signal ends it at once.

use std::sync::Arc;

use super::shell::{Happening, Reply, Request, Shell};
use crate::error::Error;
use crate::report::Notice;
use crate::store::Registers;
use crate::target::LockTarget;

/// Gets them, and says whose they are.
pub(super) async fn prepare(
    shell: &mut Shell,
    target: &LockTarget,
    store: &Arc<dyn Registers>,
) -> Result<(), Error> {
    shell.send(Request::Prepare(store.clone()));
    let prepared = loop {
        match shell.next(None, None).await {
            Happening::Reply(Reply::Prepared(prepared)) => break prepared,
            other => {
                if let Err(error) = super::heed(shell, &other) {
                    shell.abandon();
                    return Err(error);
                }
            }
        }
    };
    match prepared {
        Ok(None) => Ok(()),
        Ok(Some(whose)) => {
            shell.say(Notice::Detail { message: format!("credentials: {whose}") });
            Ok(())
        }
        // Whoever sends the requests tries again, for as long as it is ready to.
        Err(error) if error.is_transient() => Ok(()),
        Err(source) => Err(Error::Store { lock: target.url(), source }),
    }
}
