//! One stop, whoever sends it and through whatever, is one interrupt for Terraform, and its state is
//! saved: real Terraforms that take seconds to end, counted by what they say themselves.

mod keys;
mod killed;
mod pipes;
mod strays;
mod sweeps;

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tfwrap::supervise::ECHO;

use crate::aftermath::{Receipt, STATE_DIR};
use crate::support::harness::{self, pause};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::servers::{self, BUCKET, SECRET, dynamodb, s3, s3_backend_dir};
use crate::wrapped::{Running, Scene, wait_for_end, wait_until, wrapper};

/// How long the state takes to be written after the interrupt. A second one within that time costs
/// it: then Terraform waits 5 s and no longer.
const WRITES_FOR: Duration = Duration::from_secs(7);

const TABLE: &str = "one-stop";

pub(crate) fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok_and(|it| it.status.success());
    if !there {
        // Seen in the output of the test.
        println!("skipped: there is no `{program}` here");
    }
    there
}

/// A directory with something to apply, and a store that is slow to take its state. `terraform` on
/// its `PATH` is `wrapper`, a script that finds the real one in `$REAL`; without one, it is that.
struct Stage {
    scene: Scene,
    key: String,
    _slow: Proxy,
}

fn stage(wrapper: Option<&str>) -> Stage {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let key = format!("one-stop/{}/terraform.tfstate", COUNT.fetch_add(1, Ordering::Relaxed));
    // A thread of its own, since the test may have a runtime already.
    std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                static MADE: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
                MADE.get_or_init(|| dynamodb().create_lock_table(TABLE)).await;
            });
        });
        work.join().expect("a table");
    });
    let slow = Proxy::before(&s3().url);
    let model = s3_backend_dir(&key, TABLE);
    let backend = fs::read_to_string(model.path().join("backend.tf")).expect("a backend");
    let scene = Scene::of_program("terraform");
    fs::write(scene.path("backend.tf"), backend.replace(&s3().url, slow.url())).expect("a file");
    let resource = r#"
        resource "terraform_data" "first" {}
        resource "terraform_data" "second" {
          provisioner "local-exec" { command = "echo ready $$ > ready; sleep 60" }
          depends_on = [terraform_data.first]
        }
    "#;
    fs::write(scene.path("main.tf"), resource).expect("a file");
    // In a state that is new Terraform 1.11 loses what it saved, now and then.
    let empty = r#"{"version":4,"terraform_version":"1.11.4","serial":1,"lineage":"one-stop","outputs":{},"resources":[]}"#;
    s3().put(BUCKET, &key, empty.as_bytes());
    harness::run(servers::terraform(&scene.path(".")).args(["init", "-no-color"])).expect_code(0);
    slow.plan([Rule::on("PUT", Fault::Slow(WRITES_FOR)).times(1)]);
    let scene = scene.env("REAL", &harness::real_terraform().display().to_string());
    let scene = match wrapper {
        Some(text) => {
            script(&scene, "bin/terraform", text);
            let path = format!("{}:{}", scene.path("bin").display(), path_of_tests());
            scene.env("PATH", &path)
        }
        None => scene,
    };
    Stage { scene, key, _slow: slow }
}

fn path_of_tests() -> String {
    #[expect(clippy::disallowed_methods, reason = "what wrappers call must be found")]
    std::env::var("PATH").expect("a PATH")
}

fn script(scene: &Scene, name: &str, text: &str) {
    harness::program(&scene.path(name), text);
}

const APPLY: [&str; 3] = ["apply", "-auto-approve", "-no-color"];

/// What setup-terraform puts in Terraform's place: it runs `terraform-bin`, hears nothing, and
/// reads what that says.
const NODE: &str = r"#!/usr/bin/env node
const { spawn } = require('child_process');
const child = spawn(process.env.REAL, process.argv.slice(2), { stdio: ['inherit', 'pipe', 'pipe'] });
child.stdout.on('data', (data) => process.stdout.write(data));
child.stderr.on('data', (data) => process.stderr.write(data));
child.on('close', (code) => { process.exitCode = code; });
";

/// What tenv and others do: they pass on what they get.
const FORWARDER: &str = r"#!/usr/bin/env python3
import os, signal, subprocess, sys, time
def pass_on(number, _):
    # Two at once would be one for the kernel.
    time.sleep(float(os.environ.get('DELAY', '0.3')))
    child.send_signal(number)
child = subprocess.Popen([os.environ['REAL']] + sys.argv[1:])
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, pass_on)
while child.poll() is None:
    try: child.wait()
    except InterruptedError: pass
sys.exit(child.returncode)
";

/// The same without a signal of its own: a script that calls Terraform and would go on.
const PYTHON_SCRIPT: &str = r"#!/usr/bin/env python3
import subprocess, sys
code = subprocess.call(['terraform', 'apply', '-auto-approve', '-no-color'])
open('went-on', 'w').write(str(code))
import time; time.sleep(60)
";

const NODE_SCRIPT: &str = r"#!/usr/bin/env node
const { spawnSync } = require('child_process');
const { status } = spawnSync('terraform', ['apply', '-auto-approve', '-no-color'], { stdio: 'inherit' });
require('fs').writeFileSync('went-on', String(status));
setTimeout(() => {}, 60000);
";

/// Exactly one interrupt, and both resources in the state, the second one to be made anew.
#[track_caller]
fn expect_one(scene: &Scene, key: &str, shape: &str) {
    let said = ["stdout", "stderr"].map(|name| fs::read_to_string(scene.path(name)).unwrap());
    let said = said.concat();
    assert_eq!(said.matches("Interrupt received").count(), 1, "{shape}: {said}");
    assert_eq!(said.matches("Two interrupts").count(), 0, "{shape}: {said}");
    let state = s3().get(BUCKET, key).unwrap_or_default();
    let state = String::from_utf8_lossy(&state);
    assert!(state.contains("\"first\"") && state.contains("tainted"), "{shape}: {state}{said}");
    let mut next = harness::tfwrap(&scene.path("."));
    harness::run(next.args(["--lock-timeout=0s", "run", "--", "true"])).expect_code(0);
}

#[track_caller]
fn end(running: &mut Running) -> Option<i32> {
    let (pid, born_at) = (running.pid(), crate::wrapped::born(running.pid()));
    let code = running.bare_code();
    wait_for_end("the end of tfwrap", pid, born_at.as_ref());
    code
}

#[test]
fn a_wrapper_that_hears_nothing_and_one_that_passes_everything_on() {
    for (program, text) in [("node", NODE), ("python3", FORWARDER)] {
        if !has(program) {
            continue;
        }
        for (in_ci, group, name) in [
            (true, true, None),
            (false, true, None),
            (false, false, None),
            // As tfenv and others keep it.
            (true, false, Some("1.11.4")),
            (false, true, Some("v1")),
        ] {
            let Stage { scene, key, _slow } = stage(Some(text));
            let scene = match name {
                Some(name) => {
                    let real = scene.path(name);
                    let copied =
                        Command::new("cp").arg(harness::real_terraform()).arg(&real).status();
                    assert!(copied.expect("cp").success());
                    scene.env("REAL", &real.display().to_string())
                }
                None => scene,
            };
            let scene = scene.command(&APPLY);
            let scene = if in_ci { scene.in_ci() } else { scene };
            let mut running = scene.start().ready();
            if group {
                running.signal_group(Signal::SIGTERM);
            } else {
                running.signal(Signal::SIGINT);
            }
            // A wrapper that takes long to end after its Terraform is interrupted, too.
            let code = end(&mut running);
            assert!(matches!(code, Some(1 | 130)), "{code:?}: {}", running.stderr());
            expect_one(&running.scene, &key, program);
        }
    }
}

/// The script has the name, and what it runs another: whoever names the script has not told that, and it
/// hears of the next stop.
#[test]
fn a_signal_to_a_script_by_its_name_is_not_one_for_the_terraform_behind_it() {
    for does in ["\"$REAL\" \"$@\"; exit $?", "exec \"$REAL\" \"$@\""] {
        is_told_from_the_script(does);
    }
}

fn is_told_from_the_script(does: &str) {
    let Stage { scene, key, _slow } = stage(Some(&format!("#!/bin/sh\n{does}\n")));
    let real = scene.path("1.11.4");
    let copied = Command::new("cp").arg(harness::real_terraform()).arg(&real).status();
    assert!(copied.expect("cp").success());
    let scene = scene.env("REAL", &real.display().to_string()).command(&APPLY).in_ci();
    let mut running = scene.start().ready();
    let (tfwrap, comm) = (running.pid(), |pid: &Pid| {
        fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
    });
    let is_stand_in = |pid: &Pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains("LOCK_STAND_IN=")
    };
    wait_until("the stand-in's name", || {
        children(tfwrap).into_iter().find(|it| is_stand_in(it) && comm(it) == "1.11.4")
    });
    let named = children(tfwrap).into_iter().filter(|pid| comm(pid) == "terraform");
    for pid in named {
        nix::sys::signal::kill(pid, Signal::SIGINT).expect("it is there");
    }
    pause(Duration::from_millis(500));
    running.signal(Signal::SIGTERM);
    end(&mut running);
    expect_one(&running.scene, &key, does);
}

/// A tfwrap that only looks on hears of the stop and ends; so does the Terraform beside it.
#[test]
fn a_status_that_is_watched_beside_a_terraform_keeps_no_stop_from_it() {
    for (before, after) in [("", " &"), ("sleep 0.5; ", "")] {
        let Stage { scene, key, _slow } = stage(None);
        let watch = format!("{} status --watch > watched 2>&1", wrapper().display());
        let apply = "terraform apply -auto-approve -no-color";
        let text = if after.is_empty() {
            // In the foreground, and Terraform behind it.
            format!("#!/bin/sh\n{apply} &\n{before}{watch}\nwait\n")
        } else {
            format!("#!/bin/sh\n{watch}{after}\n{apply}\n")
        };
        script(&scene, "deploy", &text);
        let mut running = scene.command(&["run", "--", "./deploy"]).start().ready();
        running.scene.wait_for("watched");
        running.signal(Signal::SIGTERM);
        end(&mut running);
        expect_one(&running.scene, &key, "a status beside it");
    }
}

/// It holds nothing: it is ended like anything else that is left.
#[test]
fn a_status_that_is_left_behind_keeps_no_lock() {
    let scene = Scene::of_program("terraform").in_ci().command(&["run", "--", "./deploy"]);
    let watch = format!("{} status --watch > watched 2>&1", wrapper().display());
    script(&scene, "deploy", &format!("#!/bin/sh\n{watch} &\necho ready $$ > ready\nsleep 60\n"));
    let mut running = scene.start().ready();
    let deploy = running.scene.pid_in("ready");
    running.scene.wait_for("watched");
    nix::sys::signal::kill(deploy, Signal::SIGKILL).expect("it is there");
    assert_eq!(running.bare_code(), Some(137), "{}", running.stderr());
    assert!(!running.stderr().contains("still runs"), "{}", running.stderr());
    running.scene.expect_free();
}

/// Terragrunt, as `TG_TF_PATH=tfwrap terragrunt run --all` has it: a tfwrap in each unit, all of them in
/// its own group. The stop that came to all it passes on, 15 s later, to those that are left.
const TERRAGRUNT: &str = r"#!/usr/bin/env python3
import os, shlex, signal, subprocess, sys, time
stops, units = [], []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: stops.append((number, time.monotonic())))
for unit in sys.argv[1:]:
    where, command = unit.split(':', 1)
    streams = [open(where + '/' + name, 'w') for name in ('stdout', 'stderr')]
    units.append(subprocess.Popen(shlex.split(command), stdout=streams[0], stderr=streams[1]))
passed_on = False
while any(unit.poll() is None for unit in units):
    time.sleep(0.05)
    if stops and not passed_on and time.monotonic() - stops[0][1] > float(os.environ['DELAY']):
        passed_on = True
        for unit in units:
            if unit.poll() is None: unit.send_signal(stops[0][0])
print('passed on' if passed_on else 'all ended before')
sys.exit(max(unit.returncode for unit in units))
";

/// Outside of a CI, where a second stop is meant to hurry: this is none.
#[test]
fn what_terragrunt_passes_on_seconds_later_is_still_the_same_one() {
    if !has("python3") {
        return;
    }
    let mut units = Vec::new();
    for _ in 0..2 {
        let Stage { scene, key, _slow: slow } = stage(None);
        units.push(Stage { scene: scene.command(&APPLY), key, _slow: slow });
    }
    let first = &units[0].scene;
    script(first, "terragrunt", TERRAGRUNT);
    let mut terragrunt = Command::new(first.path("terragrunt"));
    terragrunt.args(units.iter().map(|Stage { scene, .. }| {
        format!("{}:{}", scene.path(".").display(), scene.shell_words())
    }));
    // The state takes longer than that to be written.
    terragrunt.env("DELAY", "2").stdout(fs::File::create(first.path("said")).expect("a file"));
    std::os::unix::process::CommandExt::process_group(&mut terragrunt, 0);
    let mut terragrunt = terragrunt.spawn().expect("it starts");
    for unit in &units {
        unit.scene.wait_for("ready");
    }
    let group = Pid::from_raw(terragrunt.id().cast_signed());
    nix::sys::signal::killpg(group, Signal::SIGINT).expect("its group");
    let status = wait_until("its end", || terragrunt.try_wait().expect("it can be waited for"));
    assert_eq!(status.code(), Some(1));
    assert_eq!(first.wait_for("said"), "passed on\n");
    for Stage { scene, key, .. } in &units {
        expect_one(scene, key, "terragrunt");
    }
}

/// Where no Terraform can be seen below a wrapper (it stands in a container), all of the group is told,
/// though a shell that the wrapper has forked has its words.
#[test]
fn below_a_wrapper_without_a_terraform_the_whole_group_hears_of_the_stop() {
    for work in ["sleep 60", "( sleep 60; true ) | cat"] {
        let scene = Scene::of_shell(&format!("echo ready $$ > ready; {work}"));
        let mut running = scene.in_ci().start().ready();
        running.signal(Signal::SIGTERM);
        assert!(running.code().is_some_and(|code| code != 0), "{work}: {}", running.stderr());
        assert!(running.stderr().contains("the child's process group"), "{}", running.stderr());
    }
}

/// The negative control: without tfwrap the forwarder and the group make two. Where Terraform has
/// not taken the first by then, the kernel makes one of them: so it is tried some times.
#[test]
fn a_group_behind_a_wrapper_that_passes_everything_on_is_hit_twice() {
    if !has("python3") {
        return;
    }
    let delays = ["0.3", "0.1", "0.05", "0.02", "0.01", "0.005", "0.002", "0"];
    let is_hit_twice =
        |delay: &str| said_behind_a_forwarder(delay).contains("Two interrupts received");
    assert!(delays.into_iter().any(is_hit_twice), "never twice");
}

fn said_behind_a_forwarder(delay: &str) -> String {
    let Stage { scene, _slow, .. } = stage(Some(FORWARDER));
    let bin = scene.path("bin/terraform");
    let mut command = Command::new("env");
    command.arg(format!("DELAY={delay}"));
    command.arg(format!("REAL={}", harness::real_terraform().display())).arg(&bin).args(APPLY);
    command.env("AWS_ACCESS_KEY_ID", SECRET).env("AWS_SECRET_ACCESS_KEY", SECRET);
    command.current_dir(scene.path("."));
    let stream = |name| fs::File::create(scene.path(name)).expect("a file");
    command.stdout(stream("stdout")).stderr(stream("stderr"));
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().expect("it starts");
    scene.wait_for("ready");
    let group = Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::killpg(group, Signal::SIGINT).expect("its group");
    wait_until("its end", || child.try_wait().expect("it can be waited for"));
    fs::read_to_string(scene.path("stderr")).expect("a file")
}

#[test]
fn a_script_below_run_ends_with_its_terraform() {
    let scripts = [
        ("python3", PYTHON_SCRIPT),
        ("node", NODE_SCRIPT),
        ("sh", "terraform apply -auto-approve -no-color; echo $? > went-on; sleep 60"),
    ];
    for (program, text) in scripts {
        if program != "sh" && !has(program) {
            continue;
        }
        let Stage { scene, key, _slow } = stage(None);
        let text = if program == "sh" { format!("#!/bin/sh\n{text}\n") } else { text.to_owned() };
        script(&scene, "deploy", &text);
        let mut running = scene.command(&["run", "--", "./deploy"]).start().ready();
        running.signal(Signal::SIGTERM);
        let code = end(&mut running);
        assert!(code.is_some_and(|code| code != 0), "{program}: {code:?}");
        expect_one(&running.scene, &key, program);
    }
}

#[test]
fn timeout_signals_the_process_and_its_group() {
    for _ in 0..3 {
        let Stage { scene, key, _slow } = stage(None);
        let scene = scene.command(&APPLY).through(&["timeout", "600"]);
        let mut running = scene.start().ready();
        // As at the end of its time.
        running.signal(Signal::SIGTERM);
        assert_eq!(end(&mut running), Some(1), "{}", running.stderr());
        expect_one(&running.scene, &key, "timeout");
    }
}

#[test]
fn a_background_job_of_a_script_that_hears_no_interrupt_is_told_by_term() {
    // SIGINT is ignored in it, and in all below it but Terraform, which installs its own handler.
    for (command, code) in [("exec sleep 60", 143), ("sleep 60; true", 143)] {
        let scene = Scene::of_program("terraform").command(&["run", "--", "sh", "-c", command]);
        let words = shell_words::join(scene.words());
        let outer = format!("{words} & echo ready $! > {}; wait $!", scene.path("ready").display());
        let mut running =
            scene.through(&["sh", "-c", &outer, "--"]).start_with(|command| command).ready();
        let tfwrap = running.scene.pid_in("ready");
        wait_until("its child", || children(tfwrap).into_iter().find(|pid| is_child(*pid)));
        nix::sys::signal::kill(tfwrap, Signal::SIGTERM).expect("it is there");
        assert_eq!(running.bare_code(), Some(code), "{command}: {}", running.stderr());
        running.scene.expect_free();
    }
    let Stage { scene, key, _slow } = stage(None);
    let run = ["run", "--", "sh", "-c", "terraform apply -auto-approve -no-color; sleep 60"];
    let scene = scene.command(&run);
    let words = shell_words::join(scene.words());
    let outer = format!("{words} & echo ready $! > {}; wait $!", scene.path("tfwrap").display());
    let mut running = scene.through(&["sh", "-c", &outer, "--"]).start().ready();
    let tfwrap = running.scene.pid_in("tfwrap");
    nix::sys::signal::kill(tfwrap, Signal::SIGTERM).expect("it is there");
    assert!(running.bare_code().is_some_and(|code| code != 0), "{}", running.stderr());
    expect_one(&running.scene, &key, "ignored");
}

fn children(parent: Pid) -> Vec<Pid> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let children = fs::read_to_string(path).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

fn is_child(pid: Pid) -> bool {
    let exe = fs::read_link(format!("/proc/{pid}/exe"));
    exe.is_ok_and(|exe| exe != wrapper())
}

/// In a PID namespace of its own, where nobody else is hit by a name.
fn swept(scene: &Scene, sweep: &str) {
    let here = scene.path(".");
    let script = format!(
        "cd {}
         {} > stdout 2> stderr & tfwrap=$!
         until [ -e ready ]; do sleep 0.05; done
         sleep 0.5
         {sweep}
         wait $tfwrap",
        here.display(),
        shell_words::join(scene.words()),
    );
    // From a file, so that no command line of the sweeper itself is hit.
    fs::write(scene.path("sweep.sh"), script).expect("a script");
    let mut sweeper = Command::new("unshare");
    sweeper.args(["-Urpf", "--mount-proc", "setsid", "-w", "bash"]).arg(scene.path("sweep.sh"));
    let mut sweeper = sweeper.spawn().expect("it starts");
    wait_until("its end", || sweeper.try_wait().expect("it can be waited for"));
}

/// A supervisor that takes its own signals by `sigwait(3)` blocks them, and what it starts has them blocked.
#[test]
fn a_stop_that_was_blocked_at_the_start_is_heard_as_terraform_hears_it() {
    for words in [&APPLY[..], &["run", "--", "terraform", "apply", "-auto-approve", "-no-color"]] {
        let Stage { scene, key, _slow } = stage(None);
        let scene = scene.through(&["env", "--block-signal=INT,TERM"]).command(words);
        let mut running = scene.start().ready();
        running.signal(Signal::SIGTERM);
        end(&mut running);
        expect_one(&running.scene, &key, &words.join(" "));
    }
}

fn can_unshare() -> bool {
    let unshare = Command::new("unshare").args(["-Urpf", "--mount-proc", "true"]).status();
    let can = unshare.is_ok_and(|status| status.success());
    if !can {
        println!("skipped: no PID namespace can be made here");
    }
    can
}

#[test]
fn whoever_signals_by_name_command_line_or_session_hits_terraform_once() {
    if !can_unshare() {
        return;
    }
    let run = ["run", "--", "./deploy"];
    let wrapper = Some("#!/bin/sh\n\"$REAL\" \"$@\"\nexit $?\n");
    let cases = [
        (&run as &[&str], "pkill terraform", None),
        (&run, "pkill -INT terraform", None),
        (&run, "killall terraform", None),
        (&run, "pkill -f 'terraform apply'", None),
        (&run, "pkill -f 'terraform apply'; kill $tfwrap", None),
        (&run, "pkill -f terraform", wrapper),
        (&APPLY, "pkill -INT -f 'apply -'", None),
        (&APPLY, "pkill -INT -f 'apply -'", wrapper),
        (&APPLY, "pkill terraform; kill $tfwrap", None),
    ];
    for (words, sweep, wrapper) in cases {
        let Stage { scene, key, _slow } = stage(wrapper);
        script(&scene, "deploy", "#!/bin/sh\nterraform apply -auto-approve -no-color\n");
        let scene = scene.command(words);
        swept(&scene, sweep);
        expect_one(&scene, &key, sweep);
    }
}

#[test]
fn an_outer_tfwrap_and_what_reaches_the_inner_one_besides_are_one_stop() {
    // The inner one forwards a second stop; both of them get this one.
    for options in [&["--second-signal", "forward"] as &[&str], &[]] {
        let Stage { scene, key, _slow } = stage(None);
        let scene = scene.options(options);
        script(&scene, "deploy", "#!/bin/bash\nterraform apply -auto-approve -no-color\ntrue\n");
        let mut running = scene.command(&["run", "--", "./deploy"]).start().ready();
        running.signal(Signal::SIGTERM);
        pause(Duration::from_millis(200));
        running.signal(Signal::SIGHUP);
        end(&mut running);
        expect_one(&running.scene, &key, "nested");
    }
}

/// A script that has not heard of the stop goes on with its next command.
#[test]
fn after_a_stop_nothing_more_is_started_below_a_run() {
    let text = "#!/bin/sh\nfor n in 1 2 3 4; do terraform apply -auto-approve -no-color; \
                echo $? >> codes; done; sleep 60\n";
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let Stage { scene, key, _slow } = stage(None);
        script(&scene, "deploy", text);
        let mut running = scene.command(&["run", "--", "./deploy"]).start().ready();
        running.signal(signal);
        end(&mut running);
        let codes = fs::read_to_string(running.scene.path("codes")).unwrap_or_default();
        assert!(codes.lines().skip(1).all(|code| code == "130"), "{codes}");
        let said = running.stderr();
        assert!(said.contains("nothing more is started inside it"), "{said}");
        assert!(said.contains("interrupted by the end of the run around it"), "{said}");
        expect_one(&running.scene, &key, "a loop");
    }
}

/// GitHub interrupts a run and kills it 10 s later, however long Terraform still needs. Then the script
/// has another parent, and only its environment says what it is below.
#[test]
fn after_a_kill_nothing_more_is_started_below_a_run() {
    let text = "#!/bin/sh\nfor n in 1 2 3; do terraform apply -auto-approve -no-color; \
                echo $? >> codes; done\n";
    let ours: &[&str] = &["run", "--", "./deploy"];
    let nested: &[&str] = &["run", "--", env!("CARGO_BIN_EXE_tfwrap"), "run", "--", "./deploy"];
    for (signal, words) in [(Some(Signal::SIGINT), ours), (None, ours), (None, nested)] {
        let Stage { scene, key, _slow } = stage(None);
        script(&scene, "deploy", text);
        let mut running = scene.command(words).start().ready();
        if let Some(signal) = signal {
            running.signal(signal);
            wait_until("the interrupt", || {
                let said = fs::read_to_string(running.scene.path("stdout")).unwrap_or_default();
                said.contains("Interrupt received").then_some(())
            });
        }
        running.signal(Signal::SIGKILL);
        let case = format!("{signal:?} {words:?}");
        let codes = wait_until("the end of the script", || {
            let codes = fs::read_to_string(running.scene.path("codes")).unwrap_or_default();
            (codes.lines().count() == 3).then_some(codes)
        });
        assert_eq!(codes, "1\n130\n130\n", "{case}: {}", running.stderr());
        assert_eq!(end(&mut running), None);
        let said = running.stderr();
        assert!(said.contains("nothing more is started inside it"), "{case}: {said}");
        wait_until("its guardian's end", || {
            let all = Receipt::all(&running.scene.path(STATE_DIR));
            all.iter().all(|it| it.text["is_over"] == true).then_some(())
        });
        expect_one(&running.scene, &key, &case);
    }
}

/// What a script starts after a stop has had none: it hears the next, which is kept from the rest.
#[test]
fn a_terraform_that_a_script_starts_after_a_stop_hears_the_next() {
    let other = servers::local_backend_dir();
    let text = r#"#!/bin/bash
        trap 'touch heard' INT
        echo ready $$ > ready
        until [ -e heard ]; do sleep 0.05; done
        cd "$OTHER"
        "$REAL" apply -auto-approve -no-color -var "command=touch working; sleep 60"
    "#;
    let scene = Scene::of_program("terraform").in_ci().command(&["run", "--", "./deploy"]);
    script(&scene, "deploy", text.trim_start());
    let scene = scene.env("REAL", &harness::real_terraform().display().to_string());
    let scene = scene.env("OTHER", &other.path().display().to_string());
    let mut running = scene.start().ready();
    running.signal(Signal::SIGINT);
    wait_until("its work", || other.path().join("working").exists().then_some(()));
    // At once it would be the same stop.
    pause(ECHO);
    running.signal(Signal::SIGTERM);
    assert!(end(&mut running).is_some_and(|code| code != 0), "{}", running.stderr());
    let said = fs::read_to_string(running.scene.path("stdout")).expect("its stdout");
    assert_eq!(said.matches("Interrupt received").count(), 1, "{said}");
    assert_eq!(said.matches("Two interrupts").count(), 0, "{said}");
    assert!(running.stderr().contains("not known to have had one"), "{}", running.stderr());
    let state = fs::read_to_string(other.path().join("terraform.tfstate")).expect("a state");
    assert!(state.contains("tainted"), "{state}");
}

/// Bash starts a background job of a script with SIGINT ignored; Terraform hears it all the same.
#[test]
fn what_was_ignored_at_the_start_is_heard_as_terraform_hears_it() {
    let Stage { scene, key, _slow } = stage(None);
    let scene = scene.through(&["env", "--ignore-signal=INT"]);
    let mut running = scene.command(&APPLY).start().ready();
    running.signal(Signal::SIGINT);
    assert_eq!(end(&mut running), Some(1), "{}", running.stderr());
    expect_one(&running.scene, &key, "ignored");
}
