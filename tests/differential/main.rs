//! tfwrap beside stock Terraform: the same random call in the same random place, once by each. The
//! exit codes must agree, and the states, and all other files left; and of a state that somebody
//! else has locked tfwrap writes nothing where stock does not.
//!
//! Everything happens twice in the *same* directory and bucket: what is there is put up once, by
//! stock Terraform; each player finds it as it was. So paths need no translation, and where Terraform
//! looks for a state is asked of Terraform alone.
//!
//! | module | is |
//! | --- | --- |
//! | `scene` | a random place: directories, links, backend, workspaces, data directory |
//! | `calls` | a random command line and environment |
//! | `arena` | where it is played: put up, taken down, looked at |
//! | `play` | by stock and by tfwrap; with the lock held by a stranger; changed during the wait |
//! | `tally` | how much of it was of use |
//! | `blocks` | backend blocks, before and after `terraform init` |
//! | `record` | a server that hands on, and keeps in order what it handed on |
//! | `dice` | numbers from a seed |
//! | `harness` | processes, started in a clean environment, ended by PID |
//! | `proxy` | a proxy that loses, delays and breaks requests |
//! | `servers` | the servers, and directories with a backend |
//!
//! A case follows from the seed and its number alone. A failure prints both; to play such a case
//! again, or many more:
//!
//! ```text
//! TFWRAP_DIFF_SEED=7 TFWRAP_DIFF_FIRST=41 TFWRAP_DIFF_CASES=1 cargo test --test differential
//! TFWRAP_DIFF_SEED=$RANDOM TFWRAP_DIFF_CASES=5000 cargo test --test differential -- --nocapture
//! ```

mod arena;
mod blocks;
mod calls;
mod play;
mod record;
mod scene;
mod tally;

#[path = "../chaos/dice.rs"]
mod dice;
#[path = "../it/harness.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod harness;
#[path = "../it/proxy.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod proxy;
#[path = "../it/servers.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod servers;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use arena::Arena;
use play::{Case, Played, Player, Stage};
use tally::Tally;

/// Side by side.
const ARENAS: usize = 3;
const CASES: usize = 300;
/// So many cases are played in one place before another one is put up.
const AT_ONE_STAGE: usize = 8;
/// The default run plays the same cases every time.
const SEED: u64 = 1;

fn number(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "configures the tests, not the program")]
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn count(value: u64) -> usize {
    usize::try_from(value).expect("not so many")
}

fn told(seed: u64, number: usize, case: &Case, played: &Played) -> String {
    format!(
        "seed {seed}, case {number}: {}\n{case}\n{}\nreplay: TFWRAP_DIFF_SEED={seed} \
         TFWRAP_DIFF_FIRST={number} TFWRAP_DIFF_CASES=1 cargo test --test differential",
        played.faults.join("\n  "),
        played.said
    )
}

#[test]
fn what_stock_terraform_does_so_does_tfwrap() {
    let seed = number("TFWRAP_DIFF_SEED").unwrap_or(SEED);
    let cases = number("TFWRAP_DIFF_CASES").map_or(CASES, count);
    let first = number("TFWRAP_DIFF_FIRST").map_or(0, count);
    println!("seed {seed}, cases {first} to {}", first + cases - 1);
    let next = AtomicUsize::new(first / AT_ONE_STAGE);
    let (tally, failed) = (Mutex::new(Tally::default()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for index in 0..ARENAS.min(cases) {
            let (next, tally, failed) = (&next, &tally, &failed);
            scope.spawn(move || {
                let arena = Arena::new(&index.to_string());
                loop {
                    let group = next.fetch_add(1, Ordering::SeqCst);
                    let numbers = group * AT_ONE_STAGE..(group + 1) * AT_ONE_STAGE;
                    if numbers.start >= first + cases {
                        return;
                    }
                    let stage = Stage::new(seed, group, &arena);
                    for number in numbers.filter(|it| (first..first + cases).contains(it)) {
                        let case = stage.case(seed, number, &arena);
                        let played = play::play(&arena, &stage, &case, Player::Tfwrap);
                        tally.lock().expect("not poisoned").add(&played);
                        if !played.faults.is_empty() {
                            let what = told(seed, number, &case, &played);
                            println!("{what}");
                            failed.lock().expect("not poisoned").push(what);
                        }
                    }
                }
            });
        }
    });
    let tally = tally.into_inner().expect("not poisoned");
    println!("{tally}");
    let failed = failed.into_inner().expect("not poisoned");
    assert!(failed.is_empty(), "{} of {cases} cases differ:\n{}", failed.len(), failed.join("\n"));
    assert!(tally.is_of_use(), "too little was done: {tally}");
}

/// A player who does not lock is seen by each of the two looks; or they prove nothing.
#[test]
fn the_negative_control_without_a_lock_is_seen() {
    let arena = Arena::new("control");
    let mut seen = Tally::default();
    for group in 0..40 {
        let stage = Stage::plain(group, &arena);
        seen.add(&play::play(&arena, &stage, &stage.plain_case(), Player::Unlocked));
        if seen.saw_everything() {
            return;
        }
    }
    panic!("not seen: {seen}");
}
