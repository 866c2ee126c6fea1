//! Permission to end what a dead run left behind. One process has it at a time: two would interrupt
//! the child twice.

use std::time::Duration;

use crate::clock::uptime;
use crate::duration;
use crate::error::Error;
use crate::lock::Uptime;
use crate::receipt::{Acting, ReceiptFile};
use crate::report::Notice;
use crate::run::EventLoop;

const LOOK: Duration = Duration::from_millis(100);

/// Whether there is leave.
#[derive(Debug)]
pub(crate) enum Leave {
    /// It is ours while this is kept; without anything where no file can be locked.
    Ours(#[expect(dead_code, reason = "it is ours while this is kept")] Option<Acting>),
    /// Somebody else has it still.
    Theirs,
}

/// Takes it; whoever has it is waited for until then. The receipt is to be read anew after that.
pub(crate) async fn take_leave(
    event_loop: &mut EventLoop,
    file: &ReceiptFile,
    until: Uptime,
) -> Result<Leave, Error> {
    let mut said = false;
    loop {
        match file.act() {
            Ok(Some(acting)) => return Ok(Leave::Ours(Some(acting))),
            Err(_) => return Ok(Leave::Ours(None)),
            Ok(None) => {}
        }
        let left = until.since(uptime());
        if left.is_zero() {
            return Ok(Leave::Theirs);
        }
        if !std::mem::replace(&mut said, true) {
            let left = duration::format(left);
            let message =
                format!("another process is ending this run: waiting for it, up to {left}");
            event_loop.say(Notice::Note { message });
        }
        event_loop.pause(uptime().plus(LOOK).min(until)).await?;
    }
}
