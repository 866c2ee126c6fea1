//! The line that is redrawn on a terminal while stock Terraform holds the lock.

use std::process::Command;

use nix::sys::signal::Signal;
use rexpect::session::{PtySession, spawn_command};
use tempfile::TempDir;

use crate::pty::Shell;
use crate::support::harness::{Gate, Running, applying, tfwrap};
use crate::support::json_log;
use crate::support::servers::{local_backend_dir, terraform};
use crate::wrapped::{LOGS_ALL, Scene};

const PATIENCE_MS: u64 = 60_000;

/// What begins the line anew.
const ANEW: &str = "\r\u{1b}[2K";

/// Stock Terraform at work on the local state, until its gate is opened.
struct Held {
    theirs: Gate,
    stock: Running,
    dir: TempDir,
}

impl Held {
    fn new() -> Self {
        let dir = local_backend_dir();
        let theirs = Gate::new(dir.path(), "theirs");
        let stock = Running::start(&mut applying(terraform(dir.path()), &theirs.command()));
        theirs.reached();
        Self { theirs, stock, dir }
    }

    /// A wrapper that waits.
    fn waiter(&self, term: &str) -> Command {
        let mut command = tfwrap(self.dir.path());
        command.env("TERM", term).env("NO_COLOR", "1").args(["run", "--", "echo", "child started"]);
        command
    }

    /// Those that waited still need the directory.
    fn end(self) -> TempDir {
        self.theirs.open();
        self.stock.finish().expect_code(0);
        self.dir
    }
}

fn on_terminal(command: Command) -> PtySession {
    spawn_command(command, Some(PATIENCE_MS)).expect("a terminal")
}

#[track_caller]
fn sees(terminal: &mut PtySession, text: &str) -> String {
    terminal.exp_string(text).unwrap_or_else(|error| panic!("waiting for `{text}`: {error}"))
}

/// What is on the terminal's last line after all this was written.
fn last_line(written: &str) -> &str {
    let line = written.rsplit('\n').next().unwrap_or_default();
    line.rsplit(ANEW).next().unwrap_or_default()
}

#[test]
fn on_a_terminal_the_time_goes_on_in_place_and_the_line_is_gone_when_the_child_starts() {
    let held = Held::new();
    let mut terminal = on_terminal(held.waiter("xterm"));
    // The whole sentence once, for whoever scrolls back, in lines that fit.
    sees(&mut terminal, "tfwrap: waiting for the lock");
    let mut written = sees(&mut terminal, "waiting up to 30m");
    let is_link = |line: &str| line.split_whitespace().count() < 2;
    assert!(written.lines().skip(1).all(|it| it.starts_with("  ")), "{written:?}");
    assert!(written.lines().all(|it| it.len() <= 80 || is_link(it)), "{written:?}");
    assert!(written.lines().count() > 2, "{written:?}");
    written.clear();
    for time in ["waited 1s of 30m", "waited 2s of 30m", "waited 3s of 30m"] {
        written += &sees(&mut terminal, time);
    }
    assert!(written.contains(ANEW) && !written.contains("waiting for the lock"), "{written:?}");
    assert!(!written.split_once('\n').unwrap_or_default().1.contains('\n'), "{written:?}");
    let _dir = held.end();
    let before = sees(&mut terminal, "tfwrap: got the lock");
    assert_eq!(last_line(&before), "", "it is gone: {before:?}");
    let between = sees(&mut terminal, "child started");
    let after = terminal.exp_eof().expect("its end");
    assert!(!(between + &after).contains('\u{1b}'), "nothing is drawn beside the child: {after:?}");
}

#[test]
fn an_interrupted_wait_leaves_no_line() {
    let held = Held::new();
    let mut terminal = on_terminal(held.waiter("xterm"));
    sees(&mut terminal, "waited 1s of 30m");
    terminal.send_control('c').expect("the terminal takes it");
    let before = sees(&mut terminal, "nothing is left behind");
    assert!(last_line(&before).starts_with("tfwrap: error: interrupted by SIGINT"), "{before:?}");
    let after = terminal.exp_eof().expect("its end");
    assert!(!after.contains('\u{1b}'), "{after:?}");
    let _dir = held.end();
}

#[test]
fn after_a_suspension_the_line_is_drawn_again() {
    let mut holder = Scene::new(LOGS_ALL).env("TERM", "xterm").start().ready();
    let mut shell = Shell::start();
    shell.send(&holder.scene.shell_words());
    shell.sees("waited 1s of ");
    shell.key('z');
    shell.sees("Stopped");
    shell.prompt();
    shell.send("fg");
    for time in ["waited 3s of ", "waited 4s of "] {
        shell.sees(time);
    }
    shell.key('c');
    shell.sees("nothing is left behind");
    shell.prompt();
    assert_eq!(shell.code(), 130);
    holder.signal(Signal::SIGUSR1);
    assert_eq!(holder.code(), Some(5));
}

#[test]
fn a_pipe_a_dumb_terminal_a_ci_and_json_see_no_escapes() {
    let held = Held::new();
    let piped = Running::start(&mut held.waiter("xterm"));
    let dumb = on_terminal(held.waiter("dumb"));
    let mut ci = held.waiter("xterm");
    ci.env("CI", "true");
    let ci = on_terminal(ci);
    let mut json = held.waiter("xterm");
    json.env("TFWRAP_LOG_FORMAT", "json");
    let json = on_terminal(json);
    let terminals =
        [(dumb, "waiting for the lock"), (ci, "waiting for the lock"), (json, "{\"ts\"")];
    piped.says("waiting for the lock");
    let mut ended = Vec::new();
    let mut waiting = Vec::new();
    for (mut terminal, words) in terminals {
        let written = sees(&mut terminal, words);
        waiting.push((terminal, written));
    }
    let _dir = held.end();
    for (mut terminal, written) in waiting {
        ended.push(written + &terminal.exp_eof().expect("its end"));
    }
    let log = ended.last().expect("that of JSON").replace("\r\n", "\n");
    assert!(!json_log::lines(&log).is_empty(), "{log:?}");
    ended.push(piped.finish().expect_code(0).stderr);
    for written in ended {
        // Nothing is drawn over: a carriage return only ends a line, as a terminal has it.
        let drawn_over = written.replace("\r\n", "\n").contains('\r');
        assert!(!written.contains('\u{1b}') && !drawn_over, "{written:?}");
    }
}
