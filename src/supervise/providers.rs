//! How far Terraform has come, as far as that can be seen: whether it works with a provider.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::unistd::Pid;

use super::kill_below::below;
use super::process::{ProcessId, Stat};
use super::targets::{have_our_flag, words};

/// How each provider's program is called, or Terraform does not find it.
const PREFIX: &[u8] = b"terraform-provider-";

type Words = Vec<Vec<u8>>;

/// A Terraform that works with a provider.
#[derive(Debug)]
pub struct AtWork {
    terraform: ProcessId,
    /// What was given our flag, too: the scripts around it, by their words, as whatever they fork has.
    around: Vec<Words>,
}

impl AtWork {
    /// The first Terraform at or below this process that has started a provider: one with our flag, for a
    /// version manager may start others before. Nothing where that cannot be seen.
    pub(super) fn below(leader: Pid) -> Option<Self> {
        let all = below(leader, |_, _| true);
        let terraform = all.iter().find_map(|process| {
            let parent =
                Stat::of(process.pid()).filter(|_| is_provider(&words(process.pid())))?.parent;
            ProcessId::of(parent).filter(|_| have_our_flag(&words(parent)))
        })?;
        let others = all.into_iter().filter(|process| *process != terraform);
        let around = others
            .map(|process| words(process.pid()))
            .filter(|words| have_our_flag(words))
            .collect();
        Some(Self { terraform, around })
    }

    /// Whether it is this very process: no other one can follow it.
    #[must_use]
    pub fn is(&self, process: Pid) -> bool {
        self.terraform.pid() == process
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        !self.terraform.is_alive()
    }

    /// Whether another Terraform with our flag is at or below this process by now: a script may try again.
    pub(super) fn has_successor(&self, leader: Pid) -> bool {
        below(leader, |_, _| true).into_iter().any(|process| {
            let words = words(process.pid());
            process != self.terraform && have_our_flag(&words) && !self.around.contains(&words)
        })
    }
}

fn is_provider(words: &Words) -> bool {
    let program = words.first().and_then(|word| Path::new(OsStr::from_bytes(word)).file_name());
    program.is_some_and(|name| name.as_bytes().starts_with(PREFIX))
}
