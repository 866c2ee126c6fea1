//! Tfwrap alone is killed or stopped, while its child goes on: what its guardian does about it.

use crate::config::{Config, Crash, Kinds, Mutation};
use crate::{OVERLAP, deep, holds, is_caught, two, until};

/// Tfwrap may be killed or stopped alone; and its guardian killed, once it has taken over.
fn followed() -> Config {
    Config { crash: Crash::IsFollowed, ..two() }
}

/// Nothing but what ends or stops processes, and what hides the store.
const PROCESSES: Kinds =
    Kinds { requests: false, stock_crashes: false, stops: false, ..Kinds::ALL };

/// The control: it is the guardian that closes this hole.
#[test]
fn a_child_that_outlives_its_tfwrap_without_a_guardian_is_caught() {
    let config = Config { crash: Crash::LeavesAnOrphan, ..two() };
    is_caught("an orphan without a guardian", &config, &["I1:"]);
}

#[test]
fn a_child_that_outlives_its_tfwrap_is_ended_by_its_guardian() {
    let faults = if deep() { 2 } else { 1 };
    holds("a guardian, faults at any time", &Config { faults, ..followed() });
}

#[test]
fn a_guardian_that_meets_a_fault_too() {
    let (faults, faults_until) = if deep() { (3, 400) } else { (2, 1_800) };
    holds("a guardian, more faults", &Config { faults, faults_until, ..followed() });
}

/// The store is out of sight, and then something ends or stops a process, at any time.
#[test]
fn a_guardian_after_an_outage() {
    let kinds = Kinds { pauses: deep(), ..PROCESSES };
    let config = Config { faults: 2, first_until: 1_600, kinds, ..followed() };
    holds("a guardian after an outage", &config);
}

/// What it leaves behind, and whether it says so.
#[test]
fn a_guardian_and_requests_that_go_astray() {
    let kinds = Kinds { outages: false, pauses: false, stops: false, ..Kinds::ALL };
    let one = Config { rates: vec![100], runs: vec![1], ..followed() };
    let config = Config { faults: 3, faults_until: until(8_000), kinds, ..one };
    holds("a guardian and requests that go astray", &config);
}

/// Somebody kills a child, alone or with its tfwrap, and then tfwrap or its guardian, at any time:
/// what the child had sent may arrive for as long as everybody waits after such an end.
fn killed() -> Config {
    let none = Kinds { requests: false, outages: false, pauses: false, ..PROCESSES };
    let kinds = Kinds { kills: true, ..none };
    let (faults, faults_until) = if deep() { (3, 20_000) } else { (2, 6_000) };
    Config { faults, faults_until, kinds, ..followed() }
}

#[test]
fn whoever_kills_a_child_what_it_had_sent_arrives_under_its_lock() {
    holds("children that are killed", &killed());
}

#[test]
fn a_guardian_that_does_not_settle_is_caught() {
    let mutation = Some(Mutation::GuardianDoesNotSettle);
    is_caught("mutation: the guardian does not settle", &Config { mutation, ..killed() }, &["I1:"]);
}

#[test]
fn a_guardian_that_looks_for_what_was_answered_is_caught() {
    let mutation = Some(Mutation::UntoldAnswers);
    let config = Config { kinds: PROCESSES, mutation, ..followed() };
    is_caught("mutation: answers are not told", &config, &["looks for what was answered"]);
}

#[test]
fn a_guardian_that_hears_of_a_request_after_it_is_caught() {
    let mutation = Some(Mutation::ToldAfterwards);
    let config = Config { kinds: PROCESSES, mutation, ..followed() };
    is_caught("mutation: told afterwards", &config, &["I3:"]);
}

/// A command below a hold of which nobody is left once it is at work; and one who waits.
fn below(mutation: Option<Mutation>) -> Config {
    let kinds = Kinds { pauses: deep(), ..PROCESSES };
    let one = Config { rates: vec![100, 95, 105], runs: vec![1; 3], ..followed() };
    let one = Config { below: true, hold_dies: true, first_until: 1_600, ..one };
    Config { faults: 2, kinds, mutation, ..one }
}

/// Whoever is left of those who have the lock and of those who work under it keeps it, and is
/// fenced where it cannot.
#[test]
fn a_command_below_a_hold_and_its_guardian_keep_the_lock_and_are_fenced() {
    holds("a command below a hold that dies", &below(None));
    let faults = if deep() { 2 } else { 1 };
    holds("a command below a hold", &Config { hold_dies: false, faults, ..below(None) });
}

#[test]
fn a_guardian_that_neither_keeps_nor_fences_inherited_locks_is_caught() {
    let config = below(Some(Mutation::GuardianLeavesInherited));
    is_caught("mutation: the guardian leaves inherited locks", &config, &BELOW);
}

#[test]
fn a_command_that_does_nothing_for_the_lock_above_it_is_caught() {
    let config = Config { faults: 0, ..below(Some(Mutation::LeavesInherited)) };
    is_caught("mutation: inherited locks are left", &config, &BELOW);
}

const BELOW: [&str; 2] = ["under which a child lives", "I1:"];

#[test]
fn a_guardian_that_counts_afresh_is_caught() {
    let mutation = Some(Mutation::GuardianAfresh);
    let kinds = Kinds { pauses: false, ..PROCESSES };
    let config = Config { faults: 2, first_until: 1_600, kinds, mutation, ..followed() };
    is_caught("mutation: the guardian counts afresh", &config, &OVERLAP);
}

#[test]
fn a_tfwrap_that_is_stopped_alone_without_the_guardians_fence_is_caught() {
    let mutation = Some(Mutation::NoGuardiansFence);
    let config = Config { kinds: PROCESSES, mutation, ..followed() };
    is_caught("mutation: stopped without the guardian's fence", &config, &OVERLAP);
}
