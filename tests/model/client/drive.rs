//! What a client does with what its machines decide, as the event loop in `run` does it.

use std::time::Duration;

use tfwrap::lock::Uptime;
use tfwrap::lock::acquire::{self, Outcome, Won};
use tfwrap::lock::jitter::Jitter;
use tfwrap::lock::landing;
use tfwrap::lock::lease::{Lease, LeaseTerm, SHORTEST};
use tfwrap::lock::lease_keeper::{LeaseEvent, LeaseKeeper, LeaseStart};
use tfwrap::lock::register::{Expect, Record, Request, StoreError};
use tfwrap::lock::release::{PATIENCE, ReleaseOutcome};
use tfwrap::lock::tenure::{self, Tenure, TenureEnd};
use tfwrap::supervise::locked_run::{self, LockedRun, NotStarted};
use tfwrap::supervise::{
    Action, ChildStatus, Event, Policy, Reach, Rest, SETTLE, SecondSignal, StopSignal,
};

use super::{Checked, Child, Client, End, Held, Moment, Pause, Phase};
use crate::child::Body;
use crate::config::{Config, Crash, Millis, Mutation, millis};
use crate::request::Way;

/// How long a request of a child that was killed is in flight: [`SETTLE`] by the fastest clock.
fn in_flight() -> Millis {
    millis(SETTLE) * 95 / 100
}

impl Client {
    pub(super) fn acquiring(&mut self, moment: Moment, action: acquire::Action) -> Checked {
        self.note_answer(moment);
        let lease = Lease { term: LeaseTerm::After(SHORTEST).first(), beat: 0 };
        let record = Record { info: Some(self.info(moment)), lease: Some(lease.to_text()) };
        let outcome = match action {
            acquire::Action::Wait => return Ok(()),
            acquire::Action::Take => {
                return self.send(moment, Request::Write(record, Expect::Absent));
            }
            acquire::Action::TakeOver(version) => {
                return self.send(moment, Request::Write(record, Expect::Version(version)));
            }
            acquire::Action::Look => return self.send(moment, Request::Read),
            acquire::Action::Done(outcome) => outcome,
        };
        self.abandoned = self.still_on_its_way();
        if let Phase::Acquiring(machine) = &self.phase {
            self.may_appear = machine.may_still_appear();
        }
        let (won, end) = match outcome {
            Outcome::Granted(won) => (Some(won), End::Ran),
            Outcome::Stopped { held } => (held, End::Stopped),
            Outcome::TimedOut => (None, End::TimedOut),
            Outcome::Failed(_) => (None, End::Failed),
        };
        self.ended = end;
        let Some(mut won) = won else { return self.run_is_over(moment, false) };
        if won.since > self.clock(moment.config, moment.stored_at) {
            return Err(format!(
                "{} dates its lock from after it was stored: {won:?}",
                self.letter()
            ));
        }
        let now = self.clock(moment.config, moment.now);
        Self::mutate(moment.config, now, &mut won);
        let Won { version, since, answered } = won;
        let (id, info) = (self.id(moment), Some(self.info(moment)));
        let known = LeaseStart { id, info, version: Some(version), lease, since, answered };
        let tenure = Tenure::leased(LeaseKeeper::new(known, LeaseTerm::After(SHORTEST), now));
        let mut run = LockedRun::new(true);
        if self.is_hold(moment.config) {
            run.hold();
        } else {
            run.confirm(now);
        }
        self.phase = Phase::Held(Held { tenure, run, child: None });
        self.tell(moment);
        if end == End::Stopped { self.release(moment) } else { self.tick(moment) }
    }

    fn mutate(config: &Config, now: Uptime, won: &mut Won) {
        match config.mutation {
            Some(Mutation::FoundCountedFromNow) if !won.answered => {
                (won.since, won.answered) = (now, true);
            }
            Some(Mutation::HolderFromReply) => won.since = now,
            _ => {}
        }
    }

    /// Whether nothing but a decision keeps the child from starting.
    pub(crate) fn can_start(&self, moment: Moment) -> bool {
        let now = self.clock(moment.config, moment.now);
        let Phase::Held(held) = &self.phase else { return false };
        let actions = || held.run.clone().step(now, held.locks(now), locked_run::Event::Tick);
        self.paused.is_none()
            && held.child.is_none()
            && actions().contains(&locked_run::Action::MayStart)
    }

    pub(crate) fn start(&mut self, moment: Moment, long: bool) {
        let Phase::Held(held) = &mut self.phase else { return };
        held.run.started(Policy { second_signal: SecondSignal::Hold, grace: None });
        held.child = Some(Child {
            body: Body::new(moment.now, long),
            reaped: false,
            killed: false,
            killed_by_others: false,
        });
    }

    /// Lets the lock's machine decide, and tells the guardian before anything else happens.
    pub(super) fn keep(&mut self, moment: Moment, event: tenure::Event) -> Checked {
        let now = self.clock(moment.config, moment.now);
        let is_mute = self.is_mute(moment.config);
        let Some(tenure) = self.tenure_mut() else { return Ok(()) };
        let is_tick = event == tenure::Event::Tick;
        let mut actions = tenure.step(now, event);
        if is_mute {
            // The mutation: nothing is sent, and nothing is heard of it.
            let request = actions.iter().find_map(|action| match action {
                tenure::Action::Ask(request) => Some(request.clone()),
                _ => None,
            });
            if let Some(request) = request {
                let unsent = request.failed(StoreError::Throttled(String::new()));
                let _nothing = tenure.step(now, tenure::Event::Answered(unsent));
            }
            actions.retain(|action| matches!(action, tenure::Action::Over(_)));
        }
        if !is_tick {
            self.tell(moment);
        }
        let mut told = Vec::new();
        for action in actions {
            match action {
                tenure::Action::Ask(request) => self.send(moment, request)?,
                tenure::Action::Say(_) | tenure::Action::Over(_) => told.push(action),
            }
        }
        for action in told {
            match action {
                tenure::Action::Say(news) => self.heed(moment, &news)?,
                tenure::Action::Over(end) => {
                    let unconfirmed =
                        matches!(end, TenureEnd::Released(ReleaseOutcome::Unconfirmed(_)));
                    return self.run_is_over(moment, unconfirmed);
                }
                tenure::Action::Ask(_) => {}
            }
        }
        if self.crashed { self.end_child(moment) } else { Ok(()) }
    }

    /// What news of the lease means for the child.
    fn heed(&mut self, moment: Moment, news: &LeaseEvent) -> Checked {
        if self.crashed {
            return self.heed_for_orphan(moment, news);
        }
        if matches!(news, LeaseEvent::Lost(_)) {
            self.ended = End::Lost;
        }
        let is_lost = self.tenure_mut().is_some_and(|tenure| tenure.is_lost());
        self.decide(moment, locked_run::Event::Lease { said: news.clone(), is_lost })
    }

    pub(super) fn supervise(&mut self, moment: Moment, event: Event) -> Checked {
        self.decide(moment, locked_run::Event::Child(event))
    }

    /// Lets the run decide, and does what the event loop would.
    pub(super) fn decide(&mut self, moment: Moment, event: locked_run::Event) -> Checked {
        let now = self.clock(moment.config, moment.now);
        let Phase::Held(held) = &mut self.phase else { return Ok(()) };
        let locks = held.locks(now);
        for action in held.run.step(now, locks, event) {
            let Phase::Held(held) = &mut self.phase else { return Ok(()) };
            let action = match action {
                locked_run::Action::End(why) => {
                    self.ended = match why {
                        NotStarted::Stopped(_) => End::Stopped,
                        NotStarted::Lost => End::Lost,
                        NotStarted::Unconfirmed => End::Failed,
                    };
                    return self.release(moment);
                }
                locked_run::Action::Child(action) => action,
                // Started when the world wants it; of those below and the user nobody is here.
                _ => continue,
            };
            let Some(child) = &mut held.child else {
                return Err(format!("{} has no child to supervise", self.letter()));
            };
            match action {
                Action::Interrupt => child.body.interrupt(moment.now)?,
                Action::Freeze => child.body.frozen = true,
                Action::Thaw { .. } => child.body.frozen = false,
                Action::Kill if child.body.alive => {
                    (child.body.alive, child.reaped) = (false, true);
                    let status = ChildStatus::Signaled(9);
                    return self.supervise(moment, Event::ChildExited { status, rest: Rest::Gone });
                }
                Action::Finished { .. } => {
                    if child.body.alive {
                        return Err(format!("{} is done with a live child", self.letter()));
                    }
                    return self.release(moment);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Nothing runs under the lock any more, or ever will.
    pub(super) fn release(&mut self, moment: Moment) -> Checked {
        let Some(tenure) = self.tenure_mut() else { return Ok(()) };
        self.phase = Phase::Releasing(tenure.clone());
        let jitter = Jitter(moment.config.seed);
        self.keep(moment, tenure::Event::Release { patience: PATIENCE, jitter })
    }

    pub(super) fn run_is_over(&mut self, moment: Moment, unconfirmed: bool) -> Checked {
        if unconfirmed || self.may_appear {
            self.told |= 1 << self.run;
        }
        if self.crashed {
            if self.caught.is_some() && !unconfirmed {
                return self.land(moment, landing::Event::Released);
            }
            if let Some(until) = self.landing.filter(|_| !unconfirmed) {
                return self.catch(moment, until);
            }
            self.phase = Phase::Crashed { orphan: false };
            return Ok(());
        }
        if !self.hit && matches!(self.ended, End::TimedOut | End::Failed | End::Lost) {
            let end = self.ended;
            return Err(format!("{} was let down ({end:?}) though nothing hit it", self.letter()));
        }
        if self.run + 1 < moment.config.runs[self.index] {
            self.run += 1;
            return self.begin(moment);
        }
        self.phase = Phase::Over(self.ended);
        Ok(())
    }

    /// The user wants it to end.
    pub(crate) fn stop(&mut self, moment: Moment) -> Checked {
        let now = self.clock(moment.config, moment.now);
        match &mut self.phase {
            Phase::Acquiring(machine) => {
                let action = machine.step(now, acquire::Event::Stop);
                self.acquiring(moment, action)
            }
            Phase::Held(_) => self.supervise(
                moment,
                Event::Stop(StopSignal::Interrupt, Reach::UsOnly, Duration::ZERO),
            ),
            _ => Ok(()),
        }
    }

    /// It stands still, and its child with it. Or alone, as by a SIGSTOP of its own.
    pub(crate) fn pause(
        &mut self,
        moment: Moment,
        (lasts, reply_first): (Millis, bool),
        alone: bool,
    ) {
        self.paused = Some(Pause { until: moment.now + lasts, alone, reply_first });
        if let Some(body) = self.body_mut().filter(|_| !alone) {
            body.stands_still(lasts);
        }
    }

    /// Somebody kills its child; tfwrap is told of it by the kernel, unless it is killed, too.
    pub(crate) fn kill_child(&mut self, moment: Moment) {
        self.hit = true;
        if let Phase::Held(Held { child: Some(child), .. }) = &mut self.phase {
            child.killed_by_others = true;
        }
        let Some(body) = self.body_mut() else { return };
        let acts = body.acts();
        body.alive = false;
        self.in_flight = acts.then_some(moment.now + in_flight());
    }

    /// Whoever looks after its child sees that something has become of it.
    pub(crate) fn sees_its_child(&mut self, moment: Moment) -> Checked {
        if self.crashed { self.end_child(moment) } else { self.tick_child(moment) }
    }

    /// Nobody waits for its answer any more: a write that may be done all the same.
    pub(super) fn still_on_its_way(&mut self) -> Option<Request> {
        let on_its_way = self.pending.take().filter(|it| !matches!(it.way, Way::Answered(..)));
        on_its_way.map(|it| it.request).filter(|it| *it != Request::Read)
    }

    /// It is gone. What it sent is not; that is returned.
    pub(crate) fn crash(&mut self, moment: Moment) -> Result<Option<Request>, String> {
        let wanders = self.still_on_its_way();
        if self.is_followed(moment.config) && !self.crashed {
            self.crashed = true;
            self.take_over(moment)?;
            return Ok(wanders);
        }
        self.told |= 1 << self.run;
        // Of one whose guardian is gone, too, nothing is promised but what the lease gives.
        let orphan = moment.config.crash == Crash::LeavesAnOrphan && self.child_lives();
        self.phase = Phase::Crashed { orphan };
        (self.paused, self.outage) = (None, None);
        Ok(wanders)
    }
}
