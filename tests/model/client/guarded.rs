//! The guardian: what it is told, its fence while tfwrap lives, and what it does when tfwrap is
//! gone, as `guardian` and `run::orphan` do it. What it decides it decides by the shipped
//! [`Tenure`], [`Ending`] and [`Landing`].

use std::time::Duration;

use tfwrap::lock::Uptime;
use tfwrap::lock::landing::{self, LANDING, Landing, LandingOutcome};
use tfwrap::lock::lease::{Lease, LeaseTerm, TICK};
use tfwrap::lock::lease_keeper::{LeaseEvent, LeaseKeeper, LeaseStart};
use tfwrap::lock::register::Request;
use tfwrap::lock::tenure::Tenure;
use tfwrap::supervise::ending::Interrupts;
use tfwrap::supervise::ending::{Action, Ending, EndingStart, Event};

use super::{Checked, Client, Held, Moment, Phase};
use crate::child::Body;
use crate::config::{Config, Crash, Millis, Mutation};

/// How long an orphan may take to end: longer than some need, shorter than others.
const ORPHAN_GRACE: Duration = Duration::from_secs(12);

/// What the guardian was told of the lock: after every reply, before anything else happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Case {
    /// Nothing was sent that could make it ours.
    Nothing,
    /// Something was. `unanswered`: an earlier one still wanders.
    Asked { unanswered: bool },
    Granted {
        renewed: Uptime,
        term: LeaseTerm,
        beat: u64,
        kill_at: Option<Uptime>,
        unanswered: bool,
    },
}

/// A child whose tfwrap is gone, and its lock.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Ward {
    pub(super) tenure: Tenure,
    pub(super) body: Body,
    ending: Ending,
    /// Whether the lock may be given back.
    over: bool,
    /// The mutation: at once.
    hasty: bool,
}

/// What is told is told in whole milliseconds.
fn told(at: Uptime) -> Uptime {
    Uptime(Duration::from_millis(u64::try_from(at.0.as_millis()).expect("early")))
}

impl Ward {
    pub(super) fn deadlines(&self) -> impl Iterator<Item = Uptime> {
        self.ending.deadline().into_iter().chain(self.tenure.deadline())
    }

    /// Lets the shipped machine decide, and does it to the child.
    fn step(&mut self, now: Uptime, time: Millis, event: Event) -> Checked {
        let mut event = event;
        loop {
            if !self.body.alive {
                event = Event::Gone;
            }
            for action in self.ending.step(now, event) {
                match action {
                    Action::Interrupt => {
                        // One that was stopped could not end.
                        self.body.frozen = false;
                        self.body.interrupt(time)?;
                    }
                    Action::Kill(_) => self.body.alive = false,
                    Action::Release => self.over = true,
                    Action::Leave => return Err("a guardian leaves its child".to_owned()),
                    // Here a child leaves nothing.
                    Action::Note(_) | Action::InterruptRest => {}
                }
            }
            self.over |= self.hasty && event == Event::Gone;
            if self.body.alive || event == Event::Gone {
                return Ok(());
            }
        }
    }
}

impl Client {
    /// Before a request that may make the lock ours.
    pub(super) fn note_request(&mut self, moment: Moment, request: &Request) {
        if moment.config.crash == Crash::IsFollowed
            && moment.config.mutation != Some(Mutation::ToldAfterwards)
            && let (Phase::Acquiring(machine), Request::Write(..)) = (&self.phase, request)
        {
            self.case = Case::Asked { unanswered: machine.may_still_appear() };
        }
    }

    /// After an answer.
    pub(super) fn note_answer(&mut self, moment: Moment) {
        let Phase::Acquiring(machine) = &self.phase else { return };
        let mutation = moment.config.mutation;
        if !machine.may_be_ours() && mutation != Some(Mutation::UntoldAnswers) {
            self.case = Case::Nothing;
        } else if machine.may_still_appear() && mutation == Some(Mutation::ToldAfterwards) {
            self.case = Case::Asked { unanswered: true };
        }
    }

    /// Whether the guardian looks for what cannot land.
    fn looks_in_vain(&self) -> bool {
        let Phase::Acquiring(machine) = &self.phase else { return false };
        matches!(self.case, Case::Asked { .. }) && !machine.may_be_ours()
    }

    /// Tells the guardian what the keeper knows.
    pub(super) fn tell(&mut self, moment: Moment) {
        let Phase::Held(Held { tenure, .. }) = &self.phase else { return };
        let Some(keeper) = tenure.keeper() else { return };
        if moment.config.crash != Crash::IsFollowed || self.is_mute(moment.config) {
            return;
        }
        let (renewed, term) = keeper.renewed();
        self.case = Case::Granted {
            renewed: told(renewed),
            term,
            beat: keeper.sent_beat(),
            kill_at: keeper.kill_at().map(told),
            unanswered: self.may_appear,
        };
    }

    /// When the guardian of a tfwrap that lives kills its child: as late as its ticks allow.
    fn fence_at(&self) -> Option<Uptime> {
        match (&self.phase, &self.case) {
            (Phase::Held(_), Case::Granted { kill_at: Some(at), .. }) if self.child_lives() => {
                Some(at.plus(TICK))
            }
            _ => None,
        }
    }

    pub(super) fn wake_of_fence(&self, config: &Config) -> Option<Millis> {
        let is_fenced = config.mutation != Some(Mutation::NoGuardiansFence);
        self.fence_at().filter(|_| is_fenced).map(|at| self.when(config, at, 1))
    }

    /// The guardian counts while tfwrap lives, whether that does anything or not.
    pub(super) fn fence(&mut self, moment: Moment) -> Checked {
        let due = self.wake_of_fence(moment.config).is_some_and(|at| at <= moment.now);
        if !due || self.stands_still() {
            return Ok(());
        }
        if let Phase::Held(Held { child: Some(child), .. }) = &mut self.phase {
            (child.body.alive, child.killed) = (false, true);
        }
        if self.is_paused() { Ok(()) } else { self.tick_child(moment) }
    }

    /// Tfwrap is gone; its guardian ends what it began.
    pub(super) fn take_over(&mut self, moment: Moment) -> Checked {
        let now = self.clock(moment.config, moment.now);
        self.hit = true;
        self.paused = None;
        if self.looks_in_vain() {
            return Err("the guardian looks for what was answered".to_owned());
        }
        let child = match &mut self.phase {
            Phase::Held(Held { child, .. }) => child.take(),
            _ => None,
        };
        let soon = now.plus(LANDING);
        let (renewed, term, beat) = match self.case {
            Case::Nothing => return self.run_is_over(moment, false),
            Case::Asked { unanswered } => {
                self.landing = unanswered.then_some(soon);
                return self.catch(moment, soon);
            }
            Case::Granted { renewed, term, beat, unanswered, .. } => {
                self.landing = unanswered.then_some(soon);
                (renewed, term, beat)
            }
        };
        let Some(child) = child else {
            return if self.is_below(moment.config) {
                self.run_is_over(moment, false)
            } else {
                self.catch(moment, self.landing.unwrap_or(now))
            };
        };
        // The mutation: it forgets what it was told.
        let afresh = moment.config.mutation == Some(Mutation::GuardianAfresh);
        let known_lease = LeaseStart {
            id: self.id(moment),
            info: None,
            version: None,
            lease: Lease { term, beat },
            since: if afresh { now } else { renewed },
            answered: true,
        };
        let known = EndingStart {
            interrupts: if child.body.interrupted { Interrupts::Sent } else { Interrupts::None },
            killed: child.killed,
            grace: ORPHAN_GRACE,
            fence: None,
            is_left_at_last: false,
        };
        self.phase = Phase::Ending(Ward {
            tenure: if self.is_below(moment.config) {
                Tenure::inherited(LeaseKeeper::adopt(known_lease, now))
            } else {
                Tenure::leased(LeaseKeeper::adopt(known_lease, now))
            },
            ending: Ending::begin(known, now),
            over: false,
            hasty: moment.config.mutation == Some(Mutation::GuardianDoesNotSettle),
            body: child.body,
        });
        self.end_child(moment)?;
        self.tick(moment)
    }

    pub(super) fn heed_for_orphan(&mut self, moment: Moment, news: &LeaseEvent) -> Checked {
        let now = self.clock(moment.config, moment.now);
        let Phase::Ending(ward) = &mut self.phase else { return Ok(()) };
        let event =
            if matches!(news, LeaseEvent::Kill(_)) { Event::LeaseEnds } else { Event::Tick };
        ward.step(now, moment.now, event)
    }

    /// Sees the orphan to its end, and gives its lock back only then.
    pub(super) fn end_child(&mut self, moment: Moment) -> Checked {
        let now = self.clock(moment.config, moment.now);
        let Phase::Ending(ward) = &mut self.phase else { return Ok(()) };
        ward.step(now, moment.now, Event::Tick)?;
        if ward.over && self.is_below(moment.config) {
            // Nobody waits for a beat of another's lock.
            self.abandoned = self.still_on_its_way();
            return self.run_is_over(moment, false);
        }
        let Phase::Ending(ward) = &self.phase else { return Ok(()) };
        if ward.over { self.release(moment) } else { Ok(()) }
    }

    /// Looks for a lock that may be there, or may still come.
    pub(super) fn catch(&mut self, moment: Moment, until: Uptime) -> Checked {
        let now = self.clock(moment.config, moment.now);
        // What comes after that goes by its first lease, which is short.
        let several = self.landing.take().is_some();
        self.may_come_late = several || matches!(self.case, Case::Asked { .. });
        self.phase = Phase::Catching(Landing::new(self.id(moment), until, several, now));
        self.land(moment, landing::Event::Tick)
    }

    /// Lets the shipped machine decide, also while what it found is given back.
    pub(super) fn land(&mut self, moment: Moment, event: landing::Event) -> Checked {
        let now = self.clock(moment.config, moment.now);
        let looking = match &self.phase {
            Phase::Catching(looking) => Some(looking.clone()),
            _ => self.caught.take(),
        };
        let Some(mut looking) = looking else { return Ok(()) };
        let action = looking.step(now, event);
        if let landing::Action::Release(stored) = action {
            self.caught = Some(looking);
            self.phase = Phase::Releasing(Tenure::unleased(self.id(moment), Some(stored.version)));
            return self.release(moment);
        }
        self.phase = Phase::Catching(looking);
        match action {
            landing::Action::Look => self.send(moment, Request::Read),
            landing::Action::Done(LandingOutcome::Unseen(_)) => self.run_is_over(moment, true),
            landing::Action::Done(_) => self.run_is_over(moment, self.may_come_late),
            landing::Action::Wait | landing::Action::Release(_) => Ok(()),
        }
    }
}
