//! Variables of ours that cannot be read as what they are, and so count for nothing.
//!
//! No value is shown: whoever set it may have set it to anything.

use crate::ci::Ci;
use crate::env::Env;
use crate::held::{self, Held};
use crate::job::{PASSED_ON, is_of_ours};
use crate::report::Notice;
use crate::run::child_process::DEPTH;

/// What every call of Terraform depends on.
pub(super) const OF_A_CALL: &[&str] = &[held::VARIABLE, DEPTH, PASSED_ON];
/// What a lock depends on, and what it tells.
pub(super) const OF_A_LOCK: &[&str] =
    &[held::VARIABLE, DEPTH, PASSED_ON, crate::ci::RUN_URL, crate::ci::ACTOR];
/// What `hold` depends on.
pub(super) const OF_A_HOLD: &[&str] =
    &[held::VARIABLE, held::HOLDS, DEPTH, crate::ci::RUN_URL, crate::ci::ACTOR];
/// What `release` depends on.
pub(super) const OF_A_RELEASE: &[&str] = &[held::VARIABLE, held::HOLDS];

/// A warning for each of these that is set and cannot be read.
pub(super) fn warnings(env: &Env, names: &[&str]) -> Vec<Notice> {
    let set = names.iter().filter_map(|name| Some((*name, env.get_os(name)?)));
    set.filter_map(|(name, value)| {
        let (form, then, hint) = wanted(name, value.to_str(), env)?;
        let message = format!("`{name}` is not {form}: {then}");
        Some(Notice::warning(message).with_hint(hint))
    })
    .collect()
}

/// What it should be, what happens as it is not, and what helps; nothing where it is.
fn wanted(
    name: &str,
    text: Option<&str>,
    env: &Env,
) -> Option<(&'static str, &'static str, String)> {
    let again =
        || format!("run it in the environment that the outer tfwrap set, or `unset {name}`");
    let is = |check: &dyn Fn(&str) -> bool| text.is_some_and(check);
    let (is_so, form, then, hint) = match name {
        held::VARIABLE => (
            is(&Held::is_well_formed),
            "`LOCK#ID` for each lock",
            "tfwrap ignores the unreadable part, and waits for a lock that only that part names",
            again(),
        ),
        held::HOLDS => (
            is(&held::names_holds),
            "the names of holds",
            "tfwrap ignores it",
            "`tfwrap release ID` ends the hold of that lock ID; `tfwrap status` shows it"
                .to_owned(),
        ),
        DEPTH => (
            is(&|text| text.parse::<u32>().is_ok()),
            "a number",
            "a tfwrap that calls itself is counted from 0",
            again(),
        ),
        PASSED_ON => (is(&is_of_ours), "what tfwrap sets it to", "tfwrap ignores it", again()),
        crate::ci::RUN_URL => (
            is(&|_| Ci::from_env(env).run_url.is_some()),
            "a link (http or https, no `@` or `%40` in it, 180 characters at most)",
            "the lock shows no link to this run",
            format!("correct or unset `{name}`"),
        ),
        _ => (
            text.is_some(),
            "UTF-8",
            "the lock shows the name from the CI, if any",
            format!("correct or unset `{name}`"),
        ),
    };
    (!is_so).then_some((form, then, hint))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn each_variable_that_cannot_be_read_is_named_and_its_value_is_not() {
        let bytes = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let hashes = "0a".repeat(64);
        let bad: [(&str, &[&[u8]]); 6] = [
            (held::VARIABLE, &[b"hunter2", b"#hunter2", b"hunter2#", b"a#1 hunter2", b"a#\xff"]),
            (held::HOLDS, &[b"hunter2\x1b[2J", b"../hunter2", b"\xff"]),
            (DEPTH, &[b"hunter2", b"-1", b"4294967296", b"\xff"]),
            (PASSED_ON, &[b"hunter2", b"\xff"]),
            (crate::ci::RUN_URL, &[b"javascript:hunter2", b"https://u:hunter2@h", b"\xff"]),
            (crate::ci::ACTOR, &[b"hunter2\xff"]),
        ];
        for (name, values) in bad {
            for value in values {
                let env: Env = [(name, bytes(value))].into_iter().collect();
                let said = warnings(&env, &[name]);
                let [Notice::Warning { message, hint: Some(hint) }] = said.as_slice() else {
                    panic!("{name}={value:?}: {said:?}")
                };
                assert!(message.starts_with(&format!("`{name}` is not ")), "{message}");
                assert!(!format!("{message}{hint}").contains("hunter2"), "{message}: {hint}");
            }
        }
        for (name, value) in [
            (held::VARIABLE, "dynamodb://t/a%20b#1-2  local:///x#3"),
            (held::VARIABLE, ""),
            (held::HOLDS, "b7c3359d-0000-0000-0000-000000000000 b7c3359e"),
            (DEPTH, "3"),
            (PASSED_ON, &hashes),
            (crate::ci::RUN_URL, "https://ci.example/1"),
            (crate::ci::ACTOR, "jané"),
        ] {
            let env: Env = [(name, value)].into_iter().collect();
            assert!(warnings(&env, &[name]).is_empty(), "{name}={value}");
        }
    }
}
