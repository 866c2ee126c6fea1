//! Random schedules with more faults than a search can visit, on the real `MemoryStore`. The same
//! world, the same properties, virtual time.

use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestRng, TestRunner};
use tfwrap::lock::LockKey;
use tfwrap::store::{MemoryStore, Registers, Stored};

use crate::config::{Config, Crash, Kinds};
use crate::seeded::seeded;
use crate::world::World;
use tfwrap::lock::register::{Reply, Request};

/// A store of the product in place of the world's own register.
#[derive(Debug, Clone)]
pub(crate) struct Real(Arc<MemoryStore>);

impl Real {
    fn new() -> Self {
        Self(Arc::new(MemoryStore::new()))
    }

    fn key() -> LockKey {
        LockKey("bucket/state".to_owned())
    }

    pub(crate) fn read(&self) -> Option<Stored> {
        let Reply::Read(Ok(stored)) = self.apply(&Request::Read) else { return None };
        stored
    }

    pub(crate) fn apply(&self, request: &Request) -> Reply {
        let key = Self::key();
        let reply = async {
            match request {
                Request::Read => Reply::Read(self.0.read(&key).await),
                Request::Write(record, expect) => {
                    Reply::Wrote(self.0.write(&key, record, expect).await)
                }
                Request::Remove(version) => Reply::Removed(self.0.remove(&key, version).await),
            }
        };
        reply.now_or_never().expect("it never waits")
    }
}

impl PartialEq for Real {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Real {}

impl Hash for Real {
    /// What is in it is in the world's image of it.
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// Plays a schedule: every number decides one step, and after the last one there is no trouble any
/// more. Then everything must come to its end.
fn play(config: &Config, schedule: &[u16]) -> Result<(), String> {
    let Err(wrong) = play_and_tell(config, schedule, None) else { return Ok(()) };
    // It is told only where there is something to tell.
    let mut told = String::new();
    let again = play_and_tell(config, schedule, Some(&mut told));
    assert_eq!(again.as_ref(), Err(&wrong), "the same schedule ends in the same way");
    Err(format!("{wrong}\n{told}"))
}

fn play_and_tell(
    config: &Config,
    schedule: &[u16],
    mut told: Option<&mut String>,
) -> Result<(), String> {
    let mut world = World::new(config)?;
    world.real = Some(Real::new());
    let mut schedule = schedule.iter().map(|choice| usize::from(*choice));
    for _ in 0..20_000 {
        let actions = world.actions(config);
        // What is late lands in the end.
        if world.is_over() && actions.is_empty() {
            return Ok(());
        }
        let choice = schedule.next();
        let trouble = choice.is_some_and(|choice| choice % 8 == 0);
        let (troubles, quiet): (Vec<_>, Vec<_>) =
            actions.into_iter().partition(|action| action.is_trouble());
        let from =
            if (trouble && !troubles.is_empty()) || quiet.is_empty() { troubles } else { quiet };
        let Some(action) = from.get(choice.unwrap_or(0) / 8 % from.len().max(1)) else {
            return Err("everybody waits for ever".to_owned());
        };
        if let Some(told) = &mut told {
            let _ = writeln!(told, "{:>7} ms {action:?} {}", world.now, world.asked(*action));
        }
        world.step(config, *action)?;
    }
    Err("it never ends".to_owned())
}

fn config(rates: Vec<u64>, seed: u64) -> Config {
    Config {
        runs: vec![2; rates.len()],
        rates,
        wait: Duration::from_mins(10),
        oversleep: 100,
        faults: 8,
        long_children: 3,
        stock: true,
        seed,
        // A crashed stock Terraform holds its lock for ever, and nothing more would happen.
        kinds: Kinds { stock_crashes: false, ..Kinds::ALL },
        ..Config::default()
    }
}

fn schedules() -> impl Strategy<Value = Vec<u16>> {
    prop::collection::vec(any::<u16>(), 0..600)
}

proptest! {
    #![proptest_config(seeded(500))]

    #[test]
    fn what_must_hold_holds_under_any_schedule_and_faults_on_the_memory_store(
        rates in prop::collection::vec(95..=105_u64, 3),
        seed in any::<u32>(),
        guarded in any::<bool>(),
        schedule in schedules(),
    ) {
        let crash = if guarded { Crash::IsFollowed } else { Crash::EndsAll };
        let config = Config { crash, ..config(rates, u64::from(seed)) };
        play(&config, &schedule).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn a_person_who_unlocks_is_noticed_or_the_lock_is_back(
        seed in any::<u32>(),
        schedule in schedules(),
    ) {
        let config = Config { unlocks: 2, ..config(vec![95, 105, 100], u64::from(seed)) };
        play(&config, &schedule).map_err(TestCaseError::fail)?;
    }
}

/// Found after two million schedules: one run is over and the next begins in the instant in which
/// the first had found its lock, beaten twice in vain and lost it. Each has its own requests.
#[test]
fn a_run_that_begins_when_another_ends_asks_afresh() {
    const FOUND: [u16; 72] = [
        23265, 6344, 4593, 35288, 53704, 1369, 1, 2145, 1, 17, 321, 2921, 1, 1, 1, 1, 5105, 8609,
        1289, 33, 1633, 23712, 4712, 1, 14633, 1, 3312, 97, 1, 35225, 1, 2449, 30961, 865, 145, 1,
        1, 1, 33, 5249, 1, 1, 2625, 1, 19608, 9, 809, 1, 2889, 14025, 4585, 209, 105, 3633, 393,
        20345, 9809, 1, 27729, 1, 1, 56488, 39728, 9, 193, 30057, 26768, 25, 19545, 1, 1, 24560,
    ];
    let config = Config { unlocks: 2, ..config(vec![95, 105, 100], 2_530_027_600) };
    play(&config, &FOUND).unwrap_or_else(|wrong| panic!("{wrong}"));
}

/// The control: the same schedules find what is there to find.
#[test]
fn a_clock_that_is_too_slow_for_the_fence_is_found_by_random_schedules() {
    let proptest = ProptestConfig {
        cases: 5_000,
        failure_persistence: None,
        max_shrink_iters: 0,
        ..ProptestConfig::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let none = Kinds { requests: false, crashes: false, pauses: false, stops: false, ..Kinds::ALL };
    let kinds = Kinds { stock_crashes: false, ..none };
    let config = Config { kinds, stock: false, ..config(vec![50, 50, 105], 1) };
    let result = TestRunner::new_with_rng(proptest, rng)
        .run(&schedules(), |schedule| play(&config, &schedule).map_err(TestCaseError::fail));
    assert!(result.is_err(), "nothing was found");
}
