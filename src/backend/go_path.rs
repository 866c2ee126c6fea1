//! Paths as Go's `path` and `filepath` make them: as text, before any link is followed.
//!
//! Terraform joins the names of its files with `filepath.Join`, so `no-such/../x` is `x` for it,
//! and an absolute part goes below what is before it. [`std::path::Path::join`] does neither.
//! Where Terraform opens a path as it was given (`-state`, `path`, a saved plan, `-chdir`), the
//! kernel reads it, and nothing here may.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// Joins the parts that are not empty with `/` and cleans the result: no empty element, no `.`,
/// no `..` but at the beginning of a relative path.
pub(crate) fn join<const N: usize>(parts: [&OsStr; N]) -> PathBuf {
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return PathBuf::new();
    }
    clean(Path::new(&parts.join(OsStr::new("/"))))
}

/// [`join`] for keys in a bucket, which are text.
pub(super) fn join_text<const N: usize>(parts: [&str; N]) -> String {
    let joined = join(parts.map(OsStr::new)).into_os_string();
    // Cut at slashes only, text stays text.
    String::from_utf8_lossy(joined.as_bytes()).into_owned()
}

/// The shortest text for a path, `.` for an empty one.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let path = path.as_os_str().as_bytes();
    let rooted = path.starts_with(b"/");
    let mut kept: Vec<&[u8]> = Vec::new();
    for element in path.split(|byte| *byte == b'/') {
        match element {
            b"" | b"." => {}
            b".." if kept.last().is_some_and(|last| *last != b"..") => {
                kept.pop();
            }
            b".." if rooted => {}
            element => kept.push(element),
        }
    }
    let mut text = kept.join(&b'/');
    if rooted {
        text.insert(0, b'/');
    } else if text.is_empty() {
        text.push(b'.');
    }
    PathBuf::from(OsString::from_vec(text))
}

/// The directory part, cleaned: `filepath.Dir`.
pub(crate) fn dir(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    clean(Path::new(OsStr::from_bytes(&bytes[..end])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_and_cleaned_as_go_does() {
        let cases = [
            (["", "", ""], ""),
            (["env:", "dev", "a/b"], "env:/dev/a/b"),
            (["", "dev", "k"], "dev/k"),
            (["p", "w", "./odd/k"], "p/w/odd/k"),
            (["p", "w", "a/../k"], "p/w/k"),
            (["p", "..", "k"], "k"),
            (["..", "..", "k"], "../../k"),
            (["p", "../../x", "k"], "../x/k"),
            (["/p", "../..", "k"], "/k"),
            (["a//b", "c/", ""], "a/b/c"),
            ([".", "", ""], "."),
            (["a", "..", ""], "."),
            (["/", "..", ""], "/"),
            (["d", "/abs", "k"], "d/abs/k"),
            (["lnk/../d", "w", "k"], "d/w/k"),
        ];
        for (parts, joined) in cases {
            assert_eq!(join_text(parts), joined, "{parts:?}");
        }
        let raw = OsStr::from_bytes(b"\xff/../\xfe");
        assert_eq!(join([raw, OsStr::new("k")]), Path::new(OsStr::from_bytes(b"\xfe/k")));
    }

    #[test]
    fn the_directory_is_cut_off_before_it_is_cleaned() {
        for (path, expected) in [
            ("x", "."),
            ("no-such/../x", "."),
            ("no-such/../a/x", "a"),
            ("/a/../x", "/"),
            ("a/..", "a"),
            ("a/b/", "a/b"),
        ] {
            assert_eq!(dir(Path::new(path)), Path::new(expected), "{path}");
        }
    }
}
