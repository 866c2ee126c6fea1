//! Signals, ends and streams of a supervised child, without a terminal.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tfwrap::supervise::ECHO;

use crate::support::harness::{self, Gate, applying, pause};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::servers::{REGION, dynamodb, local_backend_dir, terraform};
use crate::wrapped::{
    LOGS_ALL, Running, Scene, fake_terraform, is_gone, only_child, state, uptime, wait_until,
    wrapper,
};

#[derive(Debug, Clone, Copy)]
enum Shape {
    /// GitHub, Azure.
    OneProcess,
    /// GitLab's shell executor, Buildkite.
    Group,
}

fn send(running: &Running, shape: Shape, signal: Signal) {
    match shape {
        Shape::OneProcess => running.signal(signal),
        Shape::Group => running.signal_group(signal),
    }
}

/// Everything sent before has been decided on when the child has this one: signals that arrive
/// together are taken by number, and SIGWINCH comes last.
fn settle(running: &Running) {
    let before = running.scene.count("SIGWINCH");
    running.signal(Signal::SIGWINCH);
    wait_until("a passed-on SIGWINCH", || (running.scene.count("SIGWINCH") > before).then_some(()));
}

#[test]
fn every_exit_code_passes_through() {
    for code in 0..=255 {
        let mut running = Scene::new(&format!("exit {code}")).start();
        assert_eq!(running.bare_code(), Some(code), "{}", running.stderr());
        running.scene.expect_takeable();
    }
}

#[test]
fn death_by_each_signal_gives_128_and_its_number() {
    // All whose default action ends a process (signal(7)), and the first and last real-time ones.
    let deadly = (1..=31).filter(|n| ![17, 18, 19, 20, 21, 22, 23, 28].contains(n));
    for signal in deadly.chain([34, 64]) {
        let mut running = Scene::new(&format!("die {signal}")).start();
        assert_eq!(running.code(), Some(128 + signal), "{}", running.stderr());
    }
}

#[test]
fn one_interrupt_reaches_the_child_whoever_sends_how_many() {
    for shape in [Shape::OneProcess, Shape::Group] {
        for first in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            let mut running = Scene::new(LOGS_ALL).in_ci().start().ready();
            send(&running, shape, first);
            let line = running.scene.wait_for_log("SIGINT 1");
            assert!(line.contains(&format!("from={} ", running.pid())), "{line}");
            for next in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGTERM] {
                send(&running, shape, next);
            }
            settle(&running);
            running.signal(Signal::SIGUSR1);
            assert_eq!(running.code(), Some(5));
            let stops: Vec<_> =
                ["SIGINT", "SIGTERM", "SIGHUP"].map(|name| running.scene.count(name)).into();
            assert_eq!(stops, [1, 0, 0], "{first} {shape:?}: {:?}", running.scene.log());
        }
    }
}

/// The negative control: what the wrapper is there to prevent.
#[test]
fn a_bare_child_gets_every_signal_of_its_group() {
    let running = Scene::new(LOGS_ALL).start_bare().ready();
    running.signal_group(Signal::SIGINT);
    running.scene.wait_for_log("SIGINT 1");
    running.signal_group(Signal::SIGTERM);
    running.scene.wait_for_log("SIGTERM 1");
}

#[test]
fn a_second_stop_is_forwarded_when_asked_for_and_a_third_is_not() {
    let options = ["--second-signal", "forward"];
    let mut running = Scene::new(LOGS_ALL).options(&options).start().ready();
    running.signal(Signal::SIGTERM);
    running.scene.wait_for_log("SIGINT 1");
    // An equal one within a second is the same.
    running.signal(Signal::SIGTERM);
    pause(Duration::from_millis(1200));
    assert_eq!(running.scene.count("SIGINT"), 1, "{:?}", running.scene.log());
    running.signal(Signal::SIGTERM);
    running.scene.wait_for_log("SIGINT 2");
    running.signal(Signal::SIGTERM);
    running.signal(Signal::SIGINT);
    settle(&running);
    running.signal(Signal::SIGUSR1);
    assert_eq!(running.code(), Some(5));
    assert_eq!(running.scene.count("SIGINT"), 2, "{:?}", running.scene.log());
}

#[test]
fn quit_reaches_the_child_as_it_is() {
    let script = "log @/log; on SIGINT log; on SIGQUIT exit 2; ready @/ready; wait";
    let mut running = Scene::new(script).start().ready();
    running.signal(Signal::SIGQUIT);
    assert_eq!(running.code(), Some(2));
    assert_eq!((running.scene.count("SIGQUIT"), running.scene.count("SIGINT")), (1, 0));
}

#[test]
fn the_wrapper_waits_for_a_slow_end_and_keeps_its_code() {
    let script = "log @/log; on SIGINT exit 1 after 400; ready @/ready; wait";
    let mut running = Scene::new(script).in_ci().start().ready();
    running.signal(Signal::SIGINT);
    running.scene.wait_for_log("SIGINT 1");
    let child = running.scene.pid_in("ready");
    running.signal(Signal::SIGTERM);
    assert!(!is_gone(child), "the second signal must not end it");
    assert_eq!(running.code(), Some(1));
    assert!(is_gone(child));
}

#[test]
fn a_child_that_ignores_the_interrupt_is_killed_after_the_grace() {
    let script = "ignore SIGINT; ready @/ready; wait";
    let mut running = Scene::new(script).options(&["--grace", "200ms"]).start().ready();
    running.signal(Signal::SIGTERM);
    assert_eq!(running.code(), Some(137));
    assert!(is_gone(running.scene.pid_in("ready")));
}

#[test]
fn without_a_grace_a_child_that_ignores_the_interrupt_is_waited_for() {
    let script =
        "log @/log; ignore SIGINT; on SIGWINCH log; on SIGUSR1 exit 5; ready @/ready; wait";
    let mut running = Scene::new(script).start().ready();
    running.signal(Signal::SIGINT);
    settle(&running);
    running.signal(Signal::SIGUSR1);
    assert_eq!(running.code(), Some(5));
}

#[test]
fn an_own_end_leaves_background_processes_alone() {
    let scene = Scene::new("spawn BACKGROUND; exit 3").background("ready @/background; wait");
    let mut running = scene.start();
    assert_eq!(running.code(), Some(3));
    let background = running.scene.pid_in("background");
    assert!(!is_gone(background));
}

#[test]
fn after_a_stop_nothing_of_the_group_survives_the_wrapper() {
    let main = "spawn BACKGROUND; on SIGINT exit 1; ready @/ready; wait";
    let backgrounds = [
        "guard @/terraform.tfstate; ready @/background; wait",
        "guard @/terraform.tfstate; ignore SIGINT; ready @/background; wait",
    ];
    for background in backgrounds {
        let mut running = Scene::new(main).background(background).start().ready();
        let background = running.scene.pid_in("background");
        running.signal(Signal::SIGTERM);
        assert_eq!(running.code(), Some(1));
        assert!(is_gone(background), "it outlived the wrapper");
    }
}

#[test]
fn after_a_kill_from_outside_nothing_of_the_group_survives() {
    let main = "spawn BACKGROUND; ready @/ready; wait";
    let mut running = Scene::new(main).background("ready @/background; wait").start().ready();
    let background = running.scene.pid_in("background");
    kill(running.scene.pid_in("ready"), Signal::SIGKILL).expect("the child is there");
    assert_eq!(running.code(), Some(137));
    assert!(is_gone(background));
}

#[test]
fn an_ignored_hangup_stays_ignored() {
    let scene = Scene::new(LOGS_ALL.replace("on SIGHUP log; ", "").as_str());
    let mut running = scene.through(&["env", "--ignore-signal=HUP"]).start().ready();
    running.signal_group(Signal::SIGHUP);
    settle(&running);
    assert_eq!(running.scene.count("SIGINT"), 0);
    running.signal(Signal::SIGINT);
    running.scene.wait_for_log("SIGINT 1");
    running.signal(Signal::SIGUSR1);
    assert_eq!(running.code(), Some(5));
}

/// Nor has anybody had a stop with it: who is asked to end later is asked once.
#[test]
fn a_hangup_that_terraform_ignores_is_no_stop_that_it_had() {
    let deaf = LOGS_ALL.replace("on SIGHUP log; ", "");
    let (ignoring, fake) = (["env", "--ignore-signal=HUP"], fake_terraform());
    let blocking = ["env", "--block-signal=HUP"];
    let fake = fake.display().to_string();
    let all = || Scene::new(&deaf).through(&ignoring);
    let below = Scene::new(&deaf).command(&["run", "--", ignoring[0], ignoring[1], &fake]);
    for (shape, scene, next) in [
        ("all ignore it, SIGTERM", all(), Signal::SIGTERM),
        ("all ignore it, SIGKILL", all(), Signal::SIGKILL),
        ("all block it, SIGTERM", Scene::new(&deaf).through(&blocking), Signal::SIGTERM),
        ("Terraform ignores it", below, Signal::SIGTERM),
    ] {
        let mut running = scene.start().ready();
        let child = running.scene.pid_in("ready");
        killpg(child, Signal::SIGHUP).expect("it is there");
        if shape.starts_with("all") {
            running.signal_group(Signal::SIGHUP);
        }
        pause(Duration::from_millis(500));
        assert_eq!(running.scene.count("SIGINT"), 0, "{shape}");
        running.signal(next);
        running.scene.wait_for_log("SIGINT 1");
        pause(Duration::from_millis(500));
        assert_eq!(running.scene.count("SIGINT"), 1, "{shape}");
        kill(child, Signal::SIGUSR1).expect("it is there");
        running.bare_code();
        let mut next = harness::tfwrap(&running.scene.path("."));
        harness::run(next.args(["--lock-timeout=30s", "run", "--", "true"])).expect_code(0);
        running.scene.expect_takeable();
    }
}

/// The lines of `/proc/self/status` about signals, as a child finds them.
fn signals_of(through: &[&str], words: &[String]) -> Vec<String> {
    let all: Vec<_> = through.iter().map(|&word| word.to_owned()).chain(words.to_vec()).collect();
    let output = Command::new(&all[0]).args(&all[1..]).output().expect("it runs");
    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    let lines: Vec<_> = stdout.lines().filter(|line| line.starts_with("Sig")).collect();
    assert!(!lines.is_empty(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    let lines = lines.into_iter().filter(|line| !line.starts_with("SigQ"));
    lines.map(without_the_c_librarys).collect()
}

/// 32 and 33 are the C library's own: its threads handle them, and nobody may set them.
fn without_the_c_librarys(line: &str) -> String {
    let (name, bits) = line.split_once(":\t").expect("a name and its bits");
    let bits = u64::from_str_radix(bits, 16).expect("a number") & !(0b11 << 31);
    format!("{name} {bits:x}")
}

#[test]
fn the_child_finds_signals_as_if_started_in_our_place() {
    let inherited: [&[&str]; 4] = [
        &["env"],
        &["env", "--default-signal", "--block-signal=USR2,CHLD,TERM"],
        &["env", "--ignore-signal=PIPE,HUP,INT,QUIT,CHLD,TTOU,WINCH"],
        &["nohup"],
    ];
    let program = "exec cat /proc/self/status";
    for through in inherited {
        let scene = Scene::of_shell(program);
        let bare = signals_of(through, &[scene.path("terraform").display().to_string()]);
        assert_eq!(signals_of(through, &scene.words()), bare, "a child under {through:?}");
        let handed_over = Scene::of_shell(program).command(&["version"]);
        assert_eq!(signals_of(through, &handed_over.words()), bare, "exec under {through:?}");
    }
}

#[test]
fn a_program_that_is_not_there_is_127() {
    for program in ["/nowhere/terraform", "terraform-that-is-nowhere"] {
        let mut running = Scene::of_program(program).start();
        assert_eq!(running.code(), Some(127));
        assert!(running.stderr().contains(program), "{}", running.stderr());
    }
}

#[test]
fn a_program_that_cannot_be_run_is_126() {
    let directory = tempfile::tempdir().expect("a directory");
    let plain = directory.path().join("plain");
    fs::write(&plain, "exit 0").expect("a file");
    let no_interpreter = directory.path().join("no-interpreter");
    fs::write(&no_interpreter, "#!/nowhere/sh\n").expect("a file");
    fs::set_permissions(&no_interpreter, fs::Permissions::from_mode(0o755)).expect("a mode");
    for program in [plain.as_path(), &no_interpreter, directory.path(), &plain.join("below")] {
        let mut running = Scene::of_program(program).start();
        assert_eq!(running.code(), Some(126), "{}", running.stderr());
        assert!(running.stderr().contains(&program.display().to_string()));
    }
}

#[test]
fn streams_reach_the_child_untouched() {
    let bytes = [0, 159, 146, 150, b'\n', 255];
    let scene = Scene::of_shell("cat; echo err >&2; exit 4");
    fs::write(scene.path("stdin"), bytes).expect("a file");
    let stdin = fs::File::open(scene.path("stdin")).expect("a file");
    let mut running = scene.start_with(|command| command.stdin(stdin));
    assert_eq!(running.code(), Some(4));
    assert_eq!(fs::read(running.scene.path("stdout")).expect("its stdout"), bytes);
    assert!(running.stderr().contains("err\n"));
}

#[test]
fn a_stream_that_was_closed_is_nothing_else() {
    let look =
        "links=$(for fd in 0 1 2; do readlink /proc/$$/fd/$fd; done); echo \"$links\" > \"$OUT\"";
    let scene = Scene::of_shell(look).env("OUT", "@/out");
    let out = scene.path("out");
    let words = scene.shell_words();
    let status = Command::new("/bin/sh")
        .args(["-c", &format!("exec {words} <&- >&- 2>&-")])
        .status()
        .expect("sh runs");
    assert!(status.success());
    scene.expect_free();
    let found = fs::read_to_string(out).expect("what it found");
    assert_eq!(found, "/dev/null\n".repeat(3));
}

#[test]
fn a_child_whose_reader_is_gone_dies_as_it_would_alone() {
    let scene = Scene::of_shell("while :; do echo line; done");
    let words = scene.words();
    let mut child = Command::new(&words[0])
        .args(&words[1..])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the wrapper starts");
    drop(child.stdout.take());
    let status = wait_until("its end", || child.try_wait().expect("it can be waited for"));
    assert_eq!(status.code(), Some(128 + Signal::SIGPIPE as i32));
    scene.expect_free();
}

#[test]
fn without_a_shell_a_suspension_stops_the_child_alone() {
    let mut running = Scene::new(LOGS_ALL).start().ready();
    let child = running.scene.pid_in("ready");
    let stands = || wait_until("a stopped child", || (state(child) == Some('T')).then_some(()));
    for continued_before in [false, true, true, false, true, true] {
        // Both are heard together, and the last counts.
        if continued_before {
            running.signal(Signal::SIGCONT);
        }
        running.signal(Signal::SIGTSTP);
        stands();
        assert_ne!(state(running.pid()), Some('T'), "it could not hear a stop");
        running.signal(Signal::SIGCONT);
        wait_until("a running child", || (state(child) == Some('S')).then_some(()));
    }
    running.signal(Signal::SIGTSTP);
    stands();
    running.signal(Signal::SIGINT);
    running.scene.wait_for_log("SIGINT 1");
    running.signal(Signal::SIGUSR1);
    assert_eq!(running.code(), Some(5));
}

/// Terraform waits for a process that it just starts, and stands still for nobody to see if that does.
#[test]
fn a_stop_continues_whoever_stands_still_in_the_childs_group() {
    let scene = Scene::new(&format!("spawn BACKGROUND; {LOGS_ALL}"));
    let mut running = scene.background("ready @/background; sleep 50000; exit 0").start().ready();
    let beside = running.scene.pid_in("background");
    kill(beside, Signal::SIGSTOP).expect("it is there");
    wait_until("its stop", || (state(beside) == Some('T')).then_some(()));
    running.signal(Signal::SIGTERM);
    wait_until("its end, or that it goes on", || (state(beside) != Some('T')).then_some(()));
    running.signal(Signal::SIGUSR1);
    assert_eq!(running.code(), Some(5));
}

#[test]
fn a_suspension_below_a_suspended_wrapper_ends_with_it() {
    for _ in 0..5 {
        let inner = Scene::new(LOGS_ALL);
        let mut running = Scene::of_shell(&format!("exec {}", inner.shell_words())).start();
        let child = inner.pid_in("ready");
        for _ in 0..20 {
            running.signal(Signal::SIGTSTP);
            running.signal(Signal::SIGCONT);
        }
        // One that stood still would not hear of it.
        kill(child, Signal::SIGUSR1).expect("the child is there");
        assert_eq!(running.code(), Some(5));
    }
}

#[test]
fn nested_wrappers_pass_one_interrupt_to_the_innermost() {
    let inner = Scene::new(LOGS_ALL).in_ci();
    let outer = Scene::of_shell(&format!("exec {}", inner.shell_words())).in_ci();
    let mut running = outer.start();
    let child = inner.pid_in("ready");
    running.signal_group(Signal::SIGTERM);
    inner.wait_for_log("SIGINT 1");
    running.signal_group(Signal::SIGINT);
    kill(child, Signal::SIGUSR1).expect("the child is there");
    assert_eq!(running.code(), Some(5));
    inner.expect_free();
    assert_eq!((inner.count("SIGINT"), inner.count("SIGTERM")), (1, 0), "{:?}", inner.log());
}

#[test]
fn as_pid_1_it_reaps_what_others_leave_and_passes_signals() {
    // The background process of the background process has nobody but PID 1.
    let script = "spawn BACKGROUND; log @/log; on SIGINT exit 6; ready @/ready; wait";
    let scene = Scene::new(script).background("ready @/background; sleep 50; exit 0");
    let namespace = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"];
    let probe = Command::new(namespace[0]).args(&namespace[1..]).arg("true").output();
    let probe = probe.expect("unshare(1) is there");
    assert!(
        probe.status.success(),
        "this test needs user and PID namespaces, which the kernel refuses here: {}",
        String::from_utf8_lossy(&probe.stderr)
    );
    let mut running = scene.through(&namespace).start().ready();
    running.scene.wait_for("background");
    let first = wait_until("PID 1", || only_child(running.pid()));
    assert_eq!(fs::read_link(format!("/proc/{first}/exe")).expect("its program"), wrapper());
    kill(first, Signal::SIGTERM).expect("PID 1 is there");
    assert_eq!(running.code(), Some(6), "{}", running.stderr());
    assert_eq!(running.scene.count("SIGINT"), 1);
}

#[test]
fn adopted_processes_are_reaped_while_the_child_runs() {
    // The inner shell ends at once; what it leaves, in a session of its own, becomes ours.
    let scene = Scene::of_shell(
        "(setsid sh -c 'echo \"ready $$\" > \"$HERE/orphan\"; exec sleep 0.1' &)
         exec \"$FAKE\"",
    );
    let scene = scene
        .env("HERE", "@")
        .env("FAKE", &fake_terraform().display().to_string())
        .env("FAKE_TERRAFORM_SCRIPT", "on SIGINT exit 0; ready @/ready; wait");
    let mut running = scene.start().ready();
    let orphan = wait_until("the orphan", || {
        let orphan = fs::read_to_string(running.scene.path("orphan")).ok()?;
        orphan.trim().strip_prefix("ready ")?.parse().ok().map(Pid::from_raw)
    });
    wait_until("its reaping", || state(orphan).is_none().then_some(()));
    running.signal(Signal::SIGINT);
    assert_eq!(running.code(), Some(0));
}

#[test]
fn a_run_around_a_wrapper_of_the_same_state_passes_one_interrupt_and_keeps_one_lock() {
    // The inner one is `terraform` on the PATH of `run`: the same lock, not taken twice.
    let scene =
        Scene::new(LOGS_ALL).in_ci().command(&["run", "--", "sh", "-c", "terraform apply; exit 9"]);
    let mut running = scene.start().ready();
    let (first, second) = (running.scene.pid_in("ready"), Signal::SIGTERM);
    running.signal_group(Signal::SIGINT);
    running.scene.wait_for_log("SIGINT 1");
    running.signal_group(second);
    kill(first, Signal::SIGUSR1).expect("the child is there");
    // The shell is told when its Terraform has ended, and may be quicker.
    let code = running.code();
    assert!(matches!(code, Some(130 | 9)), "{code:?}: {}", running.stderr());
    let stops: Vec<_> =
        ["SIGINT", "SIGTERM", "SIGHUP"].map(|name| running.scene.count(name)).into();
    assert_eq!(stops, [1, 0, 0], "{:?}", running.scene.log());
}

const STOPS: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

fn send_to(waiting: &harness::Running, shape: Shape, signal: Signal) {
    match shape {
        Shape::OneProcess => waiting.signal(signal),
        Shape::Group => killpg(waiting.pid(), signal).expect("its group is there"),
    }
}

/// Whoever waits beside the holder is stopped by each signal in each shape.
fn stops_while_waiting(mut rival: impl FnMut() -> Command) {
    for shape in [Shape::OneProcess, Shape::Group] {
        for signal in STOPS {
            let waiting = harness::Running::start(&mut rival());
            waiting.says("waiting");
            send_to(&waiting, shape, signal);
            let waiting = waiting.finish().expect_code(128 + signal as i32);
            let said = &waiting.stderr;
            assert!(said.contains("nothing is left behind"), "{signal} {shape:?}: {said}");
        }
    }
}

#[test]
fn every_stop_ends_the_wait_for_another_tfwrap() {
    let mut running = Scene::new(LOGS_ALL).start().ready();
    let info = running.scene.path(".terraform.tfstate.lock.info");
    let before = fs::read(&info).expect("the holder's info");
    stops_while_waiting(|| running.scene.rival());
    assert_eq!(fs::read(&info).expect("the holder's info"), before);
    assert!(running.scene.log().is_empty(), "the holder's child heard of it");
    running.signal(Signal::SIGUSR1);
    assert_eq!(running.code(), Some(5));
}

#[test]
fn every_stop_ends_the_wait_for_stock_terraform() {
    let dir = local_backend_dir();
    let theirs = Gate::new(dir.path(), "theirs");
    let stock = harness::Running::start(&mut applying(terraform(dir.path()), &theirs.command()));
    theirs.reached();
    stops_while_waiting(|| {
        let mut rival = harness::tfwrap(dir.path());
        rival.args(["apply", "-auto-approve"]).process_group(0);
        rival
    });
    theirs.open();
    stock.finish().expect_code(0);
    harness::run(harness::tfwrap(dir.path()).args(["--lock-timeout=0s", "plan"])).expect_code(0);
}

/// A child that has ended under a lock whose give-back is held up.
async fn releasing(table: &str, key: &str, script: &str) -> (Scene, Proxy) {
    let proxy = Proxy::before(&dynamodb().url);
    proxy.plan([Rule::on("DeleteItem", Fault::Hold).times(1)]);
    let lock = format!("dynamodb://{table}/{key}?region={REGION}&endpoint={}", proxy.url());
    let scene = Scene::unguarded(script).options(&["--no-backend-lock", "--lock", &lock]);
    assert_eq!(dynamodb().get_raw(table, key).await, None);
    (scene, proxy)
}

#[tokio::test]
async fn no_stop_ends_the_release() {
    let table = "releasing";
    dynamodb().create_lock_table(table).await;
    for shape in [Shape::OneProcess, Shape::Group] {
        for signal in STOPS {
            let key = format!("{signal}-{shape:?}");
            let (scene, proxy) = releasing(table, &key, "exit 5").await;
            let mut running = scene.start();
            proxy.arrived("DeleteItem", 1).await;
            // More than one changes nothing either.
            for _ in 0..2 {
                send(&running, shape, signal);
                wait_until("word of it", || {
                    running.stderr().contains("is released first").then_some(())
                });
            }
            assert!(running.is_running(), "{key}");
            assert!(dynamodb().get_raw(table, &key).await.is_some(), "{key}");
            proxy.release();
            assert_eq!(running.code(), Some(5), "{key}: {}", running.stderr());
            assert_eq!(dynamodb().get_raw(table, &key).await, None, "{key}");
        }
    }
}

/// GitHub's cancellation, ten times as fast: INT, TERM 7.5 s later, KILL 2.5 s after that, all to
/// the entry process alone.
#[tokio::test]
async fn githubs_sequence_is_one_interrupt_whenever_the_child_ends() {
    let table = "githubs-sequence";
    dynamodb().create_lock_table(table).await;
    // In milliseconds after the interrupt, which may wait 150 ms for word from the guardian: at
    // once, before TERM, before KILL, and later.
    for (ends_after, code) in [(0, Some(4)), (300, Some(4)), (650, Some(4)), (1_800, None)] {
        let key = ends_after.to_string();
        let url = format!("dynamodb://{table}/{key}?region={REGION}&endpoint={}", dynamodb().url);
        let script = format!(
            "log @/log; on SIGINT exit 4 after {ends_after}; on SIGTERM log; ready @/ready; wait"
        );
        let scene = Scene::unguarded(&script).in_ci();
        let mut running = scene.options(&["--no-backend-lock", "--lock", &url]).start().ready();
        let child = running.scene.pid_in("ready");
        running.signal(Signal::SIGINT);
        pause(Duration::from_millis(750));
        let mut was_killed = false;
        for (signal, then) in [(Signal::SIGTERM, 250), (Signal::SIGKILL, 0)] {
            if !running.is_running() {
                break;
            }
            running.signal(signal);
            was_killed = signal == Signal::SIGKILL;
            pause(Duration::from_millis(then));
        }
        // On a busy machine a quick one may be as slow as the last.
        let code = code.filter(|_| !was_killed);
        assert_eq!(running.bare_code(), code, "{ends_after}: {}", running.stderr());
        // Killed, it leaves the lock for as long as the child lives, and to its guardian.
        while !is_gone(child) {
            let held = dynamodb().get_raw(table, &key).await.is_some();
            assert!(held || is_gone(child), "{ends_after}: free under a living child");
            pause(Duration::from_millis(20));
        }
        let stops: Vec<_> = ["SIGINT", "SIGTERM"].map(|name| running.scene.count(name)).into();
        assert_eq!(stops, [1, 0], "{ends_after}: {:?}", running.scene.log());
        // Then its guardian gives it back.
        for _ in 0..1500 {
            if dynamodb().get_raw(table, &key).await.is_none() {
                break;
            }
            pause(Duration::from_millis(20));
        }
        assert_eq!(dynamodb().get_raw(table, &key).await, None, "{ends_after}");
    }
}

/// The same on the lock of the state, with the settings that change what it means.
#[test]
fn outside_ci_and_with_a_grace_githubs_sequence_is_harder() {
    let mut forwarding = Scene::new(LOGS_ALL).start().ready();
    forwarding.signal(Signal::SIGINT);
    forwarding.scene.wait_for_log("SIGINT 1");
    // At once it would be the same stop.
    pause(ECHO);
    forwarding.signal(Signal::SIGTERM);
    forwarding.scene.wait_for_log("SIGINT 2");
    forwarding.signal(Signal::SIGUSR1);
    assert_eq!(forwarding.code(), Some(5));
    assert_eq!((forwarding.scene.count("SIGINT"), forwarding.scene.count("SIGTERM")), (2, 0));

    let script = "log @/log; on SIGINT log; on SIGTERM log; ready @/ready; wait";
    let mut killing = Scene::new(script).in_ci().options(&["--grace", "900ms"]).start().ready();
    let since = uptime();
    killing.signal(Signal::SIGINT);
    killing.scene.wait_for_log("SIGINT 1");
    pause(Duration::from_millis(750));
    killing.signal(Signal::SIGTERM);
    let child = killing.scene.pid_in("ready");
    wait_until("its end", || is_gone(child).then_some(()));
    let took = uptime().since(since);
    // Counted from the first signal, not from the second.
    assert!(took >= Duration::from_millis(900) && took < Duration::from_millis(1650), "{took:?}");
    assert_eq!(killing.code(), Some(137));
    assert_eq!((killing.scene.count("SIGINT"), killing.scene.count("SIGTERM")), (1, 0));
}

#[test]
fn a_quit_to_the_group_reaches_the_child_once() {
    let script = "log @/log; on SIGINT log; on SIGQUIT exit 2; ready @/ready; wait";
    let mut running = Scene::new(script).start().ready();
    running.signal_group(Signal::SIGQUIT);
    assert_eq!(running.code(), Some(2));
    assert_eq!((running.scene.count("SIGQUIT"), running.scene.count("SIGINT")), (1, 0));
}
