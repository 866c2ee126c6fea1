//! The main job on the embedded default, without any server: two `tfwrap apply` contend for one
//! local state and take turns; the control, the same two without a lock, overlaps.
//!
//! `cargo run --example quickstart`; exit code 0 only if both were so.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

/// Each run says when its provisioner begins and ends. A provisioner and no provider: nothing
/// needs to be downloaded, not even `terraform init` is needed.
const CONFIGURATION: &str = r#"
resource "terraform_data" "job" {
  triggers_replace = timestamp()
  provisioner "local-exec" {
    command = "echo $(date +%s%N) $RUN begins >> turns.log; sleep 2; echo $(date +%s%N) $RUN ends >> turns.log"
  }
}
"#;

/// Set for the copies of this program that play `tfwrap`.
const PLAY_TFWRAP: &str = "QUICKSTART_PLAY_TFWRAP";

/// The longest that any of this may take.
const LIMIT: Duration = Duration::from_mins(3);

fn main() -> ExitCode {
    // An example cannot call the package's binary; it can be it.
    #[expect(clippy::disallowed_methods, reason = "this is not the program")]
    let plays = std::env::var_os(PLAY_TFWRAP).is_some();
    if plays {
        return tfwrap::main();
    }
    match demonstrate() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("quickstart: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demonstrate() -> Result<bool, Box<dyn Error>> {
    if Command::new("terraform").arg("version").stdout(Stdio::null()).status().is_err() {
        return Err("`terraform` is missing: install Terraform (https://developer.hashicorp.com/terraform/install) and try again".into());
    }
    let terraform = || Command::new("terraform");
    let tfwrap = || -> std::io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env(PLAY_TFWRAP, "1").env("TFWRAP_TERRAFORM", "terraform");
        Ok(command)
    };

    println!("1. control: two `terraform apply -lock=false` at once");
    let control = Turns::of(&[terraform(), terraform()], &["apply", "-lock=false"])?;
    println!("{control}   they overlap: {}\n", yes_or_no(control.overlap()));

    println!("2. two `tfwrap apply` at once");
    let locked = Turns::of(&[tfwrap()?, tfwrap()?], &["apply"])?;
    println!("{locked}   they overlap: {}\n", yes_or_no(locked.overlap()));

    let as_it_should_be = control.overlap() && !locked.overlap() && locked.all_succeeded;
    println!(
        "{}",
        if as_it_should_be {
            "with tfwrap they take turns; without a lock they do not"
        } else {
            "this is not as it should be: the control must overlap, and tfwrap's runs must \
             succeed one after the other"
        }
    );
    Ok(as_it_should_be)
}

fn yes_or_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// When (in nanoseconds), which run, `begins` or `ends`.
type Turn = (u128, String, String);

/// What two runs did when.
struct Turns {
    events: Vec<Turn>,
    all_succeeded: bool,
}

impl Turns {
    /// Runs both at once in a fresh directory.
    fn of(programs: &[Command; 2], args: &[&str]) -> Result<Self, Box<dyn Error>> {
        let dir = Scratch::new()?;
        std::fs::write(dir.0.join("main.tf"), CONFIGURATION)?;
        let mut runs = Vec::new();
        for (program, name) in programs.iter().zip(["A", "B"]) {
            let mut command = Command::new(program.get_program());
            for (variable, value) in program.get_envs() {
                if let Some(value) = value {
                    command.env(variable, value);
                }
            }
            let child = command
                .args(args)
                .args(["-auto-approve", "-input=false", "-no-color"])
                .current_dir(&dir.0)
                .env("RUN", name)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()?;
            runs.push((name, child));
        }
        let mut all_succeeded = true;
        let readers: Vec<_> = runs.iter_mut().map(|(name, child)| echo(name, child)).collect();
        for (_, child) in &mut runs {
            all_succeeded &= finish(child)?;
        }
        for reader in readers.into_iter().flatten() {
            reader.join().map_err(|_| "a reader failed")?;
        }
        Ok(Self { events: read(&dir.0.join("turns.log"))?, all_succeeded })
    }

    /// Whether a run begins while another has not ended.
    fn overlap(&self) -> bool {
        let mut running = 0_u32;
        self.events.iter().any(|(_, _, what)| {
            if what == "begins" {
                running += 1;
            } else {
                running = running.saturating_sub(1);
            }
            running > 1
        })
    }
}

impl std::fmt::Display for Turns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = self.events.first().map_or(0, |(at, ..)| *at);
        let mut text = String::new();
        for (at, run, what) in &self.events {
            let millis = (at - start) / 1_000_000;
            writeln!(text, "   {:>3}.{:03} s  {run} {what}", millis / 1000, millis % 1000)?;
        }
        f.write_str(&text)
    }
}

/// Shows what a run says on stderr, in the background.
fn echo(name: &'static str, child: &mut Child) -> Option<std::thread::JoinHandle<()>> {
    let stderr = child.stderr.take()?;
    Some(std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            println!("   [{name}] {line}");
        }
    }))
}

/// Waits for a run, within the limit.
fn finish(child: &mut Child) -> Result<bool, Box<dyn Error>> {
    let step = Duration::from_millis(50);
    for _ in 0..LIMIT.as_millis() / step.as_millis() {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        #[expect(clippy::disallowed_methods, reason = "there is no loop here to block")]
        std::thread::sleep(step);
    }
    child.kill()?;
    child.wait()?;
    Err("a run did not end within its time".into())
}

fn read(log: &Path) -> Result<Vec<Turn>, Box<dyn Error>> {
    let text = std::fs::read_to_string(log)
        .map_err(|error| format!("no run got as far as its provisioner: {error}"))?;
    let mut events = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let (Some(at), Some(run), Some(what)) = (words.next(), words.next(), words.next()) else {
            return Err(format!("unexpected line `{line}`").into());
        };
        events.push((at.parse()?, run.to_owned(), what.to_owned()));
    }
    events.sort();
    Ok(events)
}

/// A directory that is removed again.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let name = format!("tfwrap-quickstart-{}", tfwrap::identity::new_lock_id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("quickstart: `{}` could not be removed: {error}", self.0.display());
        }
    }
}
