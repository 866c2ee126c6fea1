//! A model check of the lock over the machines that the program runs: [`Acquire`], [`Tenure`] with its
//! [`LeaseKeeper`] and [`Release`], [`LockedRun`] with its [`Supervisor`] and, in a world of its own,
//! [`Queue`]. There is no second copy of
//! `docs/protocol.md` here; what is modelled is the world around them.
//!
//! | module | is |
//! | --- | --- |
//! | `client` | one tfwrap: the machines, driven as the event loop in `run` drives them |
//! | `client::below` | a command below a `hold`, which keeps the lock above it, too: [`LeaseKeeper::beside`] |
//! | `client::guarded` | its guardian: [`LeaseKeeper::adopt`], [`Landing`] and [`Release`], driven as `run::orphan` does |
//! | `child` | its child, which outlives both |
//! | `guardian` | the searches in which tfwrap alone is killed or stopped |
//! | `stock` | a stock Terraform, which never beats and deletes by key |
//! | `world` | the register, requests on their way, time, faults, and the properties |
//! | `search` | visits every world that can be reached, each once |
//! | `line` | another world, of waiters that join the line: [`Queue`] |
//! | `nest` | another world, of the commands below a `run` or a `hold`: turns, and who outlives whom |
//! | `pair` | another world, of two registers that are one lock: [`PairRequest`] |
//! | `halves` | how the two are kept: heartbeats of one half that are lost, and who wants that half alone |
//! | `optimistic` | another world, of those who write a state and a plan without the lock: [`OptimisticRead`] |
//! | `group` | another world, of a child with others in its group: [`Supervisor`], [`Canary`] |
//! | `faults` | random schedules with more faults, on the `MemoryStore` of the product |
//! | `request` | what is asked of the store, and where that is on its way |
//! | `family` | a child and its group around the shipped machines |
//! | `seeded` | how property tests get their seed |
//! | `config` | what a search explores, and the mutations |
//!
//! # The world
//!
//! One register under compare-and-swap, whose version is made of its content (as in DynamoDB; a
//! counter would be stronger). A request is applied and answered, or it is lost, dropped, refused,
//! slow on its way there or back, or late: it reaches the store after its client gave it up, any
//! time within five minutes. A tfwrap may crash with all it started, stand still for a while with
//! its machine, lose sight of the store (of all of it, or of writes alone), or be stopped by its
//! user. Or it is killed alone, and its guardian takes over, until that is killed, too; or stopped
//! alone, and its guardian counts the lease by what it was told after every reply. Or it is a
//! command below a `hold` that dies, and then it, or its guardian, keeps the lock alone. Or somebody
//! kills a child, alone or with its tfwrap, and what it has sent arrives up to 1.9 s later. A person may
//! remove the lock by its ID. Clocks run within 5 % of each other and have nothing else in common.
//! Time jumps to the next thing that is due. The lease is the shortest there is, 15 s.
//!
//! # What must hold
//!
//! - I1: the children of two clients never act at once (but for a person's `force-unlock`, which
//!   its loser notices within a beat, unless its own record came back; and but for a child that
//!   outlives both its tfwrap and the guardian).
//! - I2: nobody changes a record that is not its own, but for an expired lease; and then the
//!   holder's child is gone, or stands still with its holder.
//! - I3: when a run is over, its record goes, or its user was told. When a guardian ended it, the
//!   record goes, or the receipt stays; but for a create that lands after the guardian has looked
//!   for it, whose lease is short.
//! - No child is interrupted twice, whoever does it.
//! - A lock is dated from before it was stored.
//! - Everything comes to its end, without asking again and again in one instant; whom nothing
//!   hit gets its turn.
//!
//! # How deep
//!
//! By default about ten million states in about two minutes on two cores, unoptimised.
//! `TFWRAP_MODEL_DEPTH=deep` lets faults happen at any time and adds one to some searches: seventy
//! million states, ten minutes on two busy cores and a gigabyte, if optimised:
//! `TFWRAP_MODEL_DEPTH=deep cargo test --config 'profile.dev.package.tfwrap.opt-level=2' --test model
//! -- --nocapture`.
//!
//! # Not modelled yet
//!
//! - A guardian that is stopped by itself; one that is killed while its tfwrap lives, which is
//!   replaced at once, and not while that is stopped; one that cannot open the store of a lock.
//! - Of the line all but joining it, and stops and faults meanwhile: see `tests/sim`. Two waiters,
//!   with a stop and two faults in the first second, are 275,000 states.
//! - Of a group of more than one process what happens between two steps of `supervise::child`, and
//!   who joins it later.
//! - The instant between the end of a pause and the first tick after it, in which a child may act;
//!   pauses that the machine's own clocks do not show; several locks; leases without expiry.
//!
//! [`Acquire`]: tfwrap::lock::acquire::Acquire
//! [`Canary`]: tfwrap::supervise::Canary
//! [`LeaseKeeper`]: tfwrap::lock::lease_keeper::Keeper
//! [`Landing`]: tfwrap::lock::landing::Landing
//! [`OptimisticRead`]: tfwrap::lock::optimistic_read::OptimisticRead
//! [`PairRequest`]: tfwrap::lock::pair::PairRequest
//! [`Queue`]: tfwrap::lock::queue::Queue
//! [`Release`]: tfwrap::lock::release::Release
//! [`LockedRun`]: tfwrap::supervise::LockedRun
//! [`Supervisor`]: tfwrap::supervise::Supervisor
//! [`Tenure`]: tfwrap::lock::tenure::Tenure

mod child;
mod client;
mod config;
#[path = "../support/family.rs"]
mod family;
mod faults;
mod group;
mod guardian;
mod halves;
mod line;
mod nest;
mod optimistic;
mod pair;
mod request;
mod search;
#[path = "../support/seeded.rs"]
mod seeded;
mod stock;
mod world;

use config::{Config, Kinds, Millis, Mutation};
use search::{Explored, search};
use tfwrap::supervise::{Policy, SecondSignal};
use world::World;

#[expect(clippy::disallowed_methods, reason = "a test has no `Env`")]
fn deep() -> bool {
    std::env::var_os("TFWRAP_MODEL_DEPTH").is_some_and(|depth| depth == "deep")
}

/// Faults happen this early, unless the search is to be deep.
fn until(shallow: Millis) -> Millis {
    if deep() { Millis::MAX } else { shallow }
}

#[expect(clippy::disallowed_methods, reason = "to print it")]
fn explore<W: Explored>(name: &str, config: &W::Config) -> Option<String> {
    let started = std::time::Instant::now();
    let report = search::<W>(config);
    println!(
        "{name}: {} states, {} steps, {} ends in {:.1} s",
        report.states,
        report.steps,
        report.ends,
        started.elapsed().as_secs_f64()
    );
    report.counterexample
}

#[track_caller]
fn holds(name: &str, config: &Config) {
    if let Some(counterexample) = explore::<World>(name, config) {
        panic!("{name}: {counterexample}");
    }
}

/// The search finds what is wrong on purpose, and that is it.
#[track_caller]
fn is_caught(name: &str, config: &Config, expected: &[&str]) {
    let Some(counterexample) = explore::<World>(name, config) else {
        panic!("{name} is not caught")
    };
    assert!(expected.iter().any(|it| counterexample.contains(it)), "{name}: {counterexample}");
}

/// The holder's clock slow, the waiter's fast, or the other way round: either may come first.
fn two() -> Config {
    Config { rates: vec![95, 105], runs: vec![1, 1], ..Config::default() }
}

const OVERLAP: [&str; 2] = ["whose child lives", "I1:"];

#[test]
fn three_clients_with_a_fault() {
    let faults_until = until(2_500);
    holds("three clients, one fault", &Config { faults_until, ..Config::default() });
}

/// Nobody is in its way but the store: what it leaves behind, and whether it says so.
#[test]
fn one_client_with_three_faults() {
    let faults_until = until(8_000);
    let kinds = Kinds { pauses: deep(), crashes: deep(), ..Kinds::ALL };
    let one = Config { rates: vec![100], runs: vec![1], ..Config::default() };
    holds("one client, three faults", &Config { faults: 3, faults_until, kinds, ..one });
}

#[test]
fn two_clients_with_two_faults() {
    let (faults, faults_until) = if deep() { (3, 400) } else { (2, 2_000) };
    holds("two clients, more faults", &Config { faults, faults_until, ..two() });
}

#[test]
fn two_clients_with_a_fault_at_any_time() {
    let faults = if deep() { 2 } else { 1 };
    holds("two clients, faults at any time", &Config { faults, ..two() });
}

#[test]
fn a_store_whose_refusals_show_nothing() {
    let config = Config { shows: false, faults_until: until(5_000), ..two() };
    holds("refusals that show nothing", &config);
}

#[test]
fn a_client_that_runs_twice() {
    let config = Config { runs: vec![2, 1], faults_until: until(5_000), ..two() };
    holds("a client that runs twice", &config);
}

#[test]
fn a_stock_terraform_beside_two_clients() {
    let config = Config { stock: true, faults_until: until(3_000), ..two() };
    holds("a stock Terraform", &config);
}

#[test]
fn a_person_who_unlocks() {
    let faults = u8::from(deep());
    holds("force-unlock", &Config { unlocks: 1, faults, stock: true, ..two() });
}

/// Two faults that concern requests alone.
fn mutated(mutation: Mutation) -> Config {
    let kinds = Kinds { crashes: false, stock_crashes: false, stops: false, ..Kinds::ALL };
    Config { mutation: Some(mutation), kinds, faults_until: 8_000, ..two() }
}

#[test]
fn a_lease_renewed_by_read_back_is_caught() {
    let config = mutated(Mutation::RenewedByReadBack);
    is_caught("mutation: renewed by read-back", &config, &OVERLAP);
}

#[test]
fn an_acquire_found_by_read_back_and_counted_from_now_is_caught() {
    let mut config = Config { faults: 2, ..mutated(Mutation::FoundCountedFromNow) };
    config.kinds.pauses = false;
    is_caught("mutation: found, counted from now", &config, &OVERLAP);
}

#[test]
fn a_holder_that_counts_from_the_reply_is_caught() {
    let mut config = Config { faults: 2, ..mutated(Mutation::HolderFromReply) };
    config.kinds.pauses = false;
    is_caught("mutation: holder counts from the reply", &config, &OVERLAP);
}

#[test]
fn a_waiter_that_counts_from_the_request_is_caught() {
    let mut config = Config { faults: 2, runs: vec![2, 1], ..mutated(Mutation::WaiterFromRequest) };
    config.kinds.pauses = false;
    is_caught(
        "mutation: waiter counts from the request",
        &config,
        &["I2:", OVERLAP[0], OVERLAP[1]],
    );
}

#[test]
fn a_fence_later_than_the_take_over_is_caught() {
    let config = Config { rates: vec![70, 105], ..two() };
    is_caught("mutation: fence later than the take-over", &config, &OVERLAP);
}

/// A waiter that looks away takes the second run for the first, standing still; and a late remove
/// of the first removes the second.
#[test]
fn the_same_bytes_in_two_tenures_are_caught() {
    let both = Config { runs: vec![2, 1], ..mutated(Mutation::SameBytes) };
    let kinds = Kinds { requests: false, ..both.kinds };
    let still = Config { kinds, ..both.clone() };
    is_caught("mutation: the same bytes twice", &still, &["I2:", OVERLAP[0], OVERLAP[1]]);
    let kinds = Kinds { outages: false, pauses: false, ..both.kinds };
    let late = Config { kinds, ..both };
    is_caught("mutation: the same bytes twice, late", &late, &["a was let down (Lost)"]);
}

#[test]
fn a_delete_without_a_condition_is_caught() {
    let config = mutated(Mutation::UnconditionalDelete);
    is_caught("mutation: delete without a condition", &config, &["I2:"]);
}

/// Two come together, and one more while they are at it.
fn joining(mutation: Option<Mutation>) -> line::Config {
    let come = if deep() { vec![0, 0, 0] } else { vec![0, 0, 300] };
    let arrive = if deep() { 8_000 } else { 2_500 };
    line::Config { come, slow: 1, arrive, stops: 0, faults: 0, faults_until: 0, mutation }
}

/// One waits in line, and one comes after it; either may be told to stop, at any time.
fn stopping() -> line::Config {
    line::Config { come: vec![0, 300], slow: 0, stops: 2, ..joining(None) }
}

#[track_caller]
fn holds_in_line(name: &str, config: &line::Config) {
    if let Some(counterexample) = explore::<line::Line>(name, config) {
        panic!("{counterexample}");
    }
}

#[test]
fn whoever_stops_in_line_or_with_the_lock_in_hand_starts_nothing_and_leaves_nothing() {
    let come = if deep() { vec![0, 0, 300] } else { vec![0, 300, 900] };
    holds_in_line("stops in line", &line::Config { come, ..stopping() });
}

#[test]
fn a_stop_among_faults_ends_in_its_time() {
    let faults_until = until(900);
    let config = line::Config { stops: 1, faults: 2, faults_until, ..stopping() };
    holds_in_line("stops and faults in line", &config);
}

#[test]
fn a_stop_after_the_grant_that_is_ignored_is_caught() {
    let config = line::Config { mutation: Some(Mutation::DeafAfterGrant), ..stopping() };
    let counterexample = explore::<line::Line>("mutation: deaf after the grant", &config);
    let counterexample = counterexample.expect("it is caught");
    assert!(counterexample.contains("starts after a stop"), "{counterexample}");
}

#[test]
fn who_joins_the_line_with_a_slow_request_stays_behind_whom_it_finds() {
    holds_in_line("three join the line", &joining(None));
}

/// It claims the number of one that has come and gone since it read the line.
#[test]
fn a_next_that_is_stale_at_the_claim_is_caught() {
    let config = joining(Some(Mutation::StaleNext));
    let counterexample = explore::<line::Line>("mutation: stale next", &config);
    let counterexample = counterexample.expect("it is caught");
    assert!(counterexample.contains("I4:"), "{counterexample}");
}

/// A `run` below the holder, and two commands that take turns.
fn nested(mutation: Option<nest::Mutation>) -> nest::Config {
    let kills = if deep() { 6 } else { 3 };
    nest::Config { commands: vec![true, false, false], kills, stops: 2, mutation }
}

#[test]
fn commands_below_a_hold_take_turns_and_run_under_its_lock_whoever_is_killed() {
    if let Some(counterexample) = explore::<nest::Nest>("commands below a hold", &nested(None)) {
        panic!("{counterexample}");
    }
}

#[track_caller]
fn is_caught_below_a_hold(name: &str, mutation: nest::Mutation, expected: &str) {
    let counterexample = explore::<nest::Nest>(name, &nested(Some(mutation)));
    let counterexample = counterexample.expect("it is caught");
    assert!(counterexample.contains(expected), "{counterexample}");
}

#[test]
fn a_turn_that_ends_with_its_runner_is_caught() {
    let mutation = nest::Mutation::TurnEndsWithRunner;
    is_caught_below_a_hold("mutation: the turn ends with the runner", mutation, "work");
}

#[test]
fn a_receipt_after_the_look_is_caught() {
    let mutation = nest::Mutation::ReceiptAfterLook;
    is_caught_below_a_hold("mutation: the receipt after the look", mutation, "under no lock");
}

#[test]
fn a_guardian_that_does_not_know_of_the_interrupt_is_caught() {
    let mutation = nest::Mutation::GuardianForgets;
    is_caught_below_a_hold("mutation: the guardian forgets the interrupt", mutation, "twice");
}

/// A wrapper with a Terraform below it and something beside them, and smaller groups.
fn groups(second_signal: SecondSignal, again: bool) -> Vec<group::Config> {
    use family::Kind::{Other, Terraform};
    let kinds: [&[_]; 4] =
        [&[Other, Terraform], &[Terraform, Other], &[Other, Other], &[Other, Terraform, Other]];
    let policy = Policy { second_signal, grace: None };
    let config = |kinds: &[_]| group::Config {
        kinds: kinds.to_vec(),
        policy,
        stops: if deep() { 3 } else { 2 },
        waits: if deep() { 3 } else { 2 },
        starts: 0,
        faults: 1,
        again,
    };
    kinds.into_iter().map(config).collect()
}

#[test]
fn whoever_is_in_a_group_one_stop_is_one_interrupt() {
    for second_signal in [SecondSignal::Hold, SecondSignal::Forward] {
        for config in groups(second_signal, false) {
            let name = format!("{:?}, {second_signal:?}", config.kinds);
            let starts = u8::from(deep() || config.kinds.len() < 3);
            let script = group::Config { stops: 1, starts, ..config.clone() };
            let goes_on = format!("{name}, and a script that goes on");
            for (name, config) in [(name, config), (goes_on, script)] {
                if let Some(counterexample) = explore::<group::Group>(&name, &config) {
                    panic!("{name}: {counterexample}");
                }
            }
        }
    }
}

#[test]
fn what_is_left_of_a_group_and_is_interrupted_again_is_caught() {
    let config = &groups(SecondSignal::Hold, true)[2];
    let counterexample = explore::<group::Group>("mutation: the rest is interrupted again", config);
    let counterexample = counterexample.expect("it is caught");
    assert!(counterexample.contains("is interrupted again"), "{counterexample}");
}
