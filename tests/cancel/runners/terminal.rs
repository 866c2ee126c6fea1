//! A person: Ctrl-C, and a window that is closed.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};

use super::Played;
use crate::stage::{PATIENCE, Stage};
use crate::step::within;

/// A terminal whose other end is ours alone to close, and an interactive shell on it. What tfwrap
/// and the child say goes to a file.
struct Window {
    master: Option<File>,
    bash: Child,
}

impl Window {
    fn open(stage: &Stage) -> Self {
        // Nobody else may inherit the other end, or closing it would mean nothing.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let master = posix_openpt(flags).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("a terminal");
        let name = ptsname_r(&master).expect("its name");
        let slave = OpenOptions::new().read(true).write(true).open(name).expect("a terminal");
        // In a session of its own, with this as its controlling terminal.
        let mut command = stage.command("setsid");
        command.args(["--ctty", "bash", "--norc", "--noprofile", "-i"]);
        let stream = || Stdio::from(slave.try_clone().expect("a descriptor"));
        let bash = command.stdin(stream()).stdout(stream()).stderr(stream()).spawn();
        Self { master: Some(File::from(OwnedFd::from(master))), bash: bash.expect("bash starts") }
    }

    fn type_in(&mut self, text: &str) {
        let master = self.master.as_mut().expect("it is open");
        master.write_all(text.as_bytes()).expect("the terminal takes it");
    }

    /// Takes what was printed, so that nobody waits for a reader.
    fn read(&mut self) {
        let mut bytes = [0; 4096];
        if let Some(master) = &mut self.master {
            while master.read(&mut bytes).is_ok_and(|count| count > 0) {}
        }
    }

    fn start(stage: &Stage) -> Self {
        let mut window = Self::open(stage);
        let (out, code) = (stage.path("out"), stage.path("code"));
        let (out, code) = (out.display(), code.display());
        window.type_in(&format!("{} > {out} 2>&1; echo $? > {code}\n", stage.shell_words()));
        window
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.master = None;
        let _gone_meanwhile = self.bash.kill();
        let _reaped = self.bash.wait();
    }
}

pub(super) fn ctrl_c(stage: &mut Stage) -> Played {
    let mut window = Window::start(stage);
    let mut played = Played::new(stage.at_work());
    window.type_in("\u{3}");
    let code = || std::fs::read_to_string(stage.path("code")).ok()?.trim().parse().ok();
    within(PATIENCE, || {
        window.read();
        code().is_some()
    });
    played.code = code();
    played
}

pub(super) fn closed(stage: &mut Stage) -> Played {
    let mut window = Window::start(stage);
    let played = Played::new(stage.at_work());
    window.master = None;
    within(PATIENCE, || window.bash.try_wait().expect("it can be waited for").is_some());
    within(PATIENCE, || played.watch.is_free());
    played
}
