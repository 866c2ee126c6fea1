//! A Terraform that the command of a `run` calls by its path: it does not come through us, locks for
//! itself, and fails on our lock. What the command says, and the scripts that it names, tell of it.

use std::ffi::OsString;
use std::path::Path;

use super::{ChildCommand, Place};
use crate::opened::{self, Kind};

/// No script is read further.
const MOST_BYTES: u64 = 64 * 1024;

/// The first such path.
pub(super) fn find(child: &ChildCommand, place: &Place<'_>) -> Option<String> {
    let words = std::iter::once(child.program.as_os_str());
    let words: Vec<_> = words.chain(child.args.iter().map(OsString::as_os_str)).collect();
    let said = words.iter().find_map(|word| in_text(&word.to_string_lossy(), &place.dir));
    said.or_else(|| words.iter().find_map(|word| in_script(&place.dir.join(word), &place.dir)))
}

fn in_script(path: &Path, dir: &Path) -> Option<String> {
    // Neither a pipe, which would be read only once, nor a program.
    let script = opened::to_read(path).ok().filter(|it| it.kind() == Kind::Regular)?;
    let text = String::from_utf8(script.read_within(MOST_BYTES).ok()??).ok()?;
    text.lines().filter(|line| !line.trim_start().starts_with('#')).find_map(|it| in_text(it, dir))
}

fn in_text(text: &str, dir: &Path) -> Option<String> {
    let ends = |it: char| it.is_whitespace() || "'\"`;|&()=<>,".contains(it);
    let is_one = |word: &&str| {
        let Some((before, name)) = word.rsplit_once('/') else { return false };
        let rest = ["terraform", "tofu"].iter().find_map(|it| name.strip_prefix(it));
        let is_named = rest.is_some_and(|rest| {
            rest.is_empty() || rest.starts_with(['-', '_']) || starts_with_digit(rest)
        });
        // What a variable leads to is not known here.
        is_named && (before.contains('$') || dir.join(word).is_file())
    };
    text.split(ends).find(is_one).map(ToOwned::to_owned)
}

fn starts_with_digit(text: &str) -> bool {
    text.starts_with(|it: char| it.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_path_of_a_terraform_is_one() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        for name in ["terraform", "tofu", "terraform1.9", "terraform-docs.md"] {
            std::fs::write(dir.path().join("bin").join(name), "").unwrap();
        }
        for (text, expected) in [
            ("terraform apply", None),
            ("set -e; bin/terraform apply", Some("bin/terraform")),
            ("exec \"./bin/tofu\" plan", Some("./bin/tofu")),
            ("A=1 $HOME/bin/terraform plan", Some("$HOME/bin/terraform")),
            ("bin/terraform1.9", Some("bin/terraform1.9")),
            ("cd infra/terraform && make", None),
            ("cat bin/terraforms https://x.example/terraform", None),
        ] {
            assert_eq!(in_text(text, dir.path()).as_deref(), expected, "{text}");
        }
        let script = dir.path().join("script");
        std::fs::write(&script, "#!/bin/sh\n# bin/tofu\n\n  bin/terraform apply\n").unwrap();
        assert_eq!(in_script(&script, dir.path()).as_deref(), Some("bin/terraform"));
    }
}
