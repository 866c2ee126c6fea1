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
//! | `support` | servers, processes and proxies: what the suites share |
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

#[path = "../support/support.rs"]
mod support;

use arena::Arena;
use play::{Player, Stage};
use support::rounds::{Ledger, Rounds};
use tally::Tally;

/// Side by side.
const ARENAS: usize = 3;
const CASES: usize = 300;
/// So many cases are played in one place before another one is put up.
const AT_ONE_STAGE: usize = 8;
/// The default run plays the same cases every time.
const SEED: u64 = 1;

#[test]
fn what_stock_terraform_does_so_does_tfwrap() {
    let cases = Rounds::of("differential", ("TFWRAP_DIFF", "CASES"), SEED, CASES);
    let tally = cases.play(ARENAS, |index, ledger: &Ledger<Tally>| {
        let arena = Arena::new(&index.to_string());
        while let Some(numbers) = ledger.take(AT_ONE_STAGE) {
            let stage = Stage::new(cases.seed, numbers.start / AT_ONE_STAGE, &arena);
            for number in numbers {
                let case = stage.case(cases.seed, number, &arena);
                let played = play::play(&arena, &stage, &case, Player::Tfwrap);
                ledger.count(|tally| tally.add(&played));
                if !played.faults.is_empty() {
                    let (named, replay) = (cases.named(number), cases.replay(number));
                    let (faults, said) = (played.faults.join("\n  "), &played.said);
                    ledger.fail(format!("{named}: {faults}\n{case}\n{said}\n{replay}"));
                }
            }
        }
    });
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
