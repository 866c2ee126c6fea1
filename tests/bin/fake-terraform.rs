//! A stand-in for Terraform that does what a script says.
//!
//! The script comes from `FAKE_TERRAFORM_SCRIPT`, steps separated by `;` or a new line, in words as a
//! shell's; the arguments are ignored, so that `apply -lock=false` runs it. Without a script it exits 0.
//!
//! | step | does |
//! | --- | --- |
//! | `log FILE` | appends a line to FILE for each signal that comes in: `SIGINT 1 from=… at=…ms` |
//! | `on SIGNAL log` | swallows SIGNAL |
//! | `on SIGNAL exit N [after MS]` | exits N that long after SIGNAL; those that come meanwhile are noted |
//! | `ignore SIGNAL` | SIGNAL is ignored by the system |
//! | `ready [FILE]` | writes `ready PID` to FILE, else to stdout; FILE appears with its content |
//! | `print TEXT` | a line to stdout; the error, if any, to stderr |
//! | `describe` | prints `pid=`, `pgid=`, `sid=`, `foreground=`, `sigblk=`, `sigign=`, `sigcgt=`, `args=` |
//! | `spawn NAME` | a background process in the same group that runs the script in `FAKE_TERRAFORM_NAME` |
//! | `read` | reads a line of stdin and prints `read: LINE` |
//! | `sleep MS` | |
//! | `guard FILE` | from here on, notes in FILE.unlocked whenever nobody has a lock on FILE |
//! | `tick FILE MS` | from here on, appends a line with the time to FILE, again and again |
//! | `raw` | switches echo and line mode of the terminal off |
//! | `begin FILE [ID]` | notes in FILE that this process is at work, and whoever else there is and lives |
//! | `begin-parent FILE [ID]` | the same for the parent: of a provisioner, Terraform |
//! | `end FILE` | notes that what began is over |
//! | `wait [S]` | waits for signals for ever (120 s or S, then exits 99) |
//! | `exit N`, `die N` | ends so; `die` by the real signal N |
//!
//! `version` answers like Terraform, whatever the script.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, getpgrp, getpid, getppid, getsid, tcgetpgrp};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;

/// Nothing of a test may stay behind for ever.
const PATIENCE: Duration = Duration::from_mins(2);

/// Where the signals are noted.
type Log = Arc<Mutex<Option<String>>>;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.any(|word| matches!(word.as_str(), "version" | "-version" | "--version")) {
        println!("Terraform v1.11.4\non linux_amd64");
        return ExitCode::SUCCESS;
    }
    let script = variable("FAKE_TERRAFORM_SCRIPT").unwrap_or_default();
    let log = Log::default();
    for step in script.split([';', '\n']).map(str::trim).filter(|step| !step.is_empty()) {
        let words = shell_words::split(step).unwrap_or_default();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match run(&words, step, &log) {
            Ok(None) => {}
            Ok(Some(code)) => return ExitCode::from(code),
            Err(error) => {
                // stderr may be what is broken.
                let _ = writeln!(io::stderr(), "fake-terraform: `{step}`: {error}");
                return ExitCode::from(98);
            }
        }
    }
    ExitCode::SUCCESS
}

/// Does one step; a code ends the program.
fn run(words: &[&str], step: &str, log: &Log) -> io::Result<Option<u8>> {
    match words {
        ["log", file] => *log.lock().expect("not poisoned") = Some((*file).to_owned()),
        ["on", signal, "log"] => on(signal, None, log)?,
        ["on", signal, "exit", code] => on(signal, Some((number(code)?, 0)), log)?,
        ["on", signal, "exit", code, "after", millis] => {
            on(signal, Some((number(code)?, number(millis)?)), log)?;
        }
        ["ignore", signal] => return become_ignoring(signal).map(|()| None),
        ["ready"] => say(&format!("ready {}", getpid()))?,
        ["ready", file] => {
            let unfinished = format!("{file}.{}", getpid());
            fs::write(&unfinished, format!("ready {}\n", getpid()))?;
            fs::rename(unfinished, file)?;
        }
        ["print", ..] => {
            if let Err(error) = say(step["print".len()..].trim()) {
                writeln!(io::stderr(), "print failed: {error}")?;
            }
        }
        ["describe"] => describe()?,
        ["spawn", name] => {
            let script = variable(&format!("FAKE_TERRAFORM_{name}")).unwrap_or_default();
            // Left behind on purpose, as provisioners do.
            Command::new(std::env::current_exe()?).env("FAKE_TERRAFORM_SCRIPT", script).spawn()?;
        }
        ["read"] => {
            let mut line = String::new();
            io::stdin().lock().read_line(&mut line)?;
            say(&format!("read: {}", line.trim_end()))?;
        }
        ["sleep", millis] => pause(Duration::from_millis(number(millis)?)),
        ["guard", file] => {
            let file = (*file).to_owned();
            // Once at once: from its first step the child is under the lock.
            note_if_unlocked(&file)?;
            std::thread::spawn(move || {
                loop {
                    note_if_unlocked(&file).expect("the lock can be looked at");
                    pause(Duration::from_millis(3));
                }
            });
        }
        ["tick", file, millis] => {
            let (file, period) = ((*file).to_owned(), Duration::from_millis(number(millis)?));
            std::thread::spawn(move || {
                loop {
                    note(&file, &format!("at={}ms\n", uptime().as_millis()));
                    pause(period);
                }
            });
        }
        ["raw"] => {
            let mut modes = tcgetattr(io::stdin())?;
            modes.local_flags.remove(LocalFlags::ECHO | LocalFlags::ICANON);
            tcsetattr(io::stdin(), SetArg::TCSANOW, &modes)?;
        }
        ["wait"] => {
            pause(PATIENCE);
            return Ok(Some(99));
        }
        ["wait", seconds] => {
            pause(Duration::from_secs(number(seconds)?));
            return Ok(Some(99));
        }
        ["begin", file, id @ ..] => begin(file, getpid(), id)?,
        ["begin-parent", file, id @ ..] => begin(file, getppid(), id)?,
        ["end", file] => note(file, &format!("end {}\n", getpid())),
        ["exit", code] => return Ok(Some(number(code)?)),
        ["die", signal] => {
            // A shell, since it dies by any number and leaves no core file.
            let script = format!("ulimit -c 0; kill -{signal} $$; sleep 10");
            return Err(Command::new("/bin/sh").args(["-c", &script]).exec());
        }
        _ => return Err(io::Error::other("not a step")),
    }
    Ok(None)
}

fn on(signal: &str, exit: Option<(u8, u64)>, log: &Log) -> io::Result<()> {
    let signal: Signal = signal.parse()?;
    let mut signals = SignalsInfo::<WithOrigin>::new([signal as i32])?;
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        for (count, origin) in (1..).zip(&mut signals) {
            let from = origin.process.map_or_else(|| "kernel".to_owned(), |p| p.pid.to_string());
            let path = log.lock().expect("not poisoned").clone();
            if let Some(path) = path {
                note(
                    &path,
                    &format!("{signal} {count} from={from} at={}ms\n", uptime().as_millis()),
                );
            }
            if let (Some((code, millis)), 1) = (exit, count) {
                // In a thread of its own: a second signal meanwhile is to be noted, too.
                std::thread::spawn(move || {
                    pause(Duration::from_millis(millis));
                    #[expect(clippy::disallowed_methods, reason = "the script wants this end")]
                    std::process::exit(code.into());
                });
            }
        }
    });
    Ok(())
}

/// Notes that a process works from now on: `begin PID BORN ID by=PID at=…`. Whoever began before,
/// has not ended and still lives is an `overlap`. All under one file lock, so that of two that
/// begin at once the later sees the earlier; and who died without a word is told by its birth.
fn begin(path: &str, who: Pid, id: &[&str]) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    file.lock()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let ended: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("end ")).collect();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["begin", pid, born_at, .., by, _] = words.as_slice() else { continue };
        let over = ended.iter().any(|end| by.strip_prefix("by=") == Some(end));
        if !over && born(pid).as_deref() == Some(born_at) && *pid != who.to_string() {
            writeln!(file, "overlap {who} began while {pid} lives: {line}")?;
        }
    }
    let born_at = born(&who.to_string()).ok_or_else(|| io::Error::other("the parent is gone"))?;
    let (by, at) = (getpid(), uptime().as_millis());
    writeln!(file, "begin {who} {born_at} {} by={by} at={at}ms", id.join("-"))?;
    file.unlock()
}

/// When a process began, in the kernel's ticks; nothing if it runs no more.
fn born(pid: &str) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    // The state comes first after the name; the 22nd field of all is the start.
    let runs = !matches!(fields.first(), None | Some(&("Z" | "X")));
    runs.then(|| fields.get(19).map(|&ticks| ticks.to_owned())).flatten()
}

fn note(path: &str, line: &str) {
    // One write in append mode: lines of several processes do not mix.
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the log can be written");
}

/// Looks without taking: `F_OFD_GETLK` says who would be in the way of a lock.
fn note_if_unlocked(file: &str) -> io::Result<()> {
    let unlocked = match fs::File::open(file) {
        Ok(opened) => {
            let mut lock = libc::flock {
                l_type: i16::try_from(libc::F_WRLCK).map_err(io::Error::other)?,
                l_whence: 0,
                l_start: 0,
                l_len: 0,
                l_pid: 0,
            };
            fcntl(&opened, FcntlArg::F_OFD_GETLK(&mut lock))?;
            i32::from(lock.l_type) == libc::F_UNLCK
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(error),
    };
    if unlocked {
        note(&format!("{file}.unlocked"), &format!("{} at={}ms\n", getpid(), uptime().as_millis()));
    }
    Ok(())
}

/// Starts anew with the signal ignored, since nothing safe ignores one in place: `sh` does, and
/// an ignored signal stays ignored across exec.
fn become_ignoring(signal: &str) -> io::Result<()> {
    let marker = format!("FAKE_TERRAFORM_IGNORES_{signal}");
    if variable(&marker).is_some() {
        return Ok(());
    }
    let name = signal.trim_start_matches("SIG");
    let script = format!("trap '' {name}; exec \"$0\" \"$@\"");
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(script).arg(std::env::current_exe()?).args(std::env::args_os().skip(1));
    Err(shell.env(marker, "1").exec())
}

fn describe() -> io::Result<()> {
    let foreground = fs::File::open("/dev/tty").ok().and_then(|tty| tcgetpgrp(tty).ok());
    let status = fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).map_or("", str::trim).to_owned()
    };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    say(&format!(
        "pid={} pgid={} sid={} foreground={} sigblk={} sigign={} sigcgt={} args={}",
        getpid(),
        getpgrp(),
        getsid(None)?,
        foreground.map_or_else(|| "none".to_owned(), |group| group.to_string()),
        field("SigBlk:"),
        field("SigIgn:"),
        field("SigCgt:"),
        arguments.join(",")
    ))
}

fn say(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

fn number<T: std::str::FromStr>(word: &str) -> io::Result<T> {
    word.parse().map_err(|_| io::Error::other(format!("`{word}` is not a number that fits")))
}

fn variable(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "not a part of the product")]
    std::env::var(name).ok()
}

fn pause(time: Duration) {
    #[expect(clippy::disallowed_methods, reason = "not a part of the product")]
    std::thread::sleep(time);
}

fn uptime() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("there is a clock"))
}
