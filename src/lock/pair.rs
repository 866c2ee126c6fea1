//! Two registers that are one lock: Terraform's lock file in S3 and its item in `DynamoDB`, for a
//! backend that has both. Whoever holds both halves under one ID holds the lock.
//!
//! [`Acquire`](super::acquire::Acquire) asks for a lock as if it were one register. This machine
//! sends the requests to both halves, one after the other, and combines their replies into one.
//! Once both halves are ours, each is kept and released separately
//! ([`Tenure`](super::tenure::Tenure)). So the fence counts from the older half, and the loss of
//! one half leaves the other ours.
//!
//! - The first half is acquired first, as Terraform does. A create reads the second half before
//!   that, so that a waiter does not create and remove the lock file at every poll.
//! - If the second half cannot be acquired, the first is released. If that release is not answered,
//!   the whole is *unknown*, like a create that was not answered.
//! - A half with our own ID is ours, from an attempt that was not answered, and is written again. A
//!   half with a stranger's ID holds the lock, whatever the other half says.
//!
//! No clock, no I/O, no randomness. Its rules: `docs/protocol.md#a8-a-pair`.

use super::LockId;
use super::lease::{Lease, LeaseTerm};
use super::register::{
    Expect, Record, RecordVersion, RemoveReply, Reply, Request, StoreError, Stored, WriteReply,
};

/// How often a half that is ours already is written over within one attempt.
const REWRITES: u32 = 2;

/// Which register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Half {
    /// What is taken first: the lock file.
    First,
    /// The item.
    Second,
}

/// What there is to do next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[must_use]
pub enum Step {
    /// Ask this register.
    Ask(Half, Request),
    /// The reply of the pair.
    Done(Reply),
}

/// The versions of both halves, in one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Versions {
    /// None: it is not there.
    pub first: Option<RecordVersion>,
    /// Likewise.
    pub second: Option<RecordVersion>,
}

impl Versions {
    /// The version of the pair.
    #[must_use]
    pub fn join(&self) -> RecordVersion {
        let text = |half: &Option<RecordVersion>| half.as_ref().map(|version| version.0.clone());
        let parts = [text(&self.first), text(&self.second)];
        RecordVersion(serde_json::to_string(&parts).unwrap_or_default())
    }

    /// Takes the version of a pair apart.
    #[must_use]
    pub fn of(joined: &RecordVersion) -> Self {
        let parts: [Option<String>; 2] = serde_json::from_str(&joined.0).unwrap_or_default();
        let [first, second] = parts.map(|part| part.map(RecordVersion));
        Self { first, second }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum State {
    New(Request),
    /// A look: the second half, then the first.
    ReadingSecond,
    ReadingFirst(Result<Option<Stored>, StoreError>),
    /// Of a look: a half that we left behind goes, where somebody has the other.
    Clearing(Half, Reply),
    /// A create looks whether somebody has the second.
    Peeking(Errand),
    TakingFirst(Errand),
    FindingFirst(Errand),
    TakingSecond(Errand, RecordVersion),
    FindingSecond(Errand, RecordVersion),
    GivingBack(Reply),
    Over,
}

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Errand {
    record: Record,
    /// What the halves are expected to be.
    first: Expect,
    second: Expect,
    rewrites: u32,
}

/// What became of the first half, where the pair did not become ours.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FirstHalf {
    /// It is ours for now: nobody knows of the second, or it is released at the next try.
    Ours,
    /// It is not there, or not any more.
    Gone,
    /// It is ours, and could not be released.
    Kept(StoreError),
}

/// What is known of the halves, beside the reply of the pair.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Findings {
    /// Which half an error or a refusal came from.
    pub from: Option<Half>,
    /// Who holds the first half, and who the second, where a look has found two that share no lock, so
    /// that nothing keeps them from each other.
    pub apart: Option<Box<[Record; 2]>>,
    /// The half whose write was not answered: our record may get there.
    pub unanswered: Option<Half>,
    /// In which halves our record was found, by an earlier write.
    pub found: [bool; 2],
    /// The first half's holder, whose lease was over, has lost it.
    pub wrote_over: bool,
    /// What became of our first half, where there was one.
    pub first: Option<FirstHalf>,
}

/// One request for a pair.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PairRequest {
    id: LockId,
    /// Whether the first half can have a lease, which takes a store that looks at conditions.
    is_first_leased: bool,
    state: State,
    findings: Findings,
}

impl PairRequest {
    /// A read, or a write of a record of ours; what is held is released half by half.
    #[must_use]
    pub fn new(id: LockId, is_first_leased: bool, request: Request) -> Self {
        Self { id, is_first_leased, state: State::New(request), findings: Findings::default() }
    }

    /// What it has found, once it is over.
    #[must_use]
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// The first step.
    pub fn start(&mut self) -> Step {
        match std::mem::replace(&mut self.state, State::Over) {
            State::New(Request::Write(record, expect)) => {
                let (first, second) = match &expect {
                    Expect::Absent => (Expect::Absent, Expect::Absent),
                    Expect::Version(version) => {
                        let Versions { first, second } = Versions::of(version);
                        (
                            first.map_or(Expect::Absent, Expect::Version),
                            second.map_or(Expect::Absent, Expect::Version),
                        )
                    }
                };
                let errand = Errand { record, first, second, rewrites: 0 };
                // What is written over was looked at long enough.
                if expect == Expect::Absent {
                    self.state = State::Peeking(errand);
                    return Step::Ask(Half::Second, Request::Read);
                }
                self.take_first(errand)
            }
            State::New(Request::Remove(_)) => {
                Step::Done(Reply::Removed(Ok(RemoveReply::Conflict(None))))
            }
            _ => {
                self.state = State::ReadingSecond;
                Step::Ask(Half::Second, Request::Read)
            }
        }
    }

    /// The next one, after the reply to the last.
    pub fn answered(&mut self, reply: Reply) -> Step {
        match (std::mem::replace(&mut self.state, State::Over), reply) {
            (State::ReadingSecond, Reply::Read(second)) => {
                self.state = State::ReadingFirst(second);
                Step::Ask(Half::First, Request::Read)
            }
            (State::ReadingFirst(second), Reply::Read(first)) => self.looked(first, second),
            (State::Clearing(Half::First, then), Reply::Removed(reply)) => {
                self.findings.first = Some(match reply {
                    Ok(_) => FirstHalf::Gone,
                    Err(error) => FirstHalf::Kept(error),
                });
                Step::Done(then)
            }
            (State::Clearing(_, then), _) => Step::Done(then),
            (State::Peeking(errand), Reply::Read(second)) => self.peeked(errand, second),
            (State::TakingFirst(errand), Reply::Wrote(reply)) => self.took_first(errand, reply),
            (State::FindingFirst(errand), Reply::Read(found)) => self.found_first(errand, found),
            (State::TakingSecond(errand, first), Reply::Wrote(reply)) => {
                self.took_second(errand, first, reply)
            }
            (State::FindingSecond(errand, first), Reply::Read(found)) => {
                self.found_second(errand, first, found)
            }
            (State::GivingBack(then), Reply::Removed(reply)) => self.gave_back(then, reply),
            // No reply of another kind comes to a request.
            (_, Reply::Read(_)) => Step::Done(Reply::Read(Err(out_of_turn()))),
            (_, Reply::Wrote(_) | Reply::Removed(_)) => {
                Step::Done(Reply::Wrote(Err(out_of_turn())))
            }
        }
    }

    fn is_ours(&self, stored: &Stored) -> bool {
        stored.record.is_held_by(&self.id)
    }

    fn looked(
        &mut self,
        first: Result<Option<Stored>, StoreError>,
        second: Result<Option<Stored>, StoreError>,
    ) -> Step {
        let id = self.id.clone();
        let is_theirs = |half: &Stored| !half.record.is_held_by(&id);
        if first.as_ref().is_ok_and(|first| first.as_ref().is_none_or(is_theirs)) {
            self.findings.first = Some(FirstHalf::Gone);
        }
        let (first, second) = match (first, second) {
            (Ok(first), Ok(second)) => (first, second),
            // What one half says of a stranger is enough; else nobody knows.
            (Err(_), Ok(second)) if second.as_ref().is_some_and(is_theirs) => (None, second),
            (Ok(first), Err(_)) if first.as_ref().is_some_and(is_theirs) => (first, None),
            (Err(error), _) => return self.done(Half::First, Reply::Read(Err(error))),
            (_, Err(error)) => return self.done(Half::Second, Reply::Read(Err(error))),
        };
        // We hold nothing while somebody else has the other half.
        let left = match (&first, &second) {
            (Some(ours), Some(theirs)) if !is_theirs(ours) && is_theirs(theirs) => {
                Some((Half::First, ours.version.clone()))
            }
            (Some(theirs), Some(ours)) if is_theirs(theirs) && !is_theirs(ours) => {
                Some((Half::Second, ours.version.clone()))
            }
            _ => None,
        };
        if let (Some(one), Some(other)) = (&first, &second)
            && is_theirs(one)
            && is_theirs(other)
            && !is_same_holder(one, other)
        {
            self.findings.apart = Some(Box::new([one.record.clone(), other.record.clone()]));
        }
        let reply = Reply::Read(Ok(shown(first, second, &id)));
        let Some((half, version)) = left else { return Step::Done(reply) };
        self.state = State::Clearing(half, reply);
        Step::Ask(half, Request::Remove(version))
    }

    fn peeked(&mut self, errand: Errand, second: Result<Option<Stored>, StoreError>) -> Step {
        match second {
            Ok(Some(stored)) if !self.is_ours(&stored) => self.refused(Half::Second),
            // Without leave to read, the create tells.
            Ok(_) | Err(StoreError::Denied(_)) => self.take_first(errand),
            Err(error) => self.done(Half::Second, Reply::Wrote(Err(error.of_nothing_written()))),
        }
    }

    fn take_first(&mut self, errand: Errand) -> Step {
        let mut record = errand.record.clone();
        record.lease = record.lease.filter(|_| self.is_first_leased);
        let request = Request::Write(record, errand.first.clone());
        self.state = State::TakingFirst(errand);
        Step::Ask(Half::First, request)
    }

    fn took_first(&mut self, errand: Errand, reply: Result<WriteReply, StoreError>) -> Step {
        match reply {
            Ok(WriteReply::Applied(version)) => {
                self.findings.wrote_over |= errand.rewrites == 0 && errand.first != Expect::Absent;
                self.take_second(errand, version)
            }
            Ok(WriteReply::Conflict(Some(current))) => self.found_first(errand, Ok(current)),
            Ok(WriteReply::Conflict(None)) => {
                self.state = State::FindingFirst(errand);
                Step::Ask(Half::First, Request::Read)
            }
            Err(error) => {
                self.findings.unanswered = error.outcome_is_unknown().then_some(Half::First);
                self.done(Half::First, Reply::Wrote(Err(error)))
            }
        }
    }

    /// The first half is not as expected: by an earlier attempt of ours, or it is somebody else's.
    fn found_first(
        &mut self,
        mut errand: Errand,
        found: Result<Option<Stored>, StoreError>,
    ) -> Step {
        match found {
            Ok(Some(stored)) if self.is_ours(&stored) && errand.rewrites < REWRITES => {
                errand.rewrites += 1;
                self.findings.found[0] = true;
                // Where nothing can be changed safely, it stays as it is.
                if !self.is_first_leased {
                    return self.take_second(errand, stored.version);
                }
                errand.first = Expect::Version(stored.version);
                self.take_first(errand)
            }
            Ok(None) => self.done(Half::First, Reply::Wrote(Ok(WriteReply::Conflict(Some(None))))),
            Ok(Some(_)) | Err(_) => self.refused(Half::First),
        }
    }

    fn take_second(&mut self, errand: Errand, first: RecordVersion) -> Step {
        let request = Request::Write(errand.record.clone(), errand.second.clone());
        self.state = State::TakingSecond(errand, first);
        Step::Ask(Half::Second, request)
    }

    fn took_second(
        &mut self,
        errand: Errand,
        first: RecordVersion,
        reply: Result<WriteReply, StoreError>,
    ) -> Step {
        match reply {
            Ok(WriteReply::Applied(second)) => {
                let version = Versions { first: Some(first), second: Some(second) }.join();
                Step::Done(Reply::Wrote(Ok(WriteReply::Applied(version))))
            }
            Ok(WriteReply::Conflict(Some(current))) => {
                self.found_second(errand, first, Ok(current))
            }
            Ok(WriteReply::Conflict(None)) => {
                self.state = State::FindingSecond(errand, first);
                Step::Ask(Half::Second, Request::Read)
            }
            // It may be ours: a look tells.
            Err(error) if error.outcome_is_unknown() => {
                self.findings.unanswered = Some(Half::Second);
                self.findings.first = Some(FirstHalf::Ours);
                self.done(Half::Second, Reply::Wrote(Err(error)))
            }
            Err(error) => self.give_back(first, Err(error)),
        }
    }

    fn found_second(
        &mut self,
        mut errand: Errand,
        first: RecordVersion,
        found: Result<Option<Stored>, StoreError>,
    ) -> Step {
        match found {
            Ok(Some(stored)) if self.is_ours(&stored) && errand.rewrites < REWRITES => {
                errand.rewrites += 1;
                self.findings.found[1] = true;
                errand.second = Expect::Version(stored.version);
                self.take_second(errand, first)
            }
            Ok(None) => self.give_back(first, Ok(WriteReply::Conflict(Some(None)))),
            Ok(Some(_)) | Err(_) => self.give_back(first, Ok(WriteReply::Conflict(None))),
        }
    }

    fn give_back(&mut self, first: RecordVersion, then: Result<WriteReply, StoreError>) -> Step {
        self.state = State::GivingBack(Reply::Wrote(then));
        Step::Ask(Half::First, Request::Remove(first))
    }

    fn gave_back(&mut self, then: Reply, reply: Result<RemoveReply, StoreError>) -> Step {
        let error = match reply {
            // Changed: it is not ours, or its remove is for whoever looks.
            Ok(RemoveReply::Removed | RemoveReply::Conflict(Some(None))) => {
                self.findings.first = Some(FirstHalf::Gone);
                return self.done(Half::Second, then);
            }
            Ok(RemoveReply::Conflict(_)) => StoreError::Failed("it changed meanwhile".to_owned()),
            Err(error) => error,
        };
        if !error.is_transient() {
            self.findings.first = Some(FirstHalf::Kept(error));
            return self.done(Half::Second, then);
        }
        self.findings.first = Some(FirstHalf::Ours);
        let detail = format!("the acquired half of the lock could not be released: {error}");
        self.done(Half::First, Reply::Wrote(Err(StoreError::Failed(detail))))
    }

    /// Somebody has it; a look tells who.
    fn refused(&mut self, half: Half) -> Step {
        self.done(half, Reply::Wrote(Ok(WriteReply::Conflict(None))))
    }

    /// What this half has said is the reply of the pair.
    fn done(&mut self, half: Half, reply: Reply) -> Step {
        self.findings.from = Some(half);
        Step::Done(reply)
    }
}

fn out_of_turn() -> StoreError {
    StoreError::Failed("an answer to another request".to_owned())
}

/// What the pair shows as one register: nothing while no stranger has a half and not both are ours.
fn shown(first: Option<Stored>, second: Option<Stored>, id: &LockId) -> Option<Stored> {
    let is_ours = |half: &Stored| half.record.is_held_by(id);
    match (first, second) {
        (Some(first), Some(second))
            if is_ours(&first) == is_ours(&second) && is_same_holder(&first, &second) =>
        {
            let record = Record { lease: longer(&first.record, &second.record), ..second.record };
            let versions = Versions { first: Some(first.version), second: Some(second.version) };
            Some(Stored { record, version: versions.join() })
        }
        // Of two that do not share a lock, one after the other.
        (Some(Stored { record, version }), _) if !record.is_held_by(id) => {
            let versions = Versions { first: Some(version), second: None };
            Some(Stored { record, version: versions.join() })
        }
        (_, Some(Stored { record, version })) if !record.is_held_by(id) => {
            let versions = Versions { first: None, second: Some(version) };
            Some(Stored { record, version: versions.join() })
        }
        _ => None,
    }
}

/// Both halves of one lock have one lock info.
fn is_same_holder(first: &Stored, second: &Stored) -> bool {
    first.record.info.is_some() && first.record.info == second.record.info
}

/// The lease of a pair, which ends when that of both halves has; by the heartbeat of the second.
fn longer(first: &Record, second: &Record) -> Option<String> {
    let lease = |record: &Record| record.lease.as_deref().and_then(Lease::parse);
    let (first, second) = (lease(first)?, lease(second)?);
    let term = match (first.term, second.term) {
        (LeaseTerm::After(one), LeaseTerm::After(two)) => LeaseTerm::After(one.max(two)),
        _ => LeaseTerm::Never,
    };
    Some(Lease { term, beat: second.beat }.to_text())
}

#[cfg(test)]
mod tests;
