//! Rounds that follow from a seed and their number alone, played side by side. Each that fails says how
//! to play it again.

use std::fmt::Display;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A variable that configures the tests.
pub(crate) fn variable(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "configures the tests, not the program")]
    std::env::var(name).ok()
}

/// The same, of a number.
pub(crate) fn number(name: &str) -> Option<u64> {
    let value = variable(name)?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// The same, of how many there are.
pub(crate) fn count(name: &str) -> Option<usize> {
    number(name).map(|value| usize::try_from(value).expect("not so many"))
}

/// Which rounds to play.
pub(crate) struct Rounds {
    pub(crate) seed: u64,
    pub(crate) numbers: Range<usize>,
    suite: &'static str,
    /// What the variables begin with, and what a round is called in them.
    names: (&'static str, &'static str),
}

impl Rounds {
    /// So many from this seed, or what `PREFIX_SEED`, `PREFIX_FIRST` and `PREFIX_ROUNDS` (or what a
    /// round is called there) ask for.
    pub(crate) fn of(
        suite: &'static str,
        names: (&'static str, &'static str),
        seed: u64,
        most: usize,
    ) -> Self {
        let (prefix, called) = names;
        let seed = number(&format!("{prefix}_SEED")).unwrap_or(seed);
        let first = count(&format!("{prefix}_FIRST")).unwrap_or(0);
        let rounds = count(&format!("{prefix}_{called}")).unwrap_or(most);
        println!("seed {seed}, {} {first} to {}", called.to_lowercase(), first + rounds - 1);
        Self { seed, numbers: first..first + rounds, suite, names }
    }

    /// What a failure begins with.
    pub(crate) fn named(&self, number: usize) -> String {
        let one = self.names.1.to_lowercase();
        format!("seed {}, {} {number}", self.seed, one.trim_end_matches('s'))
    }

    /// How to play one again.
    pub(crate) fn replay(&self, number: usize) -> String {
        let (Self { seed, suite, .. }, (prefix, called)) = (self, self.names);
        format!(
            "replay: {prefix}_SEED={seed} {prefix}_FIRST={number} {prefix}_{called}=1 cargo test \
             --test {suite}"
        )
    }

    /// Plays them, so many side by side: `play` is called once for each lane, and takes the next round
    /// from the [`Ledger`] until there is none.
    ///
    /// # Panics
    /// When one failed.
    pub(crate) fn play<T: Default + Display + Send>(
        &self,
        lanes: usize,
        play: impl Fn(usize, &Ledger<T>) + Sync,
    ) -> T {
        let ledger = Ledger {
            next: AtomicUsize::new(self.numbers.start),
            end: self.numbers.end,
            tally: Mutex::default(),
            failed: Mutex::default(),
        };
        std::thread::scope(|scope| {
            for lane in 0..lanes.min(self.numbers.len()) {
                let (ledger, play) = (&ledger, &play);
                scope.spawn(move || play(lane, ledger));
            }
        });
        let tally = ledger.tally.into_inner().expect("not poisoned");
        println!("{tally}");
        let failed = ledger.failed.into_inner().expect("not poisoned");
        assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
        tally
    }
}

/// What is still to be played, and what came of the rest.
pub(crate) struct Ledger<T> {
    next: AtomicUsize,
    end: usize,
    tally: Mutex<T>,
    failed: Mutex<Vec<String>>,
}

impl<T> Ledger<T> {
    /// The next round.
    pub(crate) fn next(&self) -> Option<usize> {
        self.take(1).map(|numbers| numbers.start)
    }

    /// The next rounds, up to a multiple of so many.
    pub(crate) fn take(&self, at_once: usize) -> Option<Range<usize>> {
        let after = |start: usize| (start / at_once * at_once + at_once).min(self.end);
        let step = |start: usize| (start < self.end).then(|| after(start));
        let start = self.next.fetch_update(Ordering::SeqCst, Ordering::SeqCst, step).ok()?;
        Some(start..after(start))
    }

    /// Counts one in.
    pub(crate) fn count(&self, add: impl FnOnce(&mut T)) {
        add(&mut self.tally.lock().expect("not poisoned"));
    }

    /// Notes one that failed.
    pub(crate) fn fail(&self, what: String) {
        println!("{what}");
        self.failed.lock().expect("not poisoned").push(what);
    }
}
