//! Whoever ends a child, and however often that is begun anew by another.

use proptest::prelude::*;

use super::*;

const GRACE: Duration = Duration::from_mins(1);

fn at(seconds: u64) -> Uptime {
    Uptime(Duration::from_secs(seconds))
}

fn known(interrupts: Interrupts) -> EndingStart {
    EndingStart { interrupts, killed: false, grace: GRACE, fence: None, is_left_at_last: true }
}

const INTERRUPT: [Action; 3] =
    [Action::Note(Interrupts::Maybe), Action::Interrupt, Action::Note(Interrupts::Sent)];

#[test]
fn a_child_gets_its_interrupt_is_waited_for_and_killed_when_its_time_is_over() {
    let mut ending = Ending::begin(known(Interrupts::None), at(0));
    assert_eq!(ending.step(at(0), Event::Tick), INTERRUPT);
    assert_eq!(ending.step(at(59), Event::Tick), []);
    assert_eq!(ending.deadline(), Some(at(60)));
    assert_eq!(ending.step(at(60), Event::Tick), [Action::Kill(Why::Late)]);
    assert_eq!(ending.step(at(61), Event::Gone), [], "a request may be in flight");
    assert_eq!(ending.deadline(), Some(at(61).plus(SETTLE)));
    assert_eq!(ending.step(at(61).plus(SETTLE), Event::Gone), [Action::Release]);
    assert_eq!(ending.step(at(99), Event::LeaseEnds), []);
}

#[test]
fn one_that_had_its_interrupt_gets_no_other() {
    let mut ending = Ending::begin(known(Interrupts::Sent), at(0));
    assert_eq!(ending.step(at(0), Event::Tick), []);
    assert_eq!(ending.step(at(30), Event::Gone), [], "who knows how it ended");
    assert_eq!(ending.step(at(30).plus(SETTLE), Event::Gone), [Action::Release]);
}

#[test]
fn where_that_is_not_known_it_has_its_time_first() {
    let mut ending = Ending::begin(known(Interrupts::Maybe), at(0));
    assert_eq!(ending.step(at(29), Event::Tick), []);
    assert_eq!(ending.step(at(30), Event::Tick), INTERRUPT);
}

#[test]
fn it_is_gone_before_its_lease_ends() {
    let fence = Some(at(10));
    let mut ending = Ending::begin(EndingStart { fence, ..known(Interrupts::Sent) }, at(0));
    assert_eq!(ending.deadline(), fence);
    assert_eq!(ending.step(at(10), Event::Tick), [Action::Kill(Why::LeaseEnds)]);
    let mut ending = Ending::begin(known(Interrupts::Sent), at(0));
    assert_eq!(ending.step(at(5), Event::LeaseEnds), [Action::Kill(Why::LeaseEnds)]);
    assert_eq!(ending.step(at(6), Event::LeaseEnds), []);
}

#[test]
fn a_stop_leaves_it_as_it_is_and_so_does_a_child_that_cannot_die() {
    let mut ending = Ending::begin(known(Interrupts::None), at(0));
    assert_eq!(ending.step(at(0), Event::Stop), [Action::Leave]);
    assert_eq!((ending.step(at(90), Event::Tick), ending.deadline()), (vec![], None));
    let mut ending = Ending::begin(known(Interrupts::Sent), at(0));
    assert_eq!(ending.step(at(60), Event::Tick), [Action::Kill(Why::Late)]);
    let last = at(60).plus(AFTER_KILL);
    assert_eq!(ending.deadline(), Some(last));
    assert_eq!(ending.step(last, Event::Tick), [Action::Leave]);
}

#[test]
fn what_an_ended_child_has_left_gets_an_interrupt_and_a_grace_and_a_terraform_among_it_all_its_time()
 {
    for interrupts in [Interrupts::None, Interrupts::Maybe, Interrupts::Sent] {
        let mut ending = Ending::begin(known(interrupts), at(0));
        let first = ending.step(at(0), Event::OnlyRest);
        let is_told = [Action::Interrupt, Action::InterruptRest];
        assert_eq!(first.iter().filter(|it| is_told.contains(it)).count(), 1, "{interrupts:?}");
        let due = at(0).plus(GROUP_GRACE);
        assert_eq!(ending.deadline(), Some(due), "{interrupts:?}");
        assert_eq!(ending.step(at(1), Event::OnlyRest), [], "one interrupt");
        // A process of it was a Terraform, or became one.
        assert_eq!(ending.step(due, Event::Tick), []);
        let again = due.plus(GROUP_GRACE);
        assert_eq!(ending.step(again, Event::OnlyRest), [Action::Kill(Why::Left)]);
        assert_eq!(ending.step(again.plus(GROUP_GRACE), Event::OnlyRest), [], "once");
        assert_eq!(ending.step(at(20), Event::Gone), []);
        assert_eq!(ending.step(at(20).plus(SETTLE), Event::Gone), [Action::Release]);
    }
}

/// A child, and what is written down of it.
#[derive(Debug)]
struct Body {
    noted: Interrupts,
    interrupted_at: Vec<Uptime>,
    /// How long after its interrupt it ends; none: never.
    willing: Option<Duration>,
    killed_at: Option<Uptime>,
    /// Something of its group outlives it.
    leaves: bool,
}

impl Body {
    fn is_gone(&self, now: Uptime) -> bool {
        self.killed_at.is_some() || (self.has_ended(now) && !self.leaves)
    }

    fn has_ended(&self, now: Uptime) -> bool {
        let ends = self.interrupted_at.first().zip(self.willing).map(|(at, lag)| at.plus(lag));
        self.killed_at.is_some() || ends.is_some_and(|at| now >= at)
    }
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Happens(Event),
    /// Whoever ends it dies after so many of its next actions; another follows.
    Dies(usize),
    /// The next interrupt is refused.
    Refused,
}

fn fate() -> impl Strategy<Value = Fate> {
    use Fate::Happens;
    prop_oneof![
        4 => Just(Happens(Event::Tick)),
        1 => Just(Happens(Event::LeaseEnds)),
        1 => Just(Happens(Event::Stop)),
        3 => (0_usize..4).prop_map(Fate::Dies),
        1 => Just(Fate::Refused),
    ]
}

proptest! {
    /// Stops, leases that end, deaths and faults at every event: one interrupt, also through several who end
    /// it one after the other, and no release under a child.
    #[test]
    fn one_interrupt_whoever_ends_it_and_no_release_before_its_end(
        willing in proptest::option::of(0_u64..90),
        leaves in any::<bool>(),
        begun in prop_oneof![Just(Interrupts::None), Just(Interrupts::Sent)],
        fates in proptest::collection::vec((0_u64..25, fate()), 0..40),
    ) {
        let mut now = at(0);
        let mut body = Body {
            noted: begun,
            interrupted_at: if begun == Interrupts::Sent { vec![now] } else { vec![] },
            willing: willing.map(Duration::from_secs),
            killed_at: None,
            leaves,
        };
        let mut ending = Ending::begin(known(begun), now);
        // Somebody died between the interrupt and the word that it was sent.
        let mut unsure = false;
        let mut refused = false;
        let mut was_refused = false;
        let mut over = false;
        let mut gone_since = None;
        let rest = std::iter::repeat_n((20, Fate::Happens(Event::Tick)), 40);
        for (later, fate) in fates.into_iter().chain(rest) {
            now = now.plus(Duration::from_secs(later));
            let (event, dies_after) = match fate {
                Fate::Happens(event) => (event, None),
                Fate::Dies(after) => (Event::Tick, Some(after)),
                Fate::Refused => { refused = true; (Event::Tick, None) }
            };
            let event = if body.is_gone(now) { Event::Gone } else { event };
            let only_rest = body.has_ended(now) && event == Event::Tick;
            let event = if only_rest { Event::OnlyRest } else { event };
            if event == Event::Gone {
                gone_since.get_or_insert(now);
            }
            let actions = ending.step(now, event);
            let mut left = false;
            for action in actions.iter().take(dies_after.unwrap_or(usize::MAX)) {
                match *action {
                    Action::Note(noted) => body.noted = noted,
                    Action::Interrupt => {
                        prop_assert_eq!(body.noted, Interrupts::Maybe, "not written down before");
                        if std::mem::take(&mut refused) {
                            was_refused = true;
                        } else {
                            body.interrupted_at.push(now);
                        }
                    }
                    Action::InterruptRest => prop_assert!(body.has_ended(now)),
                    Action::Kill(why) => {
                        prop_assert!(why != Why::Left || body.has_ended(now), "it had its time");
                        let had = !body.interrupted_at.is_empty() || was_refused;
                        prop_assert!(had || why == Why::LeaseEnds, "killed without an interrupt");
                        body.killed_at.get_or_insert(now);
                    }
                    Action::Release => {
                        prop_assert!(body.is_gone(now), "a free lock with a child that lives");
                        let settled = gone_since.is_some_and(|at| now.since(at) >= SETTLE);
                        prop_assert!(settled, "a request of its may be in flight");
                        over = true;
                    }
                    Action::Leave => left = true,
                }
            }
            if over {
                break;
            }
            // The next one goes on from what is written down.
            if dies_after.is_some() || left {
                unsure |= body.noted == Interrupts::Maybe;
                ending = Ending::begin(known(body.noted), now);
            }
        }
        prop_assert!(over || body.willing.is_some() || body.killed_at.is_some() , "it has no end");
        let got = &body.interrupted_at;
        prop_assert!(got.len() == 1 || unsure || got.is_empty(), "{} interrupts", got.len());
        for pair in got.windows(2) {
            prop_assert!(pair[1].since(pair[0]) >= GRACE / 2, "it had no time: {:?}", got);
        }
    }
}
