//! A stock Terraform: creates if absent, never beats, and deletes by key after comparing the ID.

use tfwrap::store::{Record, RecordVersion, Stored};

use crate::config::Millis;

const INFO: &str = "{\"ID\":\"s0\"}";

/// How often it asks while it waits, and how often at most.
const POLL: Millis = 3_000;
const TRIES: u8 = 12;

/// What its work takes.
const WORK: Millis = 2_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Stock {
    Waiting {
        next: Millis,
        tries: u8,
    },
    Working {
        until: Millis,
    },
    /// It has compared the ID; the delete is on its way.
    Deleting,
    Over,
}

impl Stock {
    pub(crate) fn new() -> Self {
        Self::Waiting { next: 0, tries: TRIES }
    }

    pub(crate) fn wake(&self) -> Option<Millis> {
        match *self {
            Self::Waiting { next, .. } => Some(next),
            Self::Working { until } => Some(until),
            Self::Deleting | Self::Over => None,
        }
    }

    pub(crate) fn is_due(&self, now: Millis) -> bool {
        *self == Self::Deleting || self.wake().is_some_and(|at| at <= now)
    }

    pub(crate) fn is_over(&self) -> bool {
        *self == Self::Over
    }

    pub(crate) fn acts(&self) -> bool {
        matches!(self, Self::Working { .. })
    }

    pub(crate) fn crash(&mut self) {
        *self = Self::Over;
    }

    pub(crate) fn act(&mut self, now: Millis, register: &mut Option<Stored>) {
        *self = match *self {
            Self::Waiting { .. } if register.is_none() => {
                let record = Record { info: Some(INFO.to_owned()), lease: None };
                *register = Some(Stored { record, version: RecordVersion(INFO.to_owned()) });
                Self::Working { until: now + WORK }
            }
            Self::Waiting { tries: tries @ 1.., .. } => {
                Self::Waiting { next: now + POLL, tries: tries - 1 }
            }
            Self::Working { .. } => {
                let ours =
                    register.as_ref().is_some_and(|it| it.record.info.as_deref() == Some(INFO));
                if ours { Self::Deleting } else { Self::Over }
            }
            Self::Deleting => {
                *register = None;
                Self::Over
            }
            Self::Waiting { tries: 0, .. } | Self::Over => Self::Over,
        };
    }
}
