use super::*;

const LEASE: &str = r#"{"beat":3,"ttl":60000}"#;

fn id(id: &str) -> LockId {
    LockId(id.to_owned())
}

fn record(id: &str, lease: Option<&str>) -> Record {
    let info = Some(format!(r#"{{"ID":"{id}"}}"#));
    Record { info, lease: lease.map(ToOwned::to_owned) }
}

/// Two registers, of which each write counts one up, and what was asked of them.
#[derive(Default)]
struct Registers {
    halves: [Option<Stored>; 2],
    writes: u32,
    asked: Vec<String>,
    /// What becomes of the n-th request: it is not answered, and is carried out or not.
    lost: Option<(usize, bool)>,
    /// Why removes fail.
    keeps: Option<StoreError>,
    /// What the last request has found.
    findings: Findings,
}

impl Registers {
    fn of(first: Option<Record>, second: Option<Record>) -> Self {
        let mut this = Self::default();
        for (half, record) in [(Half::First, first), (Half::Second, second)] {
            if let Some(record) = record {
                this.carry_out(half, &Request::Write(record, Expect::Absent));
            }
        }
        this
    }

    fn carry_out(&mut self, half: Half, request: &Request) -> Reply {
        let at = &mut self.halves[half as usize];
        let current = at.clone();
        match request {
            Request::Read => Reply::Read(Ok(current)),
            Request::Write(record, expect) if expect.holds(current.as_ref()) => {
                self.writes += 1;
                let version = RecordVersion(format!("\"{}", self.writes));
                *at = Some(Stored { record: record.clone(), version: version.clone() });
                Reply::Wrote(Ok(WriteReply::Applied(version)))
            }
            // As S3 does it, and as `DynamoDB` does.
            Request::Write(..) if half == Half::First => {
                Reply::Wrote(Ok(WriteReply::Conflict(None)))
            }
            Request::Write(..) => Reply::Wrote(Ok(WriteReply::Conflict(Some(current)))),
            Request::Remove(_) if self.keeps.is_some() => {
                Reply::Removed(Err(self.keeps.clone().expect("looked at")))
            }
            Request::Remove(version)
                if current.as_ref().is_some_and(|it| it.version == *version) =>
            {
                *at = None;
                Reply::Removed(Ok(RemoveReply::Removed))
            }
            Request::Remove(_) => Reply::Removed(Ok(RemoveReply::Conflict(Some(current)))),
        }
    }

    fn ask(&mut self, ours: &str, request: Request) -> Reply {
        let mut pair = PairRequest::new(id(ours), true, request);
        let mut step = pair.start();
        for _ in 0..12 {
            let (half, request) = match step {
                Step::Ask(half, request) => (half, request),
                Step::Done(reply) => {
                    self.findings = pair.findings().clone();
                    return reply;
                }
            };
            let what = match &request {
                Request::Read => "look",
                Request::Write(..) => "write",
                Request::Remove(_) => "remove",
            };
            let n = self.asked.len();
            self.asked.push(format!("{what} {half:?}"));
            let reply = match self.lost.filter(|lost| lost.0 == n) {
                None => self.carry_out(half, &request),
                Some((_, is_done)) => {
                    if is_done {
                        self.carry_out(half, &request);
                    }
                    request.failed(StoreError::Unavailable { detail: String::new(), sent: true })
                }
            };
            step = pair.answered(reply);
        }
        panic!("without an end: {:?}", self.asked);
    }

    fn create(&mut self, ours: &str) -> Result<WriteReply, StoreError> {
        let request = Request::Write(record(ours, Some(LEASE)), Expect::Absent);
        let Reply::Wrote(reply) = self.ask(ours, request) else { panic!("no reply to a write") };
        reply
    }

    fn look(&mut self, ours: &str) -> Option<Stored> {
        let Reply::Read(reply) = self.ask(ours, Request::Read) else {
            panic!("no reply to a look")
        };
        reply.expect("an answer")
    }

    fn holders(&self) -> [Option<String>; 2] {
        let info = |half: &Option<Stored>| half.as_ref().and_then(|it| it.record.info.clone());
        [info(&self.halves[0]), info(&self.halves[1])]
    }
}

fn both(ours: &str) -> [Option<String>; 2] {
    [record(ours, None).info, record(ours, None).info]
}

#[test]
fn versions_are_joined_and_taken_apart() {
    let some = |text: &str| Some(RecordVersion(text.to_owned()));
    for (first, second) in
        [(None, None), (some("\"a\""), None), (None, some("{}")), (some(""), some("x"))]
    {
        let versions = Versions { first, second };
        assert_eq!(Versions::of(&versions.join()), versions);
    }
    assert_eq!(Versions::of(&RecordVersion("junk".to_owned())), Versions::default());
}

#[test]
fn the_first_half_is_taken_first_and_the_second_is_looked_at_before() {
    let mut free = Registers::default();
    assert!(matches!(free.create("me"), Ok(WriteReply::Applied(_))));
    assert_eq!(free.asked, ["look Second", "write First", "write Second"]);
    assert_eq!(free.holders(), both("me"));
    let mut held = Registers::of(None, Some(record("them", None)));
    assert_eq!(held.create("me"), Ok(WriteReply::Conflict(None)));
    assert_eq!(held.asked, ["look Second"], "the first half is made in vain");
}

#[test]
fn where_the_second_cannot_be_had_the_first_is_given_back() {
    // Somebody is quicker, after the look.
    let mut registers = Registers::default();
    let request = Request::Write(record("me", Some(LEASE)), Expect::Absent);
    let mut pair = PairRequest::new(id("me"), true, request);
    let Step::Ask(Half::Second, Request::Read) = pair.start() else { panic!("no look") };
    let mut step = pair.answered(Reply::Read(Ok(None)));
    registers.carry_out(Half::Second, &Request::Write(record("them", None), Expect::Absent));
    while let Step::Ask(half, request) = step {
        step = pair.answered(registers.carry_out(half, &request));
    }
    assert_eq!(step, Step::Done(Reply::Wrote(Ok(WriteReply::Conflict(None)))));
    assert_eq!(registers.holders(), [None, record("them", None).info]);
}

/// Whatever request is not answered: what the next look and the next attempt find is either both, or
/// nothing of ours beside somebody else's.
#[test]
fn whatever_is_not_answered_is_found_again() {
    for lost in 0..3 {
        for is_done in [false, true] {
            let mut registers = Registers { lost: Some((lost, is_done)), ..Registers::default() };
            let error = registers.create("me").expect_err("one is not answered");
            // A look has changed nothing.
            assert_eq!(error.outcome_is_unknown(), lost > 0, "{lost}");
            let is_ours = registers.look("me").is_some();
            assert_eq!(is_ours, lost == 2 && is_done, "{lost} {is_done}");
            if !is_ours {
                assert!(matches!(registers.create("me"), Ok(WriteReply::Applied(_))), "{lost}");
            }
            assert_eq!(registers.holders(), both("me"), "{lost} {is_done}");
        }
    }
}

#[test]
fn a_roll_back_that_fails_is_unknown_and_made_up_for_by_the_next_look() {
    let mut registers = Registers::of(Some(record("me", Some(LEASE))), Some(record("them", None)));
    registers.keeps = Some(StoreError::Throttled("no".to_owned()));
    // As a take-over of what somebody has by then.
    let expect = Versions { first: None, second: Some(RecordVersion("gone".to_owned())) };
    let request = Request::Write(record("me", Some(LEASE)), Expect::Version(expect.join()));
    let reply = registers.ask("me", request.clone());
    let Reply::Wrote(Err(error)) = reply else { panic!("it is ours?") };
    assert!(error.outcome_is_unknown() && error.to_string().contains("released"), "{error}");
    assert_eq!(registers.findings.first, Some(FirstHalf::Ours));
    // Where another try does not help, nothing is unknown.
    let denied = StoreError::Denied(super::super::Flaw::from("no".to_owned()));
    registers.keeps = Some(denied.clone());
    let reply = registers.ask("me", request);
    assert_eq!(reply, Reply::Wrote(Ok(WriteReply::Conflict(None))));
    assert_eq!(registers.findings.first, Some(FirstHalf::Kept(denied.clone())));
    let _shown = registers.look("me");
    assert_eq!(registers.findings.first, Some(FirstHalf::Kept(denied)));
    registers.keeps = None;
    let shown = registers.look("me").expect("they have it");
    assert_eq!(shown.record, record("them", None));
    assert_eq!(registers.holders(), [None, record("them", None).info]);
    assert_eq!(registers.findings.first, Some(FirstHalf::Gone));
}

/// A stranger's half holds the lock, and is as old as the older of two.
#[test]
fn what_a_look_shows_is_whoever_has_a_half() {
    let (never, short) = (r#"{"beat":1}"#, r#"{"beat":7,"ttl":15000}"#);
    let them = |lease| Some(record("them", lease));
    for (first, second, lease) in [
        (them(Some(LEASE)), None, Some(LEASE)),
        (None, them(Some(LEASE)), Some(LEASE)),
        (them(Some(LEASE)), them(Some(short)), Some(r#"{"beat":7,"ttl":60000}"#)),
        (them(Some(never)), them(Some(short)), Some(r#"{"beat":7}"#)),
        (them(None), them(Some(short)), None),
        (them(Some(LEASE)), them(None), None),
        // Two that share no lock: what the first has is shown.
        (them(Some(LEASE)), Some(record("others", Some(short))), Some(LEASE)),
    ] {
        let mut registers = Registers::of(first, second);
        let shown = registers.look("me").expect("it is held");
        assert_eq!(shown.record.info, record("them", None).info);
        assert_eq!(shown.record.lease.as_deref(), lease);
        // It is taken over by just the versions that were seen, and then it is ours, or nothing is.
        let request = Request::Write(record("me", Some(LEASE)), Expect::Version(shown.version));
        registers.ask("me", request);
        let others = record("others", None).info;
        let is_left = registers.holders() == [None, others];
        assert!(is_left || registers.holders() == both("me"), "{:?}", registers.holders());
    }
}

#[test]
fn who_beats_in_either_half_is_not_taken_over() {
    for half in [Half::First, Half::Second] {
        let them = || Some(record("them", Some(LEASE)));
        let mut registers = Registers::of(them(), them());
        let shown = registers.look("me").expect("it is held");
        let version = registers.halves[half as usize].clone().expect("held").version;
        let beat = Request::Write(
            record("them", Some(r#"{"beat":4,"ttl":60000}"#)),
            Expect::Version(version),
        );
        registers.carry_out(half, &beat);
        let request = Request::Write(record("me", Some(LEASE)), Expect::Version(shown.version));
        let reply = registers.ask("me", request);
        assert!(matches!(reply, Reply::Wrote(Ok(WriteReply::Conflict(_)))), "{reply:?}");
        let theirs = record("them", None).info;
        let ours_nowhere = !registers.holders().contains(&record("me", None).info);
        assert!(ours_nowhere && registers.holders().contains(&theirs), "{:?}", registers.holders());
    }
}
