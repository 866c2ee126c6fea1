//! Whether Terraform has come so far that it works with a provider.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::unistd::Pid;

use super::kill_below::below;
use super::process::Stat;
use super::targets::{is_given_ours, words};

/// How each provider's program is called, or Terraform does not find it.
const PREFIX: &[u8] = b"terraform-provider-";

/// Whether a Terraform at or below this process has started a provider: the one with our flag, for a
/// version manager may start others first. Not where that cannot be seen.
pub(super) fn has_provider(leader: Pid) -> bool {
    below(leader, |_, _| true).into_iter().any(|process| {
        is_provider(&words(process.pid())) && {
            let parent = Stat::of(process.pid()).map(|stat| words(stat.parent));
            parent.is_some_and(|words| {
                is_given_ours(words.iter().map(|word| OsStr::from_bytes(word)))
            })
        }
    })
}

fn is_provider(words: &[Vec<u8>]) -> bool {
    let program = words.first().and_then(|word| Path::new(OsStr::from_bytes(word)).file_name());
    program.is_some_and(|name| name.as_bytes().starts_with(PREFIX))
}
