//! The known word that a mistyped one was meant to be.

/// How alike two words must be, from 0 to 1: clap's own measure for options.
const ALIKE: f64 = 0.7;

/// The word that is most like this one, unless none is like it.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|word| (strsim::jaro(typed, word), word))
        .filter(|(alike, _)| *alike > ALIKE)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, word)| word)
}

/// The word of which this one is a slip: another case, other separators, or a letter in four that is
/// missing, added or swapped. For names that may well be somebody's own.
pub fn slip_of<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let squeezed = |word: &str| word.replace(['_', '-'], "").to_ascii_uppercase();
    let typed = squeezed(typed);
    known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(&typed, &squeezed(word)), word))
        .filter(|(slips, _)| slips * 4 <= typed.len())
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_alike_is_found() {
        let known = ["status", "state", "release", "lock-timeout"];
        for (typed, meant) in [
            ("stauts", Some("status")),
            ("lock-timout", Some("lock-timeout")),
            ("releas", Some("release")),
            ("xyz", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, known), meant, "{typed}");
        }
    }

    #[test]
    fn a_slip_is_small() {
        let known = ["LOCK", "LOCK_TIMEOUT", "LEASE", "GRACE", "ACTOR", "TERRAFORM"];
        for (typed, meant) in [
            ("LOKC", Some("LOCK")),
            ("LOCKS", Some("LOCK")),
            ("LockTimeout", Some("LOCK_TIMEOUT")),
            ("TERAFORM", Some("TERRAFORM")),
            ("RELEASE", None),
            ("CACHE", None),
            ("ACTION", None),
            ("", None),
        ] {
            assert_eq!(slip_of(typed, known), meant, "{typed}");
        }
    }
}
