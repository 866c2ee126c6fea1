//! How much of what was played was of use.

use std::collections::BTreeMap;
use std::fmt;

use crate::play::Played;

#[derive(Debug, Default)]
pub(crate) struct Tally {
    cases: usize,
    differ: usize,
    /// Stock Terraform's exit codes.
    codes: BTreeMap<i32, usize>,
    /// Where stock changed a state; where a stranger's lock kept it from that; and where tfwrap
    /// waited for the stranger.
    changed: usize,
    kept_out: usize,
    waited: usize,
    /// What was wrong, by the look that saw it.
    seen: BTreeMap<&'static str, usize>,
}

impl Tally {
    pub(crate) fn add(&mut self, one: &Played) {
        self.cases += 1;
        self.differ += usize::from(!one.faults.is_empty());
        *self.codes.entry(one.stock_code).or_default() += 1;
        self.changed += usize::from(one.changed);
        self.kept_out += usize::from(one.kept_out);
        self.waited += usize::from(one.waited);
        for look in &one.looks {
            *self.seen.entry(look).or_default() += 1;
        }
    }

    pub(crate) fn saw_everything(&self) -> bool {
        use crate::play::{BESIDE, JOURNAL};
        [BESIDE, JOURNAL].iter().all(|look| self.seen.contains_key(look))
    }

    /// Enough of it did something.
    pub(crate) fn is_of_use(&self) -> bool {
        self.cases < 100 || (self.changed * 5 > self.cases && self.kept_out * 10 > self.cases)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            to,
            "{} cases, {} differ; stock ended with {:?}; a state was changed in {}, a stranger's lock \
             kept stock out in {}, tfwrap waited for one in {}; seen: {:?}",
            self.cases,
            self.differ,
            self.codes,
            self.changed,
            self.kept_out,
            self.waited,
            self.seen
        )
    }
}
