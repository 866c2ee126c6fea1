//! A lock that is two registers: which of them is meant by what a store says, and which may be left.

use super::super::event_loop::EventLoop;
use super::super::messages::{apart, half_taken, not_given_back, took_over};
use super::{Attempt, Register};
use crate::lock::pair::{Findings, FirstHalf, Half};
use crate::lock::register::{Record, Reply, WriteReply};
use crate::target::LockTarget;

/// What is known of the two halves of a pair.
#[derive(Default)]
pub(super) struct Halves {
    apart: Apart,
    /// Which one an error or a refusal came from last.
    from: Option<Half>,
    /// How many writes were not answered, nor found, that may get our record there.
    open: [u32; 2],
    /// What became of the first, as far as that is known.
    first: Option<FirstHalf>,
}

/// Two others that hold one half each.
#[derive(Default)]
enum Apart {
    #[default]
    No,
    /// By what is in both.
    Seen([Option<String>; 2]),
    Said,
}

impl Attempt {
    /// Those that a write may get our record into which was not answered.
    pub(super) fn open_halves(&self) -> impl Iterator<Item = &Register> {
        // Of a lock that is one register, it is that one.
        let [first, last] = self.halves.open.map(|count| count > 0);
        let last = last || self.first.is_none();
        let first = self.first.iter().filter(move |_| first);
        first.chain([&self.last].into_iter().filter(move |_| last))
    }

    /// Whether our record stands there and could not be given back, although the lock is not ours.
    pub(super) fn is_kept(&self, half: &Register) -> bool {
        matches!(self.halves.first, Some(FirstHalf::Kept(_)))
            && self.first.as_ref().is_some_and(|it| std::ptr::eq(it, half))
    }

    /// Where what the store said last comes from.
    pub(super) fn answered_by(&self) -> &LockTarget {
        match (&self.first, self.halves.from) {
            (Some(first), Some(Half::First)) => &first.target,
            _ => &self.last.target,
        }
    }

    /// Says that half a lock is left, where the lock is not ours.
    pub(super) fn warn_of_the_first(&self, event_loop: &EventLoop) {
        let Some(first) = &self.first else { return };
        match &self.halves.first {
            Some(FirstHalf::Kept(error)) => {
                event_loop.say(not_given_back(&first.target, &self.id, error));
            }
            Some(FirstHalf::Ours) => event_loop.say(half_taken(&first.target, &self.id)),
            Some(FirstHalf::Gone) | None => {}
        }
    }

    /// Takes note of what a request for both halves has found.
    pub(super) fn heed(&mut self, event_loop: &EventLoop, reply: &Reply, findings: Findings) {
        let Findings { from, apart, unanswered, found, wrote_over, first } = findings;
        let is_ours = matches!(reply, Reply::Wrote(Ok(WriteReply::Applied(_))));
        // Where the rest cannot be had, either, it is not said at the end.
        if let (true, false, Some(first)) = (wrote_over, is_ours, &self.first)
            && let Some(record) = self.machine.acquire().taken_over()
        {
            event_loop.say(took_over(&first.target, record));
        }
        self.halves.from = from.or(self.halves.from);
        for ((open, found), half) in
            self.halves.open.iter_mut().zip(found).zip([Half::First, Half::Second])
        {
            *open = open.saturating_sub(u32::from(found)) + u32::from(unanswered == Some(half));
        }
        if first.is_some() {
            self.halves.first = first;
        }
        if let Some(holders) = apart {
            self.set_apart(event_loop, &holders);
        }
    }

    /// Says of two strangers with one half each that they do not keep each other out. At the second
    /// look: Terraform has the lock file for a moment at each try for both.
    fn set_apart(&mut self, event_loop: &EventLoop, holders: &[Record; 2]) {
        let Some(first) = &self.first else { return };
        let seen = holders.each_ref().map(|record| record.info.clone());
        match std::mem::replace(&mut self.halves.apart, Apart::Seen(seen.clone())) {
            Apart::Said => self.halves.apart = Apart::Said,
            Apart::Seen(before) if before == seen => {
                self.halves.apart = Apart::Said;
                let locks = [first.target.url(), self.last.target.url()];
                event_loop.say(apart(&locks, holders));
            }
            Apart::No | Apart::Seen(_) => {}
        }
    }
}
