//! What a program says about itself.

use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long it may take over each piece of its answer, in milliseconds.
const PATIENCE: u16 = 5000;
/// How many pieces are heard, and how long each may be.
const PIECES: usize = 4;
const PIECE: usize = 4096;

/// The beginning of what the program prints when it is called with this word; nothing where it
/// cannot be called or prints nothing. Bounded in time, also for one that hangs.
#[must_use]
pub fn first_words(program: &Path, word: &str) -> Option<String> {
    let mut child = Command::new(program)
        .arg(word)
        // Flags meant for another command, and a look for updates.
        .env_remove("TF_CLI_ARGS")
        .env_remove("TF_CLI_ARGS_version")
        .env("CHECKPOINT_DISABLE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut said = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        for _ in 0..PIECES {
            let mut ready = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
            let mut piece = [0; PIECE];
            match poll(&mut ready, PollTimeout::from(PATIENCE)) {
                Ok(count) if count > 0 => {}
                _ => break,
            }
            match stdout.read(&mut piece) {
                Ok(length) if length > 0 => said.extend_from_slice(&piece[..length]),
                _ => break,
            }
            if said.contains(&b'\n') {
                break;
            }
        }
    }
    // It has said enough.
    let _ = child.kill();
    let _ = child.wait();
    (!said.is_empty()).then(|| String::from_utf8_lossy(&said).into_owned())
}
