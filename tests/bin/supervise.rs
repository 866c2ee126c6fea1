//! The supervision without any lock, for the tests: `supervise [--second-signal forward]
//! [--grace DURATION] [--in-ci] [--exec] [--terraform PATH] [ARGS…]`.
//!
//! The loop is the one of `run`, less everything about locks. What it decides goes to the file
//! `SUPERVISE_LOG`, one line for each action.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tfwrap::env::Env;
use tfwrap::lock::Uptime;
use tfwrap::supervise::{
    Action, Child, ChildStatus, Event, Policy, SecondSignal, Signals, SpawnError, Supervisor,
    TerminalUse, exec,
};

struct Options {
    policy: Policy,
    terminal_use: TerminalUse,
    exec: bool,
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    let options = options();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.expect("a runtime").block_on(run(options)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("supervise: {error}");
            ExitCode::from(70)
        }
    }
}

fn options() -> Options {
    let mut options = Options {
        policy: Policy { second_signal: SecondSignal::Hold, grace: None },
        terminal_use: TerminalUse::HandOver,
        exec: false,
        command: Vec::new(),
    };
    let mut words = std::env::args_os().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().expect("a value").into_string().expect("UTF-8");
        match word.to_str() {
            Some("--second-signal") => {
                let forward = value() == "forward";
                options.policy.second_signal =
                    if forward { SecondSignal::Forward } else { SecondSignal::Hold };
            }
            Some("--grace") => {
                options.policy.grace = Some(tfwrap::duration::parse(&value()).expect("a duration"));
            }
            Some("--in-ci") => options.terminal_use = TerminalUse::LeaveAlone,
            Some("--exec") => options.exec = true,
            Some("--terraform") => options.command.insert(0, value().into()),
            _ => {
                options.command.push(word);
                options.command.extend(words);
                break;
            }
        }
    }
    options
}

async fn run(options: Options) -> io::Result<u8> {
    let mut command = Command::new(&options.command[0]);
    command.args(&options.command[1..]);
    let program = Path::new(&options.command[0]).to_owned();

    let mut signals = Signals::install()?;
    if options.exec {
        return Ok(refused(&SpawnError::new(&program, exec(command))));
    }
    let mut child = match Child::spawn(command, options.terminal_use) {
        Ok(child) => child,
        Err(error) => return Ok(refused(&error)),
    };
    let mut supervisor = Supervisor::new(options.policy);
    loop {
        let event = tokio::select! {
            received = signals.next() => child.event(received),
            changed = child.changed() => changed?.into(),
            () = sleep_until(supervisor.deadline()) => Event::Tick,
        };
        let mut actions = supervisor.step(now()?, event);
        while !actions.is_empty() {
            let mut next = Vec::new();
            for action in actions {
                log(action)?;
                child.apply(action)?;
                match action {
                    Action::SuspendSelf(_) => {
                        next.extend(supervisor.step(now()?, Event::Resume));
                    }
                    Action::Finished { status: ChildStatus::Exited(code), .. } => return Ok(code),
                    Action::Finished { status: ChildStatus::Signaled(signal), .. } => {
                        return Ok(u8::try_from(128 + signal).expect("a signal's number"));
                    }
                    _ => {}
                }
            }
            actions = next;
        }
    }
}

fn refused(error: &SpawnError) -> u8 {
    eprintln!("supervise: {error}");
    match error {
        SpawnError::NotFound { .. } => 127,
        SpawnError::NotExecutable { .. } => 126,
        SpawnError::Failed { .. } => 70,
    }
}

fn now() -> io::Result<Uptime> {
    Ok(Uptime(Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?)))
}

async fn sleep_until(deadline: Option<Uptime>) {
    match (deadline, now()) {
        (Some(deadline), Ok(now)) => tokio::time::sleep(deadline.since(now)).await,
        _ => std::future::pending().await,
    }
}

fn log(action: Action) -> io::Result<()> {
    let Some(path) = Env::of_process().get_os("SUPERVISE_LOG").map(OsString::from) else {
        return Ok(());
    };
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    file.write_all(format!("{action:?}\n").as_bytes())
}
