//! A child: what Terraform does, and what signals do to it.

use crate::config::Millis;

/// What a child takes that nobody stops.
const SHORT: Millis = 2_000;
const LONG: Millis = 18_000;

/// What a child takes that heeds its interrupt. The long one does not.
const ENDING: Millis = 1_000;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each can be so without the others")]
pub(crate) struct Body {
    pub(crate) alive: bool,
    pub(crate) frozen: bool,
    pub(crate) interrupted: bool,
    long: bool,
    ends_at: Millis,
}

impl Body {
    pub(crate) fn new(now: Millis, long: bool) -> Self {
        let ends_at = now + if long { LONG } else { SHORT };
        Self { alive: true, frozen: false, interrupted: false, long, ends_at }
    }

    pub(crate) fn acts(&self) -> bool {
        self.alive && !self.frozen
    }

    /// When it ends of its own accord.
    pub(crate) fn wake(&self) -> Option<Millis> {
        self.acts().then_some(self.ends_at)
    }

    /// Time went on for it.
    pub(crate) fn passed(&mut self, now: Millis) {
        self.alive &= self.frozen || self.ends_at > now;
    }

    /// Time went on for all but this machine.
    pub(crate) fn stands_still(&mut self, lasts: Millis) {
        if self.alive {
            self.ends_at += lasts;
        }
    }

    /// A second interrupt would cost it its state.
    pub(crate) fn interrupt(&mut self, now: Millis) -> Result<(), String> {
        if !self.alive {
            return Ok(());
        }
        if std::mem::replace(&mut self.interrupted, true) {
            return Err("a child is interrupted twice".to_owned());
        }
        if !self.long {
            self.ends_at = self.ends_at.min(now + ENDING);
        }
        Ok(())
    }
}
