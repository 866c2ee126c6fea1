//! A run with both halves of a lock, in virtual time: heartbeats of the one half are lost, answered late or not at
//! all, and somebody who wants that half alone takes it over by its lease. Random schedules over the shipped machines
//! of the holder, its run and the two rivals.

use std::time::Duration;

use proptest::prelude::*;
use tfwrap::lock::acquire::{self, Acquire, Outcome};
use tfwrap::lock::jitter::Jitter;
use tfwrap::lock::lease::{Lease, LeaseTerm, SHORTEST};
use tfwrap::lock::lease_keeper::{LeaseKeeper, LeaseStart};
use tfwrap::lock::register::{Expect, Record, RemoveReply, Reply, Request, Stored, WriteReply};
use tfwrap::lock::tenure::{self, Tenure};
use tfwrap::lock::{LockId, Uptime};
use tfwrap::store::Timeouts;
use tfwrap::supervise::locked_run::{self, LockedRun, LocksNow};
use tfwrap::supervise::{Action, ChildStatus, Event, Policy, Rest, SecondSignal};

use crate::child::Body;
use crate::config::{Millis, millis};
use crate::request::unknown;
use crate::seeded::seeded;
use crate::world::stored;

/// How finely time goes on.
const STEP: Millis = 50;

/// A child that heeds nothing works for as long as this world lasts.
const END: Millis = 90_000;

/// The paces of the holder's clock and of its rivals', in percent: the worst that is allowed.
const HOLDERS: u64 = 95;
const RIVALS: u64 = 105;

/// What becomes of a heartbeat, the worse the later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Fate {
    Answered,
    /// Carried out just before it is given up.
    Slow,
    /// Carried out, and not answered.
    Lost,
    Dropped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutation {
    None,
    /// The run hears nothing of its first half.
    DeafToFirst,
}

/// A request that is out: when it comes, whether it is carried out, and when whoever sent it gives it up.
#[derive(Debug, Clone)]
struct Out {
    request: Request,
    at: Millis,
    is_applied: bool,
    is_answered: bool,
    limit: Millis,
    reply: Option<Reply>,
}

struct Half {
    register: Option<Stored>,
    tenure: Tenure,
    out: Option<Out>,
    fates: Vec<Fate>,
    rival: Acquire,
    asked: Option<acquire::Action>,
    is_taken: bool,
}

fn clock(rate: u64, now: Millis) -> Uptime {
    Uptime(Duration::from_micros(1_000_000 + now * rate * 10))
}

fn record(id: &str, beat: u64) -> Record {
    let lease = Lease { term: LeaseTerm::After(SHORTEST).first(), beat };
    Record { info: Some(format!("{{\"ID\":\"{id}\"}}")), lease: Some(lease.to_text()) }
}

impl Half {
    /// Held since now, by `a`.
    fn held(fates: &[Fate], since: Millis) -> Self {
        let (id, first) = (LockId("a".to_owned()), stored(record("a", 0)));
        let lease = Lease { term: LeaseTerm::After(SHORTEST).first(), beat: 0 };
        let (info, version) = (first.record.info.clone(), Some(first.version.clone()));
        let since = clock(HOLDERS, since);
        let known = LeaseStart { id, info, version, lease, since, answered: true };
        let keeper = LeaseKeeper::new(known, LeaseTerm::After(SHORTEST), since);
        let now = clock(RIVALS, 0);
        let give_up_at = now.plus(Duration::from_hours(1));
        let mut rival = Acquire::new(LockId("b".to_owned()), now, give_up_at, Jitter(1));
        let asked = Some(rival.step(now, acquire::Event::Start));
        Self {
            register: Some(first),
            tenure: Tenure::leased(keeper),
            out: None,
            fates: fates.to_vec(),
            rival,
            asked,
            is_taken: false,
        }
    }

    fn apply(&mut self, request: &Request) -> Reply {
        let shown = Some(self.register.clone());
        match request {
            Request::Read => Reply::Read(Ok(self.register.clone())),
            Request::Write(record, expect) if expect.holds(self.register.as_ref()) => {
                let new = stored(record.clone());
                let version = new.version.clone();
                self.register = Some(new);
                Reply::Wrote(Ok(WriteReply::Applied(version)))
            }
            Request::Write(..) => Reply::Wrote(Ok(WriteReply::Conflict(shown))),
            Request::Remove(version)
                if self.register.as_ref().is_some_and(|it| it.version == *version) =>
            {
                self.register = None;
                Reply::Removed(Ok(RemoveReply::Removed))
            }
            Request::Remove(_) => Reply::Removed(Ok(RemoveReply::Conflict(shown))),
        }
    }

    fn send(&mut self, now: Millis, request: Request) {
        let patience = self.tenure.patience().unwrap_or(Timeouts::default().read);
        let limit = now + millis(patience) * 100 / HOLDERS;
        let fate = if self.fates.len() > 1 { self.fates.remove(0) } else { self.fates[0] };
        let at = if fate == Fate::Slow { limit } else { now };
        let (is_applied, is_answered) = (fate != Fate::Dropped, fate < Fate::Lost);
        self.out = Some(Out { request, at, is_applied, is_answered, limit, reply: None });
    }

    /// What the holder hears by now.
    fn heard(&mut self, now: Millis) -> Option<Reply> {
        let mut out = self.out.take()?;
        if out.at <= now && out.is_applied {
            out.is_applied = false;
            let reply = self.apply(&out.request);
            out.reply = out.is_answered.then_some(reply);
        }
        match out.reply.take() {
            Some(reply) => Some(reply),
            None if out.limit <= now => Some(unknown(&out.request)),
            None => {
                self.out = Some(out);
                None
            }
        }
    }

    /// The rival is answered at once: that is the quickest that there is.
    fn let_rival_act(&mut self, now: Millis) {
        let at = clock(RIVALS, now);
        if self.asked.is_none() && self.rival.deadline().is_some_and(|due| due <= at) {
            self.asked = Some(self.rival.step(at, acquire::Event::Tick));
        }
        while let Some(action) = self.asked.take() {
            let request = match action {
                acquire::Action::Wait => return,
                acquire::Action::Look => Request::Read,
                acquire::Action::Take => Request::Write(record("b", 0), Expect::Absent),
                acquire::Action::TakeOver(version) => {
                    Request::Write(record("b", 0), Expect::Version(version))
                }
                acquire::Action::Done(Outcome::Granted(_)) => {
                    self.is_taken = true;
                    return;
                }
                acquire::Action::Done(outcome) => panic!("it waits: {outcome:?}"),
            };
            let event = match self.apply(&request) {
                Reply::Read(reply) => acquire::Event::Looked(reply),
                Reply::Wrote(reply) => acquire::Event::Took(reply),
                Reply::Removed(_) => unreachable!("it removes nothing"),
            };
            self.asked = Some(self.rival.step(at, event));
        }
    }
}

struct World {
    halves: [Half; 2],
    run: LockedRun,
    child: Body,
    mutation: Mutation,
}

impl World {
    fn locks(&self, now: Uptime) -> LocksNow {
        let heard = usize::from(self.mutation == Mutation::DeafToFirst);
        LocksNow::of(self.halves[heard..].iter().map(|half| &half.tenure), now)
    }

    fn decide(&mut self, now: Millis, event: locked_run::Event) {
        let at = clock(HOLDERS, now);
        let locks = self.locks(at);
        for action in self.run.step(at, locks, event) {
            match action {
                locked_run::Action::Child(Action::Interrupt) => {
                    self.child.interrupt(now).expect("one interrupt");
                }
                locked_run::Action::Child(Action::Kill) if self.child.alive => {
                    self.child.alive = false;
                    let status = ChildStatus::Signaled(9);
                    let ended = Event::ChildExited { status, rest: Rest::Gone };
                    return self.decide(now, locked_run::Event::Child(ended));
                }
                _ => {}
            }
        }
    }

    fn keep(&mut self, now: Millis, which: usize, event: tenure::Event) {
        let half = &mut self.halves[which];
        let mut said = Vec::new();
        for action in half.tenure.step(clock(HOLDERS, now), event) {
            match action {
                tenure::Action::Ask(request) => half.send(now, request),
                tenure::Action::Say(news) => said.push(news),
                tenure::Action::Over(_) => {}
            }
        }
        let is_lost = half.tenure.is_lost();
        if self.mutation == Mutation::DeafToFirst && which == 0 {
            return;
        }
        for said in said {
            self.decide(now, locked_run::Event::Lease { said, is_lost });
        }
    }

    /// Whether a rival had a half while the child worked; else how long the child lived, and which halves
    /// were taken over.
    fn play(
        fates: [&[Fate]; 2],
        apart: Millis,
        mutation: Mutation,
    ) -> Result<(Millis, [bool; 2]), String> {
        // The first was had a little earlier.
        let halves = [Half::held(fates[0], 0), Half::held(fates[1], apart)];
        let mut run = LockedRun::new(true);
        run.confirm(clock(HOLDERS, apart));
        run.started(Policy { second_signal: SecondSignal::Hold, grace: None });
        let mut world = Self { halves, run, child: Body::new(END, true), mutation };
        let mut lived = END;
        for now in (apart..END).step_by(usize::try_from(STEP).expect("short")) {
            let at = clock(HOLDERS, now);
            for which in 0..2 {
                if let Some(reply) = world.halves[which].heard(now) {
                    world.keep(now, which, tenure::Event::Answered(reply));
                }
                if world.halves[which].tenure.deadline().is_some_and(|due| due <= at) {
                    world.keep(now, which, tenure::Event::Tick);
                }
            }
            if world.run.deadline(at, world.locks(at)).is_some_and(|due| due <= at) {
                world.decide(now, locked_run::Event::Tick);
            }
            if !world.child.alive {
                lived = lived.min(now);
            }
            for (which, half) in world.halves.iter_mut().enumerate() {
                half.let_rival_act(now);
                if half.is_taken && world.child.alive {
                    return Err(format!(
                        "after {now} ms half {which} is a rival's, and the child works"
                    ));
                }
            }
        }
        Ok((lived, world.halves.map(|half| half.is_taken)))
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Answered),
        1 => Just(Fate::Slow),
        1 => Just(Fate::Lost),
        2 => Just(Fate::Dropped),
    ]
}

/// The last one is that of all further heartbeats.
fn fates() -> impl Strategy<Value = Vec<Fate>> {
    prop::collection::vec(fate(), 1..40)
}

#[test]
fn a_child_ends_before_the_half_whose_heartbeats_are_lost_can_be_taken() {
    use Fate::{Answered, Dropped, Lost};
    for half in 0..2 {
        for gone in [Dropped, Lost] {
            let mut fates: [&[Fate]; 2] = [&[Answered], &[Answered]];
            let lose = [Answered, Answered, gone];
            fates[half] = &lose;
            let (lived, taken) = World::play(fates, 1000, Mutation::None).unwrap();
            assert!(lived < 30_000, "{half} {gone:?}: {lived} ms");
            assert_eq!([taken[half], taken[1 - half]], [true, false], "{half} {gone:?}");
        }
    }
    let lived = World::play([&[Answered], &[Answered]], 1000, Mutation::None);
    assert_eq!(lived, Ok((END, [false; 2])), "the control");
}

#[test]
fn a_run_that_hears_of_one_half_alone_is_caught() {
    let fates: [&[Fate]; 2] = [&[Fate::Dropped], &[Fate::Answered]];
    assert!(World::play(fates, 0, Mutation::DeafToFirst).is_err());
}

proptest! {
    #![proptest_config(seeded(1000))]

    #[test]
    fn no_half_is_taken_from_a_working_child_whatever_becomes_of_its_heartbeats(
        first in fates(),
        second in fates(),
        apart in 0..5_000_u64,
    ) {
        let played = World::play([&first, &second], apart / STEP * STEP, Mutation::None);
        prop_assert!(played.is_ok(), "{played:?}");
    }
}
