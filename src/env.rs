//! A snapshot of the environment, so that what depends on it can be tested without touching it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

/// The environment as it was when tfwrap started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Env(BTreeMap<OsString, OsString>);

impl Env {
    /// Takes the snapshot of this process. Called once, in `main`. Of a variable that is there
    /// twice the first counts, as in Go and getenv(3).
    #[must_use]
    pub fn of_process() -> Self {
        let mut all = BTreeMap::new();
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
        for (name, value) in std::env::vars_os() {
            all.entry(name).or_insert(value);
        }
        Self(all)
    }

    /// Whether a variable is in the environment of this process more than once.
    #[must_use]
    pub fn is_ambiguous_in_process(&self) -> bool {
        #[expect(clippy::disallowed_methods, reason = "the same place")]
        let all = std::env::vars_os().count();
        all > self.0.len()
    }

    /// All of it.
    pub fn all(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.0.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    /// Takes the variables whose names begin with any of these.
    #[must_use]
    pub fn only(&self, prefixes: &[&str]) -> Self {
        let named = |name: &OsStr| {
            prefixes.iter().any(|it| name.as_encoded_bytes().starts_with(it.as_bytes()))
        };
        Self(
            self.0
                .iter()
                .filter(|(name, _)| named(name))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
        )
    }

    /// Takes all variables but this one.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.0.remove(OsStr::new(name));
        self
    }

    /// Takes all variables but those whose names begin like this.
    #[must_use]
    pub fn without_all(&self, prefix: &str) -> Self {
        let mut all = self.0.clone();
        all.retain(|name, _| !name.as_encoded_bytes().starts_with(prefix.as_bytes()));
        Self(all)
    }

    /// The variables whose values are not UTF-8, as far as their names are.
    pub fn not_text(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, value)| value.to_str().is_none()).filter_map(|it| it.0.to_str())
    }

    /// Returns the value, or nothing when it is unset, empty or not UTF-8. An empty value counts
    /// as unset, as Terraform and the AWS SDKs have it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.get_os(name).and_then(OsStr::to_str)
    }

    /// Whether it is there, be it empty.
    #[must_use]
    pub fn is_there(&self, name: &str) -> bool {
        self.0.contains_key(OsStr::new(name))
    }

    /// Returns the raw value, or nothing when it is unset or empty.
    #[must_use]
    pub fn get_os(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}
