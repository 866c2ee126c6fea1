//! What is on this machine: settings, programs, Terraform's own files.

use std::io::Read as _;
use std::path::Path;

use nix::unistd::{AccessFlags, access};

use crate::backend::{Backend, Resolved};
use crate::duration;
use crate::env::Env;
use crate::job::DoctorJob;
use crate::lock::lease::LeaseTerm;
use crate::opened;
use crate::report::{Check, CheckStatus, shell_command, shell_quote};
use crate::settings::{OnLockLost, Settings, Sourced};
use crate::state_dir;
use crate::supervise::{SecondSignal, first_words};
use crate::target::{LockTarget, StoreSpec};

/// How much of a script is looked at.
const SCRIPT: u64 = 64 * 1024;

pub(super) fn checks(job: &DoctorJob, env: &Env) -> Vec<Check> {
    let mut checks = vec![settings(job), terraform(job), path(job)];
    checks.extend(backend(job));
    checks.push(state_dir(env));
    checks
}

fn settings(job: &DoctorJob) -> Check {
    match &job.settings {
        Ok(settings) => Check::pass("settings", values(settings).join("\n")),
        Err(error) => {
            let hint = error.hint.clone().or(Some("correct or remove that file".to_owned()));
            Check::fail("settings", error.message.clone(), hint)
        }
    }
}

/// Each value, and who set it.
fn values(settings: &Settings) -> Vec<String> {
    fn line<T>(name: &str, set: &Sourced<T>, text: impl Fn(&T) -> String) -> String {
        format!("{name} = {} ({})", text(&set.value), set.origin)
    }
    let time = |time: &std::time::Duration| duration::format(*time);
    let switch = |on: &bool| if *on { "on" } else { "off" }.to_owned();
    let mut all = vec![
        line("lock-timeout", &settings.lock_timeout, time),
        line("lease", &settings.lease, |term| match term {
            LeaseTerm::Never => "never".to_owned(),
            LeaseTerm::After(ttl) => duration::format(*ttl),
        }),
        line("no-line", &settings.no_line, switch),
        line("no-history", &settings.no_history, switch),
        line("plan-lock", &settings.plan_lock, |how| how.as_str().to_owned()),
        line("summary", &settings.summary, |what| what.as_str().to_owned()),
        line("outdated", &settings.outdated, |what| what.as_str().to_owned()),
        line("no-backend-lock", &settings.no_backend_lock, switch),
        line("on-lock-lost", &settings.on_lock_lost, |what| match what {
            OnLockLost::Stop => "stop".to_owned(),
            OnLockLost::Warn => "warn".to_owned(),
        }),
        line("grace", &settings.grace, |grace| grace.map_or("none".to_owned(), duration::format)),
        line("orphan-grace", &settings.orphan_grace, time),
        line("max-hold", &settings.max_hold, time),
        line("second-signal", &settings.second_signal, |what| match what {
            SecondSignal::Hold => "hold".to_owned(),
            SecondSignal::Forward => "forward".to_owned(),
        }),
    ];
    all.extend(settings.locks.iter().map(|lock| line("lock", lock, |it| it.place.to_string())));
    all.extend(settings.unlocked.iter().map(|it| line("unlocked", it, Clone::clone)));
    if let Some(set) = &settings.terraform {
        all.push(line("terraform", set, |path| path.display().to_string()));
    }
    all
}

fn terraform(job: &DoctorJob) -> Check {
    const NAME: &str = "terraform";
    let program = match &job.terraform {
        Ok(program) => program,
        Err(error) => return Check::fail(NAME, error.to_string(), error.hint()),
    };
    let path = program.display().to_string();
    match first_words(program, "version") {
        Some(said) if !said.trim().is_empty() => {
            let version = said.lines().next().unwrap_or_default().trim();
            Check::pass(NAME, format!("{version}, `{path}`"))
        }
        _ => {
            let hint = format!("see what it says: `{}`", shell_command(&[&path, "version"]));
            Check::fail(NAME, format!("`{path}` does not say its version"), Some(hint))
        }
    }
}

/// What a shell finds under Terraform's name.
fn path(job: &DoctorJob) -> Check {
    const NAME: &str = "path";
    let Some(first) = &job.first_on_path else {
        return Check::pass(NAME, "there is no `terraform` on PATH");
    };
    let shown = first.display();
    if job.is_first_us {
        return Check::pass(NAME, format!("`terraform` is tfwrap: `{shown}`"));
    }
    let script = opened::to_read(first).map(|opened| {
        let mut text = Vec::new();
        // What cannot be read is no script.
        drop(opened.file.take(SCRIPT).read_to_end(&mut text));
        text
    });
    let script = script.ok().filter(|text| text.starts_with(b"#!"));
    match script.map(|text| String::from_utf8_lossy(&text).contains("exec ")) {
        None => Check::pass(NAME, format!("`terraform` is `{shown}`")),
        Some(true) => {
            Check::pass(NAME, format!("`terraform` is `{shown}`, a script that executes another"))
        }
        Some(false) => Check::warn(
            NAME,
            format!(
                "`terraform` is `{shown}`, a script: it stands between tfwrap and Terraform, also when \
                 these are to be interrupted"
            ),
            "name Terraform itself, `--terraform PATH` or `TFWRAP_TERRAFORM`; or let the script end in \
             `exec`",
        ),
    }
}

fn backend(job: &DoctorJob) -> Vec<Check> {
    let mut checks = Vec::new();
    match &job.resolved {
        Ok(resolved) => {
            checks.push(initialised(resolved));
            let workspace = &resolved.workspace;
            let detail = format!("`{}` ({})", workspace.name, workspace.origin);
            checks.push(Check::pass("workspace", detail));
        }
        Err(error) => checks.push(Check::fail("backend", error.to_string(), error.hint())),
    }
    match &job.found {
        Ok(found) => {
            let urls: Vec<_> = found.targets.iter().map(LockTarget::url).collect();
            for note in &found.notes {
                checks.push(Check::warn("lock", note.clone(), "`tfwrap -v status` says more"));
            }
            if !urls.is_empty() {
                checks.push(Check::pass("lock", urls.join("\n")));
            }
        }
        // Said already.
        Err(error) if job.resolved.as_ref().err() == Some(error) || job.settings.is_err() => {}
        Err(error) => checks.push(Check::fail("lock", error.to_string(), error.hint())),
    }
    checks
}

fn initialised(resolved: &Resolved) -> Check {
    let kind = match &resolved.backend {
        Backend::Local { state_path } => format!("local, `{}`", state_path.display()),
        Backend::S3(backend) => {
            format!("s3, bucket `{}`, key `{}`", backend.bucket, backend.state_key())
        }
        Backend::Other(other) => other.kind.clone(),
    };
    let detail = format!("{kind} ({})", resolved.origin);
    if resolved.initialised {
        return Check::pass("backend", detail);
    }
    Check::warn("backend", format!("{detail}; not initialised"), "run `terraform init`")
}

const STATE_DIR: &str = "state-dir";

fn state_dir(env: &Env) -> Check {
    let check = usable_state_dir(env);
    match state_dir::can_be_on_path(env, true) {
        Err(what) if check.status == CheckStatus::Pass => {
            let detail = format!("{what}: `run` and `hold` need another");
            Check::warn(STATE_DIR, detail, state_dir::hint(false).unwrap_or_default())
        }
        _ => check,
    }
}

fn usable_state_dir(env: &Env) -> Check {
    let dir = state_dir::path(env);
    if !dir.exists() {
        // It is made when it is needed.
        return match dir.ancestors().find(|dir| dir.exists()).map(|dir| (dir, is_writable(dir))) {
            Some((_, true)) => Check::pass(STATE_DIR, format!("`{}`, not made yet", dir.display())),
            found => {
                let at = found.map_or(dir.as_path(), |it| it.0).display();
                Check::fail(
                    STATE_DIR,
                    format!("`{}`: `{at}` cannot be written", dir.display()),
                    state_dir::hint(false),
                )
            }
        };
    }
    match state_dir::secured(env) {
        Ok(dir) => Check::pass(STATE_DIR, format!("`{}`", dir.display())),
        Err(what) => Check::fail(STATE_DIR, what, state_dir::hint(false)),
    }
}

fn is_writable(dir: &Path) -> bool {
    access(dir, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

/// A lock that is a file: its directory must be one that can be written. Nothing is put there.
pub(super) fn of_file(target: &LockTarget) -> (Vec<Check>, bool) {
    let path = match &target.store {
        StoreSpec::LocalState { path } => path.parent().unwrap_or(Path::new("/")).to_owned(),
        StoreSpec::File { dir } => dir.clone(),
        StoreSpec::DynamoDb { .. } | StoreSpec::S3 { .. } => return (Vec::new(), true),
    };
    let (shown, quoted) = (path.display().to_string(), shell_quote(&path.display().to_string()));
    let check = if !path.is_dir() {
        let hint = format!("make it with `mkdir -p {quoted}`");
        Check::fail("directory", format!("`{shown}` is not there"), Some(hint))
    } else if !is_writable(&path) {
        let hint = format!("give this user the right to write there; see `ls -ld {quoted}`");
        Check::fail("directory", format!("`{shown}` cannot be written"), Some(hint))
    } else {
        Check::pass("directory", format!("`{shown}` can be written"))
    };
    let is_usable = check.status == CheckStatus::Pass;
    (vec![check], is_usable)
}
