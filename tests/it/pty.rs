//! The wrapper on a terminal, under a real interactive shell.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid};
use rexpect::session::{PtySession, spawn_command};

use crate::support::harness::pause;
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::servers::{REGION, dynamodb, heed_signals};
use crate::wrapped::{
    LOGS_ALL, Scene, born, is_gone, only_child, state, wait_for_end, wait_until, wrapper,
};

const PATIENCE_MS: u64 = 30_000;
const PROMPT: &str = "@PROMPT@";

/// An interactive shell on a terminal of its own.
pub(crate) struct Shell {
    terminal: PtySession,
    pid: Pid,
}

impl Shell {
    pub(crate) fn start() -> Self {
        heed_signals();
        let mut bash = Command::new("bash");
        bash.args(["--norc", "--noprofile", "-i"]);
        // In two parts, so that the echo of a command can never look like the prompt.
        bash.env("PS1", PROMPT).env("TERM", "dumb").env("LESS", "").env_remove("PROMPT_COMMAND");
        let terminal = spawn_command(bash, Some(PATIENCE_MS)).expect("bash starts");
        let mut shell = Self { terminal, pid: Pid::from_raw(0) };
        shell.prompt();
        shell.send("echo pid=$$=");
        shell.sees("pid=");
        shell.pid = Pid::from_raw(shell.sees("=").parse().expect("a number"));
        shell.prompt();
        // bash keeps the line mode off while it edits a line; without editing, what the terminal
        // is set to is what the last command left.
        shell.run("set +o emacs; bind 'set enable-bracketed-paste off' 2>/dev/null");
        shell
    }

    pub(crate) fn send(&mut self, line: &str) {
        self.terminal.send_line(line).expect("the terminal takes it");
    }

    pub(crate) fn key(&mut self, key: char) {
        self.terminal.send_control(key).expect("the terminal takes it");
    }

    #[track_caller]
    pub(crate) fn sees(&mut self, text: &str) -> String {
        self.terminal
            .exp_string(text)
            .unwrap_or_else(|error| panic!("waiting for `{text}`: {error}"))
    }

    /// Waits for the prompt; returns what came before it.
    #[track_caller]
    pub(crate) fn prompt(&mut self) -> String {
        self.sees(PROMPT)
    }

    /// Runs a command to its end; returns what it printed. (rexpect's terminals do not echo.)
    #[track_caller]
    fn run(&mut self, line: &str) -> String {
        self.send(line);
        self.prompt()
    }

    /// Its process.
    fn pid(&self) -> Pid {
        self.pid
    }

    /// As when its window is closed: it tells its jobs and ends.
    fn hang_up(&mut self) {
        kill(self.pid, Signal::SIGHUP).expect("bash is there");
    }

    /// The exit code of the last command.
    #[track_caller]
    pub(crate) fn code(&mut self) -> i32 {
        self.send("echo code=$?=");
        self.sees("code=");
        let code = self.sees("=").parse().expect("a number");
        self.prompt();
        code
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // An interactive bash ignores SIGTERM. With its terminal, its jobs hang up.
        let _gone_meanwhile = self.terminal.process_mut().kill(Signal::SIGKILL);
    }
}

/// A value that `describe` printed.
#[track_caller]
fn field(output: &str, name: &str) -> String {
    let start = output.find(&format!(" {name}=")).unwrap_or_else(|| panic!("{name} in {output}"));
    let value = &output[start + name.len() + 2..];
    value.split_whitespace().next().expect("a value").to_owned()
}

fn pid(output: &str) -> String {
    let start = output.find("pid=").unwrap_or_else(|| panic!("pid in {output}"));
    output[start + 4..].split_whitespace().next().expect("a value").to_owned()
}

#[test]
fn alone_in_the_foreground_the_childs_group_gets_the_terminal() {
    let scene = Scene::new("describe; exit 7");
    let mut shell = Shell::start();
    let output = shell.run(&scene.shell_words());
    assert_eq!(field(&output, "pgid"), pid(&output), "{output}");
    assert_eq!(field(&output, "foreground"), pid(&output), "{output}");
    assert_eq!(shell.code(), 7);
    assert_eq!(shell.run("echo back").trim(), "back", "the shell has it again");
    scene.expect_free();
}

#[test]
fn in_a_pipeline_the_others_keep_the_terminal_until_the_child_reads_it() {
    for pipeline in ["{} | cat", "yes | {}", "{} | tee /dev/null", "({}) | cat"] {
        let scene = Scene::new("describe; exit 7");
        let mut shell = Shell::start();
        let output = shell.run(&pipeline.replace("{}", &scene.shell_words()));
        assert_eq!(field(&output, "pgid"), pid(&output), "{pipeline}: {output}");
        assert_ne!(field(&output, "foreground"), pid(&output), "{pipeline}: {output}");
        scene.expect_free();
    }
    let scene = Scene::new("describe; read; describe");
    let mut shell = Shell::start();
    shell.send(&format!("{} | cat", scene.shell_words()));
    let before = shell.sees("args=apply");
    assert_ne!(field(&before, "foreground"), pid(&before), "{before}");
    shell.send("some answer");
    let output = shell.prompt();
    assert!(output.contains("read: some answer"), "{output}");
    assert_eq!(field(&output, "foreground"), pid(&output), "{output}");
    assert_eq!(shell.run("echo back").trim(), "back", "the shell has it again");
    scene.expect_free();
}

#[test]
fn less_keeps_the_keyboard() {
    let scene = Scene::new("print first-line; print last-line");
    let mut shell = Shell::start();
    shell.send(&format!("{} | less -d", scene.shell_words()));
    shell.sees("last-line\r\n");
    shell.terminal.send("q").and_then(|_| shell.terminal.flush()).expect("the terminal takes it");
    shell.prompt();
    assert_eq!(shell.run("echo back").trim(), "back");
    scene.expect_free();
}

#[test]
fn under_a_script_the_script_keeps_the_terminal() {
    let scene = Scene::new("describe");
    let script = scene.path("script.sh");
    fs::write(&script, format!("{}\ntrue\n", scene.shell_words())).expect("a script");
    let mut shell = Shell::start();
    let output = shell.run(&format!("bash {}", script.display()));
    assert_eq!(field(&output, "pgid"), pid(&output), "{output}");
    assert_ne!(field(&output, "foreground"), pid(&output), "{output}");
    scene.expect_free();
}

#[test]
fn in_the_background_the_terminal_is_never_taken() {
    let scene = Scene::new("describe; ready @/ready");
    let mut shell = Shell::start();
    shell.run(&format!("{} > {} &", scene.shell_words(), scene.path("out").display()));
    scene.wait_for("ready");
    let output = scene.wait_for("out");
    assert_eq!(field(&output, "pgid"), pid(&output), "{output}");
    assert_ne!(field(&output, "foreground"), pid(&output), "{output}");
    shell.run("wait");
    scene.expect_free();
}

#[test]
fn in_ci_the_terminal_stays_until_the_child_reads_it() {
    let scene = Scene::new("describe; read; describe").in_ci();
    let mut shell = Shell::start();
    shell.send(&scene.shell_words());
    shell.sees("args=apply");
    shell.send("some answer");
    let output = shell.prompt();
    assert!(output.contains("read: some answer"), "{output}");
    assert_eq!(field(&output, "foreground"), pid(&output), "{output}");
    scene.expect_free();
}

#[test]
fn in_ci_a_child_below_a_run_gets_the_terminal_when_it_reads_it() {
    let scene = Scene::new("ready @/ready; read; describe; exit 7").in_ci();
    let scene = scene.command(&["run", "--", "sh", "-c", "terraform apply; echo code=$?"]);
    let mut shell = Shell::start();
    shell.send(&scene.shell_words());
    let child = scene.pid_in("ready");
    shell.send("some answer");
    let output = shell.prompt();
    assert!(output.contains("read: some answer") && output.contains("code=7"), "{output}");
    assert_eq!(field(&output, "foreground"), child.to_string(), "{output}");
    assert_eq!(shell.run("echo back").trim(), "back", "the shell has it again");
    // In the background the terminal stays whose it is.
    let scene = Scene::new(&LOGS_ALL.replace("wait", "read; exit 7")).in_ci();
    let scene = scene.command(&["run", "--", "sh", "-c", "terraform apply; true"]);
    shell.run(&format!("{} &", scene.shell_words()));
    let child = scene.pid_in("ready");
    wait_until("its stop", || (state(child) == Some('T')).then_some(()));
    let said = shell.run("echo mine");
    assert!(said.trim().ends_with("mine"), "the shell keeps the keyboard: {said}");
    kill(wrapper_of(child), Signal::SIGTERM).expect("the wrapper is there");
    scene.wait_for_log("SIGINT 1");
    kill(child, Signal::SIGUSR1).expect("the child is there");
    shell.run("wait");
    scene.expect_free();
}

/// A job in the background whose child stands still, since it reads the terminal.
fn stopped_in_the_background(setting: fn(Scene) -> Scene) -> (Scene, Shell, Pid) {
    let scene = setting(Scene::new("ready @/ready; read; exit 4"));
    let mut shell = Shell::start();
    shell.run(&format!("{} &", scene.shell_words()));
    let child = scene.pid_in("ready");
    wait_until("a stopped child", || (state(child) == Some('T')).then_some(()));
    (scene, shell, child)
}

#[track_caller]
fn reads_on_in_the_foreground(scene: &Scene, shell: &mut Shell, child: Pid) {
    shell.send("fg");
    wait_until("a running child", || (state(child) == Some('S')).then_some(()));
    shell.send("late answer");
    let output = shell.prompt();
    assert!(output.contains("read: late answer"), "{output}");
    assert_eq!(shell.code(), 4);
    scene.expect_free();
}

/// The shell takes such a job for one that runs, and tells it nothing when it brings it to the foreground.
#[test]
fn in_ci_a_background_job_that_reads_goes_on_in_the_foreground() {
    let (scene, mut shell, child) = stopped_in_the_background(Scene::in_ci);
    reads_on_in_the_foreground(&scene, &mut shell, child);
}

/// Below a script that has no jobs, as `ssh -t host ./deploy` starts one: no shell would let a job go
/// on that asks for the terminal, and the outer tfwrap does not have it for itself alone.
#[test]
fn below_a_run_of_the_first_program_of_a_terminal_a_child_gets_it_when_it_reads_it() {
    heed_signals();
    let tfwrap = wrapper().display().to_string();
    let below: [&[&str]; 3] = [
        &["terraform", "apply"],
        &["sh", "-c", "terraform apply; exit $?"],
        &[&tfwrap, "run", "--", "terraform", "apply"],
    ];
    for words in below {
        let scene = Scene::new("ready @/ready; read; describe; exit 7");
        let scene = scene.command(&[&["run", "--"], words].concat());
        let script =
            format!("{}; echo code=$?=; read -r word; echo got=$word=", scene.shell_words());
        let mut first = Command::new("sh");
        first.args(["-c", &script]);
        let mut terminal = spawn_command(first, Some(PATIENCE_MS)).expect("sh starts");
        let child = scene.pid_in("ready");
        terminal.send_line("some answer").expect("the terminal takes it");
        let output = terminal.exp_string("code=7=").expect("the answer is read");
        assert!(output.contains("read: some answer"), "{output}");
        assert_eq!(field(&output, "foreground"), child.to_string(), "{output}");
        terminal.send_line("back").expect("the terminal takes it");
        terminal.exp_string("got=back=").expect("the script has it again");
        scene.expect_free();
    }
    // A key goes to whoever has it.
    let scene = Scene::new(&LOGS_ALL.replace("wait", "read; exit 7"));
    let scene = scene.command(&["run", "--", "terraform", "apply"]);
    let mut first = Command::new("sh");
    first.args(["-c", &format!("{}; true", scene.shell_words())]);
    let mut terminal = spawn_command(first, Some(PATIENCE_MS)).expect("sh starts");
    let child = scene.pid_in("ready");
    wait_until("its loan", || (foreground(child) == Some(child)).then_some(()));
    terminal.send_control('c').expect("the terminal takes it");
    scene.wait_for_log("SIGINT 1");
    terminal.send_line("some answer").expect("the terminal takes it");
    terminal.exp_eof().expect("its end");
    assert_eq!(scene.count("SIGINT"), 1, "{:?}", scene.log());
    scene.expect_free();
}

/// Nobody types `fg` there, also where a shell would know it: what stood still would do so for ever,
/// and with the lock.
#[test]
fn in_ci_ctrl_z_stops_nobody_and_ctrl_c_is_heard() {
    for shape in ["{}", "{} | cat"] {
        let scene = Scene::new(LOGS_ALL).in_ci();
        let mut shell = Shell::start();
        shell.send(&shape.replace("{}", &scene.shell_words()));
        let child = scene.pid_in("ready");
        shell.key('z');
        goes_on(child);
        shell.key('c');
        scene.wait_for_log("SIGINT 1");
        kill(child, Signal::SIGUSR1).expect("the child is there");
        shell.prompt();
        scene.expect_free();
    }
}

/// It was stopped, or was to be, and goes on.
fn goes_on(child: Pid) {
    for _ in 0..10 {
        wait_until("that it goes on", || (state(child) != Some('T')).then_some(()));
        pause(Duration::from_millis(50));
    }
}

/// There its keys go to the child's group alone.
#[test]
fn in_ci_a_child_that_has_the_terminal_hears_ctrl_c_after_a_ctrl_z() {
    for words in [&["apply"][..], &["run", "--", "sh", "-c", "true; terraform apply"]] {
        let scene = Scene::new("log @/log; on SIGINT exit 4; ready @/ready; read; wait").in_ci();
        let scene = scene.command(words);
        let mut shell = Shell::start();
        shell.send(&scene.shell_words());
        let child = scene.pid_in("ready");
        shell.send("some answer");
        wait_until("the terminal", || (foreground(child)? != wrapper_of(child)).then_some(()));
        for key in ['z', 'c'] {
            shell.key(key);
            if key == 'z' {
                goes_on(child);
            }
        }
        shell.prompt();
        assert_eq!((shell.code(), scene.log().len()), (4, 1), "{words:?}: {:?}", scene.log());
        scene.expect_free();
    }
}

/// The keys go to the child's group alone, and whoever heeds them not is left in it.
#[test]
fn after_ctrl_c_nothing_of_the_group_survives_the_wrapper() {
    let main = "spawn BACKGROUND; on SIGINT exit 1; ready @/ready; wait";
    let background = "guard @/terraform.tfstate; ignore SIGINT; ready @/background; wait";
    for in_ci in [false, true] {
        let scene = Scene::new(main).background(background);
        let scene = if in_ci { scene.in_ci() } else { scene };
        let mut shell = Shell::start();
        shell.send(&scene.shell_words());
        scene.pid_in("ready");
        let background = scene.pid_in("background");
        shell.key('c');
        shell.prompt();
        assert_eq!(shell.code(), 1);
        assert!(is_gone(background), "it outlived the wrapper");
        scene.expect_free();
    }
}

#[test]
fn ctrl_c_is_one_interrupt_for_the_child() {
    // Alone, in a pipeline, in a script, and in CI, where it comes through the wrapper.
    for (shape, in_ci) in
        [("{}", false), ("{} | cat", false), ("bash -c '{}; true'", false), ("{}", true)]
    {
        let scene = Scene::new(LOGS_ALL);
        let scene = if in_ci { scene.in_ci() } else { scene };
        let mut shell = Shell::start();
        let words = scene.path("words.sh");
        fs::write(&words, scene.shell_words()).expect("a script");
        shell.send(&shape.replace("{}", &format!(". {}", words.display())));
        let child = scene.pid_in("ready");
        shell.key('c');
        scene.wait_for_log("SIGINT 1");
        kill(wrapper_of(child), Signal::SIGWINCH).expect("the wrapper is there");
        scene.wait_for_log("SIGWINCH");
        assert_eq!(scene.count("SIGINT"), 1, "{shape}, in CI {in_ci}: {:?}", scene.log());
        kill(child, Signal::SIGUSR1).expect("the child is there");
        shell.prompt();
        scene.expect_free();
    }
}

/// The wrapper of a child.
fn wrapper_of(child: Pid) -> Pid {
    let parent = parent_of(child);
    assert_eq!(fs::read_link(format!("/proc/{parent}/exe")).expect("its program"), wrapper());
    parent
}

fn parent_of(child: Pid) -> Pid {
    let stat = fs::read_to_string(format!("/proc/{child}/stat")).expect("it is there");
    let parent = stat[stat.rfind(')').expect("its name") + 1..].split_whitespace().nth(1);
    Pid::from_raw(parent.expect("its parent").parse().expect("a number"))
}

#[test]
fn a_signal_to_the_wrapper_in_a_pipeline_reaches_the_child_and_nobody_else() {
    let scene = Scene::new(LOGS_ALL);
    let mut shell = Shell::start();
    shell.send(&format!("{} | cat", scene.shell_words()));
    let child = scene.pid_in("ready");
    kill(wrapper_of(child), Signal::SIGTERM).expect("the wrapper is there");
    scene.wait_for_log("SIGINT 1");
    assert_eq!(scene.count("SIGTERM"), 0);
    let group = getpgid(Some(child)).expect("its group");
    assert_eq!(group, child);
    kill(child, Signal::SIGUSR1).expect("the child is there");
    let output = shell.prompt();
    assert!(!output.contains("Terminated"), "cat lived: {output}");
    scene.expect_free();
}

#[test]
fn ctrl_z_and_fg_suspend_and_resume_the_whole_job() {
    for shape in ["{}", "{} | cat"] {
        let scene = Scene::new(&LOGS_ALL.replace("wait", "read; describe; exit 4"));
        let mut shell = Shell::start();
        shell.send(&shape.replace("{}", &scene.shell_words()));
        let child = scene.pid_in("ready");
        let wrapper = wrapper_of(child);
        // What comes before that is of the two tests below.
        let has_terminal = || foreground(child) == Some(child) && state(child) == Some('S');
        wait_until("its terminal", || has_terminal().then_some(()));
        for _ in 0..3 {
            shell.key('z');
            shell.sees("Stopped");
            shell.prompt();
            assert_eq!((state(child), state(wrapper)), (Some('T'), Some('T')), "{shape}");
            shell.send("fg");
            wait_until("a running child", || (state(child) == Some('S')).then_some(()));
            // The wrapper may still be on its way to continue it, and would undo another stop.
            let before = scene.count("SIGWINCH");
            kill(wrapper, Signal::SIGWINCH).expect("the wrapper is there");
            wait_until("an awake wrapper", || (scene.count("SIGWINCH") > before).then_some(()));
        }
        shell.send("the answer");
        let output = shell.prompt();
        assert!(output.contains("read: the answer"), "{shape}: {output}");
        assert_eq!(field(&output, "foreground"), field(&output, "pgid"), "{shape}: {output}");
        scene.expect_free();
    }
}

/// A key was pressed: the whole job stands still, and reads its answer when it goes on.
#[track_caller]
fn is_suspended_and_answered(shell: &mut Shell, child: Pid, wrapper: Pid) {
    shell.sees("Stopped");
    shell.prompt();
    assert_eq!((state(child), state(wrapper)), (Some('T'), Some('T')));
    shell.send("fg");
    shell.send("the answer");
    let output = shell.prompt();
    assert!(output.contains("read: the answer"), "{output}");
}

/// Without a shell, as with `ssh -t` or `docker run -it`, nobody could resume it.
#[test]
fn where_tfwrap_is_the_first_program_of_its_terminal_ctrl_z_stops_nothing() {
    for is_below_a_run in [false, true] {
        let scene = Scene::new(&LOGS_ALL.replace("on SIGINT log", "on SIGINT log; on SIGCONT log"));
        let words = scene.shell_words();
        let outer = is_below_a_run.then(|| Scene::of_shell(&format!("exec {words}")));
        let mut shell = Shell::start();
        let words = outer.as_ref().map_or(words, Scene::shell_words);
        shell.send(&format!("exec {words}"));
        let child = scene.pid_in("ready");
        for number in 1..5 {
            shell.key('z');
            // Below a `run` it comes to the inner tfwrap, which passes it to nobody.
            if !is_below_a_run {
                scene.wait_for_log(&format!("SIGCONT {number}"));
                wait_until("a running child", || (state(child) != Some('T')).then_some(()));
            }
        }
        shell.key('c');
        scene.wait_for_log("SIGINT 1");
        kill(child, Signal::SIGUSR1).expect("the child is there");
        wait_until("the end of all", || is_gone(shell.pid()).then_some(()));
        assert_eq!(scene.count("SIGINT"), 1, "{:?}", scene.log());
        scene.expect_free();
    }
}

/// Each is a stop of the child, and what continues it for the one must not undo the other.
#[test]
fn ctrl_z_counts_while_the_child_asks_for_the_terminal() {
    let script = "echo ready $$ >@/pid; mv @/pid @/ready
        until [ -e @/go ]; do sleep 0.05; done; read -r line; echo \"read: $line\"";
    let scene = Scene::new("exit 0");
    let script = script.replace('@', &scene.path(".").display().to_string());
    let scene = scene.command(&["run", "--", "bash", "-c", &script]);
    let mut shell = Shell::start();
    shell.send(&format!("{} | cat", scene.shell_words()));
    let child = scene.pid_in("ready");
    let wrapper = wrapper_of(child);
    // Both are there when it looks again: that the child stands still, and the key.
    kill(wrapper, Signal::SIGSTOP).expect("it is there");
    fs::write(scene.path("go"), "").expect("the child waits for it");
    wait_until("a stopped child", || (state(child) == Some('T')).then_some(()));
    kill(wrapper, Signal::SIGCONT).expect("it is there");
    killpg(wrapper, Signal::SIGTSTP).expect("it leads its job");
    is_suspended_and_answered(&mut shell, child, wrapper);
    scene.expect_free();
}

/// Makes tfwrap pause after it has given the terminal away, in which a key goes to the child.
const SLOW_TO_GIVE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>
int tcsetpgrp(int terminal, pid_t group) {
    int (*real)(int, pid_t) = dlsym(RTLD_NEXT, "tcsetpgrp");
    int given = real(terminal, group), error = errno;
    if (!strcmp(program_invocation_short_name, "tfwrap")) usleep(500000);
    errno = error;
    return given;
}
"#;

#[test]
fn ctrl_z_counts_as_soon_as_the_child_has_the_terminal() {
    let scene = Scene::new("ready @/ready; read; exit 4");
    let (source, library) = (scene.path("slow.c"), scene.path("slow.so"));
    fs::write(&source, SLOW_TO_GIVE).expect("a file");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-ldl");
    assert!(compiler.status().expect("a C compiler").success());
    let scene = scene.env("LD_PRELOAD", "@/slow.so");
    let mut shell = Shell::start();
    shell.send(&format!("{} | cat", scene.shell_words()));
    let child = scene.pid_in("ready");
    let wrapper = wrapper_of(child);
    wait_until("the terminal", || (foreground(child)? == child).then_some(()));
    shell.key('z');
    is_suspended_and_answered(&mut shell, child, wrapper);
    scene.expect_free();
}

/// A job that was suspended by Ctrl-Z: its shell, its child and its tfwrap.
fn suspended(scene: &Scene) -> (Shell, Pid, Pid) {
    let mut shell = Shell::start();
    shell.send(&scene.shell_words());
    let child = scene.pid_in("ready");
    let wrapper = wrapper_of(child);
    shell.key('z');
    shell.sees("Stopped");
    shell.prompt();
    (shell, child, wrapper)
}

/// It does not die of the hang-up that the kernel sends to a group that nobody can continue.
#[test]
fn a_suspended_job_whose_tfwrap_is_killed_ends_in_order() {
    let scene = Scene::new("log @/log; on SIGINT exit 0 after 300; ready @/ready; wait");
    let (_shell, child, wrapper) = suspended(&scene);
    assert_eq!((state(child), state(wrapper)), (Some('T'), Some('T')));
    kill(wrapper, Signal::SIGKILL).expect("it is there");
    scene.wait_for_log("SIGINT 1");
    wait_until("the child's end", || is_gone(child).then_some(()));
    assert_eq!(scene.log().len(), 1, "{:?}", scene.log());
    wait_until("a free lock", || {
        let mut next = crate::support::harness::tfwrap(&scene.path("."));
        let next = next.args(["--lock-timeout=0s", "run", "--", "true"]);
        (crate::support::harness::run(next).status.code() == Some(0)).then_some(())
    });
    scene.expect_takeable();
}

#[test]
fn ctrl_z_and_bg_let_the_job_run_on_without_the_terminal() {
    let scene = Scene::new("log @/log; on SIGUSR1 log; on SIGINT exit 4; ready @/ready; wait");
    let (mut shell, child, wrapper) = suspended(&scene);
    shell.run("bg");
    wait_until("a running child", || (state(child) == Some('S')).then_some(()));
    assert_eq!(shell.run("echo mine").trim(), "mine", "the shell keeps the keyboard");
    kill(wrapper, Signal::SIGUSR1).expect("the wrapper is there");
    scene.wait_for_log("SIGUSR1");
    // No SIGCONT tells a job that runs already that it is the foreground now. Its keys reach the
    // wrapper, which passes them on.
    shell.send("fg");
    wait_until("the foreground", || (foreground(child)? == wrapper).then_some(()));
    shell.key('c');
    shell.prompt();
    assert_eq!(shell.code(), 4);
    scene.expect_free();
}

/// The foreground group of the terminal of a process.
pub(crate) fn foreground(process: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Field 8 of proc_pid_stat(5); the first after the name is the third.
    let group = stat[stat.rfind(')')? + 1..].split_whitespace().nth(5)?;
    group.parse().ok().map(Pid::from_raw)
}

#[test]
fn a_background_job_that_reads_stops_and_reads_on_in_the_foreground() {
    let (scene, mut shell, child) = stopped_in_the_background(|scene| scene);
    let wrapper = wrapper_of(child);
    wait_until("a stopped wrapper", || (state(wrapper) == Some('T')).then_some(()));
    // Its other threads may be on their way still, and a shell that has not heard of the stop of its job
    // would not continue it.
    wait_until("a stopped job", || shell.run("jobs").contains("Stopped").then_some(()));
    reads_on_in_the_foreground(&scene, &mut shell, child);
}

#[test]
fn a_child_that_dies_in_raw_mode_leaves_a_usable_terminal() {
    let scene = Scene::new("raw; die 15");
    let script = scene.path("script.sh");
    // In a subshell with job control, which unlike the prompt does not set the terminal itself.
    fs::write(&script, format!("stty echo\n{}\nstty -a\n", scene.shell_words())).expect("a script");
    let mut shell = Shell::start();
    let output = shell.run(&format!("bash -m {}", script.display()));
    assert!(output.contains(" echo ") && output.contains(" icanon "), "{output}");
    scene.expect_free();
}

#[test]
fn the_window_size_reaches_a_child_that_shares_nothing() {
    let scene = Scene::new(LOGS_ALL).in_ci();
    let mut shell = Shell::start();
    shell.send(&scene.shell_words());
    let child = scene.pid_in("ready");
    let wrapper = wrapper_of(child);
    kill(wrapper, Signal::SIGWINCH).expect("the wrapper is there");
    scene.wait_for_log("SIGWINCH 1");
    kill(child, Signal::SIGUSR1).expect("the child is there");
    shell.prompt();
    scene.expect_free();
}

/// A real Terraform and something for it to apply.
fn real_terraform(words: &[&str]) -> Scene {
    applying_with("terraform").command(words)
}

/// The same through another program.
fn applying_with(program: &str) -> Scene {
    let scene = Scene::of_program(program);
    let resource = r#"
        variable "command" { default = "true" }
        resource "terraform_data" "x" {
          provisioner "local-exec" { command = var.command }
        }
    "#;
    fs::write(scene.path("main.tf"), resource).expect("a file");
    scene
}

#[test]
fn terraforms_approval_prompt_can_be_answered_and_interrupted() {
    let keys = [
        ("yes", None, "Apply complete!", 0),
        ("no", None, "Apply cancelled.", 1),
        ("", Some('c'), "error asking for approval", 1),
    ];
    for (answer, key, expected, code) in keys {
        let scene = real_terraform(&["apply"]);
        let mut shell = Shell::start();
        shell.send(&scene.shell_words());
        shell.sees("Enter a value:");
        match key {
            None => shell.send(answer),
            Some(key) => shell.key(key),
        }
        let output = shell.prompt();
        assert!(output.contains(expected), "{output}");
        assert_eq!(shell.code(), code);
        scene.expect_free();
    }
}

/// A real Terraform behind a script, and that script.
fn behind(script: &str) -> Scene {
    let scene = applying_with("./terraform.sh").command(&["apply", "-no-color"]);
    let real = crate::support::harness::real_terraform().display().to_string();
    let script = format!("#!/bin/bash\nset -m\n{}", script.replace("TERRAFORM", &real));
    crate::support::harness::program(&scene.path("terraform.sh"), &script);
    scene
}

/// It makes jobs of what it runs, and takes the terminal back from a job that has ended.
#[test]
fn a_prompt_through_a_shell_with_job_control_is_answered() {
    for (shape, in_ci) in [("{}", false), ("{} | cat", false), ("{}", true)] {
        let scene = behind("TERRAFORM \"$@\" &\nfg > jobs\n");
        let scene = if in_ci { scene.in_ci() } else { scene };
        let mut shell = Shell::start();
        shell.send(&shape.replace("{}", &scene.shell_words()));
        shell.sees("Enter a value:");
        shell.send("yes");
        shell.sees("Apply complete!");
        shell.prompt();
        assert_eq!(shell.code(), 0, "{shape}, in CI {in_ci}");
        scene.expect_free();
    }
}

/// Nobody else could give it the terminal, and without that it would stand still for ever.
#[test]
fn a_prompt_whose_shell_has_left_it_is_answered() {
    let script = "TERRAFORM \"$@\" &\ndisown\n
        until grep -q '^State:.T' /proc/$!/status; do sleep 0.05; done\nexit 3\n";
    for in_ci in [false, true] {
        let scene = behind(script);
        let scene = if in_ci { scene.in_ci() } else { scene };
        let mut shell = Shell::start();
        shell.send(&scene.shell_words());
        shell.sees("Enter a value:");
        shell.send("yes");
        let said = shell.sees("Apply complete!") + &shell.prompt();
        assert_eq!(shell.code(), 3, "in CI {in_ci}: {said}");
        scene.expect_free();
    }
}

#[test]
fn a_suspended_prompt_is_answered_after_fg() {
    // Suspended where it runs; and stopped because it asked from the background.
    for (end, key) in [("", Some('z')), (" &", None)] {
        let scene = real_terraform(&["apply"]);
        let mut shell = Shell::start();
        shell.send(&format!("{}{end}", scene.shell_words()));
        if let Some(key) = key {
            shell.sees("Enter a value:");
            shell.key(key);
            shell.sees("Stopped");
            shell.prompt();
        } else {
            shell.prompt();
            shell.sees("Enter a value:");
            let wrapper = wait_until("the wrapper", || only_child(shell.pid()));
            wait_until("a stopped wrapper", || (state(wrapper) == Some('T')).then_some(()));
            // A shell that has not heard of the stop yet continues nobody.
            wait_until("a shell that knows", || {
                shell.run("jobs").contains("Stopped").then_some(())
            });
        }
        assert!(scene.path(".terraform.tfstate.lock.info").exists(), "held all along");
        shell.send("fg");
        // Terraform reads on without asking anew.
        let wrapper = wait_until("the wrapper", || only_child(shell.pid()));
        wait_until("a running wrapper", || (state(wrapper) == Some('S')).then_some(()));
        shell.send("yes");
        shell.sees("Apply complete!");
        shell.prompt();
        assert_eq!(shell.code(), 0);
        scene.expect_free();
    }
}

/// A stop that comes together with the CONT that makes it heard, to what stops again at once because it
/// reads the terminal.
#[test]
fn a_suspended_prompt_that_its_shell_kills_ends() {
    let alone = || real_terraform(&["apply"]);
    let behind_a_shell_below_a_run = || {
        let scene = behind("TERRAFORM \"$@\" &\nfg > jobs\n");
        let words = [env!("CARGO_BIN_EXE_tfwrap"), "apply"];
        scene.command(&[&["run", "--"], words.as_slice()].concat())
    };
    for scene in [alone(), alone(), alone(), behind_a_shell_below_a_run()] {
        let mut shell = Shell::start();
        shell.send(&scene.shell_words());
        shell.sees("Enter a value:");
        shell.key('z');
        shell.sees("Stopped");
        shell.prompt();
        shell.send("kill %1");
        shell.sees("released the lock");
        scene.expect_free();
    }
}

/// The shell that has made a job of Terraform goes on when a key has stopped that, as it would without us.
#[test]
fn in_ci_ctrl_z_through_a_shell_with_job_control_leaves_nobody_behind() {
    let scene = behind("TERRAFORM \"$@\" &\nfg > jobs\n").in_ci();
    let mut shell = Shell::start();
    shell.send(&scene.shell_words());
    shell.sees("Enter a value:");
    shell.key('z');
    shell.prompt();
    assert_eq!(shell.code(), 148, "as stock Terraform");
    scene.expect_free();
}

#[test]
fn a_plan_can_be_paged_and_an_apply_teed() {
    let scene = real_terraform(&["plan", "-no-color"]);
    let mut shell = Shell::start();
    shell.send(&format!("{} | less -d", scene.shell_words()));
    shell.sees("will be created");
    shell.terminal.send("q").and_then(|_| shell.terminal.flush()).expect("the terminal takes it");
    shell.prompt();
    scene.expect_free();

    let scene = real_terraform(&["apply", "-no-color"]);
    let out = scene.path("out");
    shell.send(&format!("{} | tee {}", scene.shell_words(), out.display()));
    shell.sees("Enter a value:");
    shell.send("yes");
    shell.sees("Apply complete!");
    shell.prompt();
    assert!(fs::read_to_string(out).expect("what was teed").contains("Apply complete!"));
    scene.expect_free();
}

#[test]
fn an_apply_in_the_background_ends_there() {
    let scene = real_terraform(&["apply", "-auto-approve", "-no-color"]);
    let mut shell = Shell::start();
    shell.run(&format!("{} > {} &", scene.shell_words(), scene.path("out").display()));
    let mine = shell.run("echo mine");
    assert!(mine.starts_with("mine"), "the shell keeps the keyboard: {mine}");
    shell.run("wait $!");
    assert_eq!(shell.code(), 0);
    assert!(scene.wait_for("out").contains("Apply complete!"));
    scene.expect_free();
}

#[test]
fn when_the_terminal_is_closed_nothing_is_left_and_the_lock_is_free() {
    for (words, at) in [
        (&["apply"] as &[&str], "Enter a value:"),
        (&["apply", "-auto-approve", "-var=command=echo working; sleep 60"], "working"),
    ] {
        for end in ["", " | cat"] {
            let scene = real_terraform(words);
            let mut shell = Shell::start();
            let processes = shell.pid();
            shell.send(&format!("{}{end}", scene.shell_words()));
            shell.sees(at);
            let all = wait_until("its processes", || {
                let all = below(processes);
                (all.len() >= 2).then_some(all)
            });
            shell.hang_up();
            for (pid, born_at) in all {
                wait_for_end("the end of all", pid, born_at.as_ref());
            }
            scene.expect_free();
        }
    }
}

/// A terminal whose other end is ours alone to close, and an interactive shell on it. Nobody reads
/// what it prints: that goes to files.
pub(crate) struct Window {
    master: Option<File>,
    bash: Child,
}

impl Window {
    pub(crate) fn open() -> Self {
        // Nobody else may inherit the other end, or closing it would mean nothing.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = posix_openpt(flags).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("a terminal");
        let name = ptsname_r(&master).expect("its name");
        let slave = OpenOptions::new().read(true).write(true).open(name).expect("a terminal");
        // In a session of its own, with this as its controlling terminal.
        let mut command = Command::new("setsid");
        command.args(["--ctty", "bash", "--norc", "--noprofile", "-i"]);
        let stream = || Stdio::from(slave.try_clone().expect("a descriptor"));
        let bash = command.stdin(stream()).stdout(stream()).stderr(stream()).spawn();
        Self { master: Some(File::from(OwnedFd::from(master))), bash: bash.expect("bash starts") }
    }

    pub(crate) fn send(&mut self, line: &str) {
        let master = self.master.as_mut().expect("it is open");
        master.write_all(format!("{line}\n").as_bytes()).expect("the terminal takes it");
    }

    pub(crate) fn close(mut self) {
        self.master = None;
        wait_until("the shell's end", || self.bash.try_wait().expect("it can be waited for"));
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        if let Ok(None) = self.bash.try_wait() {
            let _gone_meanwhile = self.bash.kill();
            let _reaped = self.bash.wait();
        }
    }
}

#[test]
fn when_the_window_is_closed_terraform_saves_its_state() {
    let scene = real_terraform(&[
        "apply",
        "-auto-approve",
        "-var=command=trap 'sleep 0.5; exit 1' INT; echo $$ > shell; sleep 60",
    ]);
    let (out, err) = (scene.path("out"), scene.path("err"));
    let mut window = Window::open();
    let words = scene.shell_words();
    window.send(&format!("{words} > {} 2> {}", out.display(), err.display()));
    let provisioner = wait_until("the provisioner", || {
        let pid = fs::read_to_string(scene.path("shell")).ok()?;
        pid.trim().parse().ok().map(Pid::from_raw)
    });
    let terraform = parent_of(provisioner);
    let wrapper = parent_of(terraform);
    let all = [wrapper, terraform, provisioner].map(|pid| (pid, born(pid)));
    window.close();
    for (pid, born_at) in all {
        wait_for_end("the end of all", pid, born_at.as_ref());
    }
    let state = fs::read_to_string(scene.path("terraform.tfstate")).unwrap_or_default();
    let said = fs::read_to_string(err).expect("what was said");
    assert!(state.contains("terraform_data") && state.contains("tainted"), "{state}{said}");
    assert!(said.contains("got SIGHUP"), "{said}");
    scene.expect_free();
}

#[test]
fn a_closed_terminal_is_one_interrupt_for_a_child_that_lives_through_it() {
    let scene = Scene::new(LOGS_ALL);
    let mut shell = Shell::start();
    shell.send(&scene.shell_words());
    let child = scene.pid_in("ready");
    let wrapper = wrapper_of(child);
    shell.hang_up();
    scene.wait_for_log("SIGINT 1");
    kill(wrapper, Signal::SIGWINCH).expect("the wrapper is there");
    scene.wait_for_log("SIGWINCH");
    assert_eq!(scene.count("SIGINT"), 1, "{:?}", scene.log());
    kill(child, Signal::SIGUSR1).expect("the child is there");
    wait_until("the wrapper's end", || is_gone(wrapper).then_some(()));
    scene.expect_free();
}

#[test]
fn under_nohup_a_closed_window_is_no_stop() {
    let scene = Scene::new(&LOGS_ALL.replace("on SIGHUP log; ", ""));
    let mut window = Window::open();
    let err = scene.path("err");
    window.send(&format!("nohup {} > /dev/null 2> {}", scene.shell_words(), err.display()));
    let child = scene.pid_in("ready");
    let wrapper = wrapper_of(child);
    window.close();
    pause(Duration::from_millis(500));
    assert_eq!(scene.count("SIGINT"), 0, "{:?}", fs::read_to_string(&err));
    kill(wrapper, Signal::SIGTERM).expect("the wrapper is there");
    scene.wait_for_log("SIGINT 1");
    kill(child, Signal::SIGUSR1).expect("the child is there");
    wait_until("the wrapper's end", || is_gone(wrapper).then_some(()));
    scene.expect_free();
}

/// All processes below this one, and when each began.
pub(crate) fn below(parent: Pid) -> Vec<(Pid, Option<String>)> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let children = fs::read_to_string(path).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    let mut all: Vec<_> = children.map(Pid::from_raw).map(|pid| (pid, born(pid))).collect();
    for (child, _) in all.clone() {
        all.extend(below(child));
    }
    all
}

#[test]
fn each_stop_from_the_terminal_ends_the_wait() {
    let mut holder = Scene::new(LOGS_ALL).start().ready();
    for (key, code) in [(Some('c'), 130), (Some('\\'), 131), (None, 129)] {
        let mut shell = Shell::start();
        shell.send(&holder.scene.shell_words());
        shell.sees("waiting");
        if let Some(key) = key {
            shell.key(key);
            shell.sees("nothing is left behind");
            shell.prompt();
            assert_eq!(shell.code(), code);
        } else {
            let waiting = wait_until("the wrapper", || only_child(shell.pid()));
            shell.hang_up();
            wait_until("its end", || is_gone(waiting).then_some(()));
        }
    }
    assert!(holder.scene.log().is_empty(), "the holder's child heard of it");
    holder.signal(Signal::SIGUSR1);
    assert_eq!(holder.code(), Some(5));
}

#[test]
fn a_quit_from_the_terminal_reaches_the_child_as_it_is() {
    for shape in ["{}", "{} | cat"] {
        let script = "log @/log; on SIGINT log; on SIGQUIT exit 2; ready @/ready; wait";
        let scene = Scene::new(script);
        let mut shell = Shell::start();
        shell.send(&shape.replace("{}", &scene.shell_words()));
        scene.pid_in("ready");
        shell.key('\\');
        shell.prompt();
        assert_eq!((scene.count("SIGQUIT"), scene.count("SIGINT")), (1, 0), "{:?}", scene.log());
        scene.expect_free();
    }
}

#[tokio::test]
async fn no_stop_from_the_terminal_ends_the_release() {
    let table = "releasing-pty";
    dynamodb().create_lock_table(table).await;
    for (index, key) in [Some('c'), Some('\\'), None].into_iter().enumerate() {
        let name = index.to_string();
        let proxy = Proxy::before(&dynamodb().url);
        proxy.plan([Rule::on("DeleteItem", Fault::Hold).times(1)]);
        let lock = format!("dynamodb://{table}/{name}?region={REGION}&endpoint={}", proxy.url());
        let scene = Scene::unguarded("exit 5").options(&["--no-backend-lock", "--lock", &lock]);
        let mut shell = Shell::start();
        shell.send(&scene.shell_words());
        proxy.arrived("DeleteItem", 1).await;
        let wrapper = wait_until("the wrapper", || only_child(shell.pid()));
        if let Some(key) = key {
            shell.key(key);
            shell.sees("is released first");
        } else {
            shell.hang_up();
        }
        assert!(!is_gone(wrapper));
        assert!(dynamodb().get_raw(table, &name).await.is_some());
        proxy.release();
        wait_until("its end", || is_gone(wrapper).then_some(()));
        assert_eq!(dynamodb().get_raw(table, &name).await, None);
        if key.is_some() {
            shell.prompt();
            assert_eq!(shell.code(), 5);
        }
    }
}

/// Whoever types it sees the environment, and their shell does not have it.
#[test]
fn a_hold_that_is_typed_says_what_to_do() {
    let dir = crate::support::servers::local_backend_dir();
    let mut shell = Shell::start();
    let wrapper = wrapper().display().to_string();
    shell.run(&format!("cd {}; export TFWRAP_STATE_DIR=$PWD/ours", dir.path().display()));
    shell.send(&format!("{wrapper} hold"));
    shell.sees("export PATH=");
    let said = shell.sees("`tfwrap release`");
    assert!(said.contains("tfwrap: the lock is held; to run commands under it, paste"), "{said}");
    shell.prompt();
    shell.send(&format!("{wrapper} release"));
    shell.sees("released");
    shell.prompt();
    // The control: a shell that reads it needs no word.
    shell.send(&format!("held=$({wrapper} hold) && eval \"$held\"; echo done=$?"));
    let said = shell.sees("done=0");
    assert!(!said.contains("paste"), "{said}");
    shell.prompt();
    shell.send(&format!("{wrapper} release"));
    shell.sees("released");
}
