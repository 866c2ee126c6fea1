//! `TFWRAP_HELD`: which locks an outer tfwrap holds for everything below it.
//!
//! It is a claim, not a proof: a lock is held for us if its register bears one of these IDs. By that
//! it is known, too; its name may be written in many ways, and is here for people.
//!
//! `TFWRAP_HOLD` beside it: the hold whose environment this is. Not by its lock, for one that was begun
//! below another has the other's.
//!
//! Its rules: `docs/protocol.md#h1-tfwrap_held`.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::env::Env;
use crate::lock::LockId;

/// The variable.
pub const VARIABLE: &str = "TFWRAP_HELD";

/// The variable with the holds that a `release` in this environment ends.
pub const HOLDS: &str = "TFWRAP_HOLD";

const UNSAFE: &AsciiSet = &CONTROLS.add(b' ').add(b'#').add(b'%');

/// The names of the holds whose environment this is: that of the innermost, and of those beside it.
/// None where nothing is said to be held: then it is no hold's environment.
#[must_use]
pub fn holds(env: &Env) -> Vec<String> {
    if Held::from_env(env).is_empty() {
        return Vec::new();
    }
    let text = env.get(HOLDS).unwrap_or_default();
    text.split_ascii_whitespace().map(ToOwned::to_owned).collect()
}

/// Whether the text is one of names that holds have, whether or not there are such holds.
#[must_use]
pub fn names_holds(text: &str) -> bool {
    let is_one = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    text.split_ascii_whitespace().all(is_one)
}

fn parts(text: &str) -> impl Iterator<Item = Option<(String, LockId)>> {
    text.split_ascii_whitespace().map(|part| {
        let (url, id) = part.split_once('#')?;
        let url = percent_decode_str(url).decode_utf8().ok()?.into_owned();
        (!url.is_empty() && !id.is_empty()).then(|| (url, LockId(id.to_owned())))
    })
}

/// The locks that are said to be held, by the name of the lock (its URL).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held(Vec<(String, LockId)>);

impl Held {
    /// Reads the variable: `URL#ID`, separated by white space. What does not look like that counts for
    /// nothing: then the lock is taken for real.
    #[must_use]
    pub fn from_env(env: &Env) -> Self {
        Self(parts(env.get(VARIABLE).unwrap_or_default()).flatten().collect())
    }

    /// Whether all of the variable's text can be read.
    #[must_use]
    pub fn is_well_formed(text: &str) -> bool {
        parts(text).all(|part| part.is_some())
    }

    /// Whether nothing is said to be held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All names.
    pub fn urls(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(url, _)| url.as_str())
    }

    /// All IDs.
    pub fn ids(&self) -> impl Iterator<Item = &LockId> {
        self.0.iter().map(|(_, id)| id)
    }

    /// All, with the names of their locks.
    pub fn locks(&self) -> impl Iterator<Item = (&str, &LockId)> {
        self.0.iter().map(|(name, id)| (name.as_str(), id))
    }

    /// Adds a lock.
    pub fn add(&mut self, url: String, id: LockId) {
        self.0.push((url, id));
    }

    /// Takes the locks with these names out.
    pub fn forget(&mut self, urls: impl Iterator<Item = String>) {
        for url in urls {
            self.0.retain(|(held, _)| *held != url);
        }
    }

    /// Takes a lock out, by whatever names it is known.
    pub fn forget_id(&mut self, id: &LockId) {
        self.0.retain(|(_, held)| held != id);
    }

    /// The variable's value for the processes below.
    #[must_use]
    pub fn to_value(&self) -> String {
        let items: Vec<_> = self
            .0
            .iter()
            .map(|(url, id)| format!("{}#{id}", utf8_percent_encode(url, UNSAFE)))
            .collect();
        items.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut held = Held::default();
        held.add("dynamodb://t/b/env:/x y#%é".to_owned(), LockId("1-2".to_owned()));
        held.add("file:///a".to_owned(), LockId("3".to_owned()));
        let env: Env = [(VARIABLE, held.to_value())].into_iter().collect();
        assert_eq!(Held::from_env(&env), held);
        held.forget_id(&LockId("3".to_owned()));
        assert_eq!(held.ids().collect::<Vec<_>>(), [&LockId("1-2".to_owned())]);
    }

    #[test]
    fn nonsense_claims_nothing() {
        let env: Env = [(VARIABLE, "x  y %ff#1 #2 z#"), (HOLDS, "a")].into_iter().collect();
        assert!(!Held::is_well_formed("x#1 y"), "whoever asks warns of it");
        assert_eq!(Held::from_env(&env), Held::default());
        assert!(holds(&env).is_empty());
        let env: Env = [(VARIABLE, "x#1"), (HOLDS, " a  b ")].into_iter().collect();
        assert_eq!(holds(&env), ["a", "b"]);
    }
}
