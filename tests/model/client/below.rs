//! A command that works under the lock of a `hold`: it keeps that lock, too, and so does its
//! guardian, as `run::inherit` and `run::orphan` do it; neither gives it back.

use tfwrap::lock::lease::Lease;
use tfwrap::lock::lease_keeper::{LeaseKeeper, LeaseStart};
use tfwrap::lock::tenure::Tenure;
use tfwrap::store::Stored;
use tfwrap::supervise::LockedRun;

use super::{Checked, Client, Held, Moment, Phase};
use crate::config::{Config, Crash, Mutation};

impl Client {
    /// Whether it works under the lock of another.
    pub(crate) fn is_below(&self, config: &Config) -> bool {
        config.below && self.index == 1
    }

    /// Whether others work under its lock, and nothing of its own.
    pub(crate) fn is_hold(&self, config: &Config) -> bool {
        config.below && self.index == 0
    }

    /// Whether its guardian outlives it. That of a hold is killed with it.
    pub(super) fn is_followed(&self, config: &Config) -> bool {
        config.crash == Crash::IsFollowed && !self.is_hold(config)
    }

    pub(crate) fn is_outside(&self) -> bool {
        matches!(self.phase, Phase::Outside)
    }

    /// Whether others may come under its lock.
    pub(crate) fn is_open(&self, config: &Config) -> bool {
        self.is_hold(config) && matches!(self.phase, Phase::Held(_))
    }

    /// The mutations: it does nothing for the lock of another.
    pub(super) fn is_mute(&self, config: &Config) -> bool {
        let mute = match config.mutation {
            Some(Mutation::GuardianLeavesInherited) => self.crashed,
            Some(Mutation::LeavesInherited) => true,
            _ => false,
        };
        mute && self.is_below(config)
    }

    /// It has its place under the lock, and has found it held.
    pub(crate) fn enter(&mut self, moment: Moment, stored: Stored) -> Checked {
        let now = self.clock(moment.config, moment.now);
        let Stored { record, version } = stored;
        let lease = record.lease.as_deref().and_then(Lease::parse).expect("it has one");
        // The mutation: without a beat there is no answer to one.
        let answered = self.is_mute(moment.config);
        let id = self.id(moment);
        let (info, version) = (record.info, Some(version));
        let known = LeaseStart { id, info, version, lease, since: now, answered };
        let tenure = Tenure::inherited(LeaseKeeper::beside(known, now));
        let mut run = LockedRun::new(true);
        run.confirm(now);
        self.phase = Phase::Held(Held { tenure, run, child: None });
        self.tell(moment);
        self.tick(moment)
    }

    /// There is nothing to come under any more.
    pub(crate) fn stay_outside(&mut self) {
        self.phase = Phase::Over(self.ended);
    }

    /// Nobody works under its lock any more.
    pub(crate) fn let_go(&mut self, moment: Moment) -> Checked {
        self.release(moment)
    }
}
