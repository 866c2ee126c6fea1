//! From the arguments to the run: everything before the first remote request.

mod answer;
mod ill_formed;
mod limits;
mod session;
mod take_over;

use session::{LAST_WORDS, keeper, locked, ours};
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use crate::ci::Ci;
use crate::cli::{self, CommandLine, Options};
use crate::clock::uptime;
use crate::env::Env;
use crate::error::Error;
use crate::exit_code;
use crate::guardian;
use crate::held::Held;
use crate::job::{self, ChildCommand, FoundLocks, Job};
use crate::program;
use crate::receipt::job_hash;
use crate::report::{self, LogFormat, Notice, Reporter, Verbosity, use_color};
use crate::report::{github, gitlab};
use crate::run;
use crate::run::child_process::{command, depth};
use crate::run::dependents::ids_around_us;
use crate::run::planner::{Planner, working_dir};
use crate::settings::{Settings, early_color};
use crate::state_dir;
use crate::subcommand;
use crate::subcommand::recover::{Recovery, Shown};
use crate::subcommand::release::ReleaseCall;
use crate::subcommand::wait::WaitCall;
use crate::supervise::stand_in;
use crate::supervise::{self, SpawnError};

/// How deep tfwrap may call itself: a loop of scripts would never end otherwise.
const MOST_NESTINGS: u32 = 8;

/// Runs the program and returns its exit code.
pub(crate) fn start(args: &[OsString], env: &Env) -> u8 {
    if env.is_ambiguous_in_process() {
        // Whoever reads it takes the first or the last, and what we start gets the last from us.
        let error = supervise::detached::execute_anew(args, env);
        return fail(
            &Error::no_process(format!("tfwrap cannot be executed anew: {error}"), &error),
            provisional_options(&Options::default(), env),
        );
    }
    supervise::outlive_the_limit_of_files();
    let program = args.first().map_or(OsStr::new("tfwrap"), OsString::as_os_str);
    if guardian::is_name(program) {
        return be_guardian(args, env);
    }
    // A keeper has such a stdin, too, and its environment from whoever typed `hold`.
    let is_stand_in = || stand_in::is_one() && !subcommand::hold::is_keeper(program);
    if let Some(name) = env.get(stand_in::VARIABLE).filter(|_| is_stand_in()) {
        return stand_in::run(name, uptime).map_or(exit_code::BUG, |()| 0);
    }
    say_panics_at_once();
    // Whoever signals all that is called `terraform` does not mean us, who may be called so, too.
    supervise::take_own_name();
    match limits::expect_stack() {
        Ok(()) => call(args, program, env),
        Err(error) => fail(&error, provisional_options(&Options::default(), env)),
    }
}

/// What is typed. Its stack is a large one.
fn call(args: &[OsString], program: &OsStr, env: &Env) -> u8 {
    let line = match cli::parse(args) {
        Ok(line) => line,
        Err(said) => return answer::answer(said, args, env),
    };
    let ci = Ci::from_env(env);
    // A keeper reads the same words once more, and must read them from here.
    let began_in = line.options.chdir.as_ref().map(|_| subcommand::hold::this_dir());
    match prepare(&line, program, env, &ci) {
        Ok((planner, job)) => {
            let options = report_options(&planner.settings, env, &ci);
            let unread = || unread(&planner.settings, env);
            match job {
                Job::Exec { child, warning, detail } => {
                    let mut said = first(&planner.settings, env, ill_formed::OF_A_CALL);
                    let warning = warning.map(Notice::warning);
                    let detail = detail.map(|message| Notice::Detail { message });
                    said.extend(warning);
                    said.extend(detail.filter(|_| options.verbosity == Verbosity::Verbose));
                    exec(&child, said, options, &planner)
                }
                Job::Locked(job) => locked(*job, planner, &ci, options),
                Job::Status(args, found) => {
                    ours(options, unread(), &found, async |event_loop, targets| {
                        let on_terminal = std::io::stdout().is_terminal();
                        let receipts = state_dir::path(env);
                        subcommand::status::run(event_loop, targets, args, on_terminal, &receipts)
                            .await
                    })
                }
                Job::History(args, found) => {
                    ours(options, unread(), &found, async |event_loop, targets| {
                        subcommand::history::run(event_loop, targets, args).await
                    })
                }
                Job::Wait(args, found) => {
                    let limit = planner.settings.lock_timeout.value;
                    let mut held: Vec<_> = Held::from_env(env).ids().cloned().collect();
                    held.extend(ids_around_us(&state_dir::path(env)));
                    ours(options, unread(), &found, async |event_loop, targets| {
                        let call = WaitCall { args, limit, held: &held };
                        subcommand::wait::run(event_loop, targets, call).await
                    })
                }
                Job::Doctor(args, job) => {
                    ours(options, unread(), &FoundLocks::none(), async |event_loop, _| {
                        subcommand::doctor::run(event_loop, &job, args, env).await
                    })
                }
                Job::Table(job) => {
                    ours(options, unread(), &FoundLocks::none(), async |event_loop, _| {
                        subcommand::table::run(event_loop, &job).await
                    })
                }
                Job::Unlock(args, found) => {
                    ours(options, unread(), &found, async |event_loop, targets| {
                        let can_ask =
                            std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
                        subcommand::unlock::run(event_loop, targets, &args, can_ask).await
                    })
                }
                Job::Recover(args) => {
                    let wait = args.wait.unwrap_or_default();
                    let recovery = recovery(&ci, wait, env);
                    let first = first(&planner.settings, env, &[]);
                    ours(options, first, &FoundLocks::none(), async |event_loop, _| {
                        subcommand::recover::run(event_loop, &recovery).await
                    })
                }
                Job::Release(args, found) => {
                    let recovery = recovery(&ci, Duration::ZERO, env);
                    let limit = planner.settings.lock_timeout.value;
                    let first = first(&planner.settings, env, ill_formed::OF_A_RELEASE);
                    ours(options, first, &found, async |event_loop, targets| {
                        let asked = ReleaseCall { recovery: &recovery, targets, limit };
                        subcommand::release::run(event_loop, &asked, args.id.as_deref()).await
                    })
                }
                Job::Hold(job, _) if subcommand::hold::is_keeper(program) => {
                    keeper(*job, planner, &ci, options)
                }
                Job::Hold(_, hold) => {
                    let ended = limits::expect_descriptors()
                        .and_then(|()| subcommand::hold::run(args, hold, env, began_in));
                    let is_typed =
                        hold.format == cli::HoldFormat::Shell && std::io::stdout().is_terminal();
                    if is_typed && ended == Ok(0) {
                        let message = subcommand::hold::TYPED.to_owned();
                        say_last(Notice::Note { message }, options.clone());
                    }
                    ended.unwrap_or_else(|error| fail(&error, options))
                }
            }
        }
        Err(error) => fail(&error, provisional_options(&line.options, env)),
    }
}

/// Until there is a reporter.
fn say_panics_at_once() {
    std::panic::set_hook(Box::new(|panic| {
        report::say_at_once(&session::of_panic(panic));
    }));
}

fn prepare(
    line: &CommandLine,
    program: &OsStr,
    env: &Env,
    ci: &Ci,
) -> Result<(Planner, Job), Error> {
    if depth(env) > MOST_NESTINGS {
        return Err(Error::Config {
            message: format!("tfwrap calls itself more than {MOST_NESTINGS} times"),
            hint: Some(
                "look for a script that is called `terraform` and calls `terraform` again"
                    .to_owned(),
            ),
        });
    }
    let this_path = own_path(program, env)?;
    let mut options = line.options.clone();
    if let Some(dir) = line.options.chdir.clone() {
        // What was typed is relative to where it was typed.
        for path in [&mut options.config, &mut options.terraform].into_iter().flatten() {
            if path.as_encoded_bytes().contains(&b'/') || PathBuf::from(&*path).exists() {
                *path = std::path::absolute(&*path)
                    .map_or_else(|_| path.clone(), PathBuf::into_os_string);
            }
        }
        std::env::set_current_dir(&dir).map_err(|error| no_directory(&dir, &error))?;
    }
    let dir = terraforms_dir(line, &where_we_are(line, env)?);
    let settings = match line.words {
        cli::CliCommand::Doctor(_) => Settings::load_to_check(&options, env, &dir, ci.in_ci)?,
        _ => Settings::load(&options, env, &dir, ci.in_ci)?,
    };
    let planner = Planner {
        words: line.words.clone(),
        settings,
        env: env.clone(),
        this_path,
        called_as: job::called_as(program),
    };
    let job = planner.plan()?;
    Ok((planner, job))
}

/// What gives locks back needs no directory: a step that cleans up may have removed it before.
fn where_we_are(line: &CommandLine, env: &Env) -> Result<PathBuf, Error> {
    let is_any_right =
        matches!(line.words, cli::CliCommand::Recover(_) | cli::CliCommand::Release(_))
            && state_dir::path(env).is_absolute();
    working_dir().or_else(|error| {
        let root = PathBuf::from("/");
        let is_there = is_any_right && std::env::set_current_dir(&root).is_ok();
        if is_there { Ok(root) } else { Err(error) }
    })
}

fn no_directory(dir: &OsStr, error: &std::io::Error) -> Error {
    if dir.is_empty() {
        return Error::Usage {
            message: "`--chdir` is empty".to_owned(),
            hint: Some("name a directory, or leave `--chdir` out for this one".to_owned()),
        };
    }
    let quoted = report::shell_quote(&dir.to_string_lossy());
    let (what, hint) = match error.kind() {
        std::io::ErrorKind::NotFound => (
            "no such directory".to_owned(),
            format!("create it with `mkdir -p {quoted}`, or name it relative to this directory"),
        ),
        std::io::ErrorKind::NotADirectory => (
            "not a directory".to_owned(),
            format!("name the directory itself; `ls -ld {quoted}` shows what this is"),
        ),
        _ => (error.to_string().to_lowercase(), format!("check it with `ls -ld {quoted}`")),
    };
    Error::Usage { message: format!("`--chdir {}`: {what}", dir.display()), hint: Some(hint) }
}

/// The directory in which Terraform will work: a leading `-chdir=` counts for the search of our
/// file, too.
fn terraforms_dir(line: &CommandLine, dir: &std::path::Path) -> PathBuf {
    let chdir = match &line.words {
        cli::CliCommand::Terraform(args) => args.first().and_then(|arg| arg.to_str()),
        _ => None,
    };
    match chdir.and_then(|arg| arg.strip_prefix("-chdir=")) {
        Some(chdir) => dir.join(chdir),
        None => dir.to_owned(),
    }
}

/// tfwrap's own binary: as the kernel has it, else (without `/proc`) as it was called.
fn own_path(program: &OsStr, env: &Env) -> Result<PathBuf, Error> {
    if let Ok(path) = std::env::current_exe() {
        return Ok(path);
    }
    let called = PathBuf::from(program);
    let found = if called.components().count() > 1 {
        std::path::absolute(&called).ok()
    } else {
        program::search(program, env, None).ok()
    };
    found.filter(|path| path.exists()).ok_or_else(|| Error::Config {
        message:
            "tfwrap cannot find its own binary: there is no `/proc`, and it was not called by its \
             path"
                .to_owned(),
        hint: Some("mount `/proc`, or call tfwrap by its path".to_owned()),
    })
}

fn recovery<'a>(ci: &Ci, wait: Duration, env: &'a Env) -> Recovery<'a> {
    Recovery { env, job: ci.job_key.as_deref().map(job_hash), wait, shown: Shown::default() }
}

/// What this program is when it is called by the guardian's name.
fn be_guardian(args: &[OsString], env: &Env) -> u8 {
    let ended = if args.get(1).is_some_and(|arg| arg == guardian::TAKE_OVER) {
        take_over::run(args.get(2), env)
    } else {
        guardian::watch(uptime)
    };
    if let Err(error) = &ended {
        guardian::tell_why(error);
    }
    ended.map_or(exit_code::BUG, |()| 0)
}

/// What is said first: that the configuration file cannot be used, by what does not need it; and which
/// of these variables cannot be read.
fn first(settings: &Settings, env: &Env, variables: &[&str]) -> Vec<Notice> {
    let file = settings.unusable.as_ref().map(|error| {
        Notice::warning(format!("{error}; continuing without that file"))
            .with_hint(error.hint.clone())
    });
    file.into_iter().chain(ill_formed::warnings(env, variables)).collect()
}

/// What was probably meant as a setting. The outermost tfwrap says it for all below.
fn unread(settings: &Settings, env: &Env) -> Vec<Notice> {
    let unread = settings.unread.iter().filter(|_| depth(env) == 0);
    unread.map(|it| Notice::warning(it.message.clone()).with_hint(it.hint.clone())).collect()
}

fn exec(
    child: &ChildCommand,
    said: Vec<Notice>,
    options: report::ReporterOptions,
    planner: &Planner,
) -> u8 {
    if !said.is_empty() {
        match Reporter::to_stderr(options.clone()) {
            Ok(reporter) => {
                for notice in said {
                    reporter.say(notice);
                }
                reporter.flush(LAST_WORDS);
            }
            Err(error) => return fail(&limits::no_thread("messages", &error), options),
        }
    }
    let error = supervise::exec(command(child, &planner.env));
    let error = run::of_spawn(&SpawnError::new(&child.program, error));
    let set = planner.settings.terraform.as_ref();
    fail(&program::named(error, &child.program, set), options)
}

fn report_options(settings: &Settings, env: &Env, ci: &Ci) -> report::ReporterOptions {
    let is_terminal = std::io::stderr().is_terminal();
    let can_redraw = is_terminal && !matches!(env.get("TERM"), None | Some("" | "dumb"));
    report::ReporterOptions {
        format: settings.log_format.value,
        verbosity: settings.verbosity,
        color: use_color(settings.color, env, is_terminal),
        annotations: github::annotations(env),
        sections: gitlab::is_job(env),
        redraw: can_redraw && !ci.in_ci,
    }
}

/// How to say an error when the settings themselves are wrong.
fn provisional_options(options: &Options, env: &Env) -> report::ReporterOptions {
    let json = options.log_format.as_deref().or_else(|| env.get("TFWRAP_LOG_FORMAT"));
    report::ReporterOptions {
        format: if json == Some("json") { LogFormat::Json } else { LogFormat::Text },
        verbosity: Verbosity::Normal,
        color: use_color(early_color(options, env), env, std::io::stderr().is_terminal()),
        annotations: github::annotations(env),
        sections: gitlab::is_job(env),
        redraw: false,
    }
}

fn fail(error: &Error, options: report::ReporterOptions) -> u8 {
    let code = exit_code::of_error(error);
    say_last(Notice::Error { message: error.to_string(), hint: error.hint(), code }, options);
    code
}

fn say_last(notice: Notice, options: report::ReporterOptions) {
    match Reporter::to_stderr(options) {
        Ok(reporter) => {
            reporter.say(notice);
            reporter.flush(LAST_WORDS);
        }
        // Without a thread of its own it may be late, but it is said.
        Err(_) => report::say_at_once(&notice),
    }
}
