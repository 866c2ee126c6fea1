//! Whether tfwrap did as Terraform did.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use crate::exceptions::has_no_hosts_of_accounts;

/// What one player did.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace {
    /// None if it had to be killed.
    pub(crate) code: Option<i32>,
    pub(crate) took_it: bool,
    /// How the lock was first asked for.
    pub(crate) first: Option<String>,
    /// How anything of the lock was asked.
    pub(crate) all: BTreeSet<String>,
    /// What was asked for credentials.
    pub(crate) roles: Vec<String>,
    pub(crate) requests: Vec<String>,
    pub(crate) said: String,
    /// Of what it has to say.
    pub(crate) unsaid: Vec<String>,
    /// How often a program was asked for credentials.
    pub(crate) runs: usize,
    /// How many programs ask for credentials: tfwrap, and the Terraform below it.
    pub(crate) askers: usize,
    pub(crate) seconds: f64,
}

/// A way to differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The lock as somebody else, elsewhere, or by another way.
    Other,
    /// It refuses, by 77 or 78, where Terraform works.
    Refuses,
    /// It fails in another way where Terraform works.
    Fails,
    /// It takes a lock where Terraform takes none.
    Takes,
    /// It calls itself faulty, or does not end.
    Breaks,
    /// It speaks of a request that may have been received, and there was none.
    Alarms,
    /// It tells a secret.
    Leaks,
    /// It does not say what it has to.
    Mute,
    /// It asks a program for credentials more often: somebody may have to touch a key each time.
    Asks,
}

impl Kind {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Other, "other"),
        (Self::Refuses, "refuses"),
        (Self::Fails, "fails"),
        (Self::Takes, "takes"),
        (Self::Breaks, "breaks"),
        (Self::Alarms, "alarms"),
        (Self::Leaks, "leaks"),
        (Self::Mute, "mute"),
        (Self::Asks, "asks"),
    ];

    pub(crate) fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, name)| *name == word).map(|(kind, _)| *kind)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(kind, _)| kind == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

/// How they differ, if they do.
pub(crate) fn difference(stock: &Trace, ours: &Trace) -> Option<Kind> {
    // Every secret of the cases is called so: `secretE`.
    let is_secret = |rest: &str| rest.starts_with(|c: char| c.is_ascii_uppercase());
    if ours.said.split("secret").skip(1).any(is_secret) {
        return Some(Kind::Leaks);
    }
    if matches!(ours.code, None | Some(70 | 101)) {
        return Some(Kind::Breaks);
    }
    let unlike = unlike(stock, ours);
    let less = || {
        if ours.said.contains("may still appear") && ours.all.is_empty() {
            return Some(Kind::Alarms);
        }
        if ours.said.contains("already taken") {
            return Some(Kind::Mute);
        }
        let asks = ours.runs > stock.runs.max(1) * ours.askers;
        (!ours.unsaid.is_empty()).then_some(Kind::Mute).or(asks.then_some(Kind::Asks))
    };
    unlike.or_else(less)
}

fn unlike(stock: &Trace, ours: &Trace) -> Option<Kind> {
    let Some(theirs) = stock.first.as_ref().filter(|_| stock.took_it) else {
        return ours.took_it.then_some(Kind::Takes);
    };
    let is_theirs = |how: &String| {
        how == theirs || (has_no_hosts_of_accounts() && without_accounts(how) == *theirs)
    };
    if !ours.all.iter().all(is_theirs) {
        return Some(Kind::Other);
    }
    // Terraform may fail after its lock, by the bucket.
    match ours.code {
        _ if ours.took_it => (stock.code == Some(0) && ours.code != Some(0)).then_some(Kind::Fails),
        Some(77 | 78) => Some(Kind::Refuses),
        _ => Some(Kind::Fails),
    }
}

/// With the region's host in the place of an account's.
fn without_accounts(how: &str) -> String {
    let Some((before, host)) = how.split_once(".ddb.") else { return how.to_owned() };
    let scheme = before.trim_end_matches(|c: char| c.is_ascii_digit());
    format!("{scheme}dynamodb.{host}")
}

/// Both, for people.
pub(crate) fn told(stock: &Trace, ours: &Trace) -> String {
    let one = |name: &str, trace: &Trace| {
        let first = trace.first.as_deref().unwrap_or("(no lock asked for)");
        let mut text =
            format!("  {name}: exit {:?} after {:.1} s: {first}\n", trace.code, trace.seconds);
        for role in &trace.roles {
            let _ = writeln!(text, "    {role}");
        }
        for how in trace.all.iter().filter(|how| Some(*how) != trace.first.as_ref()) {
            let _ = writeln!(text, "    also {how}");
        }
        let said =
            trace.said.lines().filter(|line| !line.trim_matches(['│', '╷', '╵', ' ']).is_empty());
        if trace.code != Some(0) {
            for line in said.take(14) {
                let _ = writeln!(text, "    > {line}");
            }
            for request in trace.requests.iter().take(8) {
                let _ = writeln!(text, "    - {request}");
            }
        }
        text
    };
    format!("{}{}", one("terraform", stock), one("tfwrap", ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(code: i32, how: Option<&str>) -> Trace {
        Trace {
            code: Some(code),
            took_it: how.is_some(),
            first: how.map(ToOwned::to_owned),
            all: how.map(ToOwned::to_owned).into_iter().collect(),
            ..Trace::default()
        }
    }

    #[test]
    fn each_kind_is_told_from_the_others() {
        let works = trace(0, Some("a"));
        assert_eq!(difference(&works, &works), None);
        assert_eq!(difference(&works, &trace(0, Some("b"))), Some(Kind::Other));
        assert_eq!(difference(&works, &trace(77, None)), Some(Kind::Refuses));
        assert_eq!(difference(&works, &trace(69, None)), Some(Kind::Fails));
        assert_eq!(difference(&works, &trace(74, Some("a"))), Some(Kind::Fails));
        assert_eq!(difference(&works, &trace(70, None)), Some(Kind::Breaks));
        let refuses = trace(1, None);
        assert_eq!(difference(&refuses, &works), Some(Kind::Takes));
        assert_eq!(difference(&refuses, &trace(77, None)), None);
        let alarms = Trace { said: "may still appear".to_owned(), ..trace(69, None) };
        assert_eq!(difference(&refuses, &alarms), Some(Kind::Alarms));
        for (kind, name) in Kind::ALL {
            assert_eq!(Kind::of(name), Some(kind));
        }
    }
}
