//! The same call by each player.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::arena::{Arena, Snapshot, Template};
use crate::calls::Call;
use crate::scene::Scene;
use crate::support::dice::Dice;
use crate::support::harness::{self, Finished, Running, pause};

/// Who is held against stock Terraform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Player {
    Tfwrap,
    /// Stock Terraform with its locking off: the negative control.
    Unlocked,
}

/// The look that sees a write beside a stranger's lock.
pub(crate) const BESIDE: &str = "written beside a stranger's lock";
/// The look that sees a write outside of the time of its lock.
pub(crate) const JOURNAL: &str = "written without its own lock";

/// What happens to the place while tfwrap waits for the stranger.
#[derive(Debug, Clone)]
enum Change {
    Nothing,
    /// `terraform workspace select`.
    Select(String),
    /// Another backend, and `terraform init -reconfigure`.
    Reconfigure,
    /// The saved plan is made anew.
    PlanAnew,
}

#[derive(Debug, Clone)]
pub(crate) struct Case {
    scene: Scene,
    call: Call,
    /// Whether tfwrap is called by the name `terraform`.
    by_name: bool,
    change: Option<Change>,
}

/// A place that is put up, and as it was then.
#[derive(Debug)]
pub(crate) struct Stage {
    scene: Scene,
    template: Template,
    before: Snapshot,
}

fn dice(seed: u64, number: usize) -> Dice {
    let number = u64::try_from(number).expect("not so many");
    Dice::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_mul(0xd1b5_4a32_d192_ed03))
}

impl Stage {
    pub(crate) fn new(seed: u64, group: usize, arena: &Arena) -> Self {
        Self::of(Scene::new(&mut dice(!seed, group), &arena.path()), arena)
    }

    /// Of the control.
    pub(crate) fn plain(group: usize, arena: &Arena) -> Self {
        Self::of(Scene::plain(&mut dice(0, group)), arena)
    }

    fn of(scene: Scene, arena: &Arena) -> Self {
        scene.put_up(arena);
        Self { scene, template: arena.save(), before: arena.look() }
    }

    pub(crate) fn case(&self, seed: u64, number: usize, arena: &Arena) -> Case {
        let mut dice = dice(seed, number);
        let scene = self.scene.clone();
        let by_name = dice.percent(50);
        let call = Call::new(&mut dice, &scene, &arena.path(), by_name);
        let change = match dice.between(0, 12) {
            0 => Some(Change::Nothing),
            1 | 2 => Some(Change::Select(dice.one(&["default", "dev", "w1"]).to_owned())),
            3 => Some(Change::Reconfigure),
            4 if scene.plan.is_some() => Some(Change::PlanAnew),
            _ => None,
        };
        Case { scene, call, by_name, change }
    }

    pub(crate) fn plain_case(&self) -> Case {
        let scene = self.scene.clone();
        Case { call: Call::plain(&scene), scene, by_name: false, change: None }
    }
}

impl Case {
    fn command(&self, arena: &Arena, program: &Path) -> Command {
        let mut command = arena.command(program, &arena.path().join(&self.call.cwd));
        command.args(&self.call.args).envs(self.call.env.iter().cloned());
        command
    }

    fn stock(&self, arena: &Arena) -> Command {
        self.command(arena, Path::new("terraform"))
    }

    /// The other player's call, which waits for a lock for so long.
    fn other(&self, arena: &Arena, player: Player, wait: &str) -> Command {
        if player == Player::Unlocked {
            let mut command = self.stock(arena);
            command.env("TF_CLI_ARGS_apply", "-lock=false");
            return command;
        }
        let program = if self.by_name { arena.tfwrap_as_terraform() } else { harness::wrapper() };
        let mut command = self.command(arena, &program);
        command.env("TFWRAP_LOCK_TIMEOUT", wait);
        command
    }
}

impl fmt::Display for Case {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let env = self.call.env.iter().map(|(name, value)| format!("{name}={value:?} "));
        let program = if self.by_name { "terraform (a link to tfwrap)" } else { "tfwrap" };
        writeln!(to, "{:?}", self.scene)?;
        write!(
            to,
            "in {}: {}{program} {}; meanwhile: {:?}",
            self.call.cwd,
            env.collect::<String>(),
            shell_words::join(&self.call.args),
            self.change
        )
    }
}

/// What came of a case.
#[derive(Debug, Default)]
pub(crate) struct Played {
    pub(crate) faults: Vec<String>,
    pub(crate) looks: Vec<&'static str>,
    pub(crate) said: String,
    pub(crate) stock_code: i32,
    /// Stock changed a state; a stranger's lock kept it from that; tfwrap waited for the stranger.
    pub(crate) changed: bool,
    pub(crate) kept_out: bool,
    pub(crate) waited: bool,
}

impl Played {
    fn fault(&mut self, look: &'static str, what: &str, done: &Finished) {
        self.looks.push(look);
        self.faults.push(format!("{look}: {what}"));
        self.say(look, done);
    }
}

impl Played {
    fn say(&mut self, what: &str, done: &Finished) {
        for text in ["--- ", what, "\n", &done.stdout, &done.stderr, "\n"] {
            self.said.push_str(text);
        }
    }
}

/// One play's end.
struct End {
    code: i32,
    after: Snapshot,
    unlocked: Vec<String>,
    done: Finished,
}

fn end(arena: &Arena, done: Finished) -> End {
    let code = done.status.code().unwrap_or(-1);
    End { code, after: arena.look(), unlocked: arena.unlocked_writes(), done }
}

fn perform(arena: &Arena, command: &mut Command) -> End {
    arena.unlocked_writes();
    end(arena, harness::run(command))
}

pub(crate) fn play(arena: &Arena, stage: &Stage, case: &Case, other: Player) -> Played {
    let mut played = Played::default();
    let Stage { template, before, .. } = stage;
    arena.restore(template);
    let stock = perform(arena, &mut case.stock(arena));
    played.stock_code = stock.code;
    arena.restore(template);
    let ours = perform(arena, &mut case.other(arena, other, "3s"));
    compare(&mut played, "alone", &stock, &ours, false);
    let states = Locks::of_changed(before, &stock.after);
    played.changed = !states.is_empty();
    if states.is_empty() {
        return played;
    }
    let beside = |command: &mut Command| {
        arena.restore(template);
        let held = states.take(arena);
        let mut end = perform(arena, command);
        held.give_back(arena);
        end.after = arena.look();
        end
    };
    let stock_beside = beside(&mut case.stock(arena));
    let ours_beside = beside(&mut case.other(arena, other, "0s"));
    compare(&mut played, "beside a stranger", &stock_beside, &ours_beside, true);
    played.kept_out = stock_beside.code == 1 && unchanged(&states, before, &stock_beside.after);
    for state in states.paths() {
        let same = |end: &End| end.after.get(state) == before.get(state);
        if same(&stock_beside) && !same(&ours_beside) {
            played.fault(BESIDE, state, &ours_beside.done);
        }
    }
    if let (Player::Tfwrap, true, Some(change)) = (other, played.kept_out, &case.change) {
        wait(&mut played, arena, case, stage, &states, change);
    }
    played
}

fn unchanged(states: &Locks, before: &Snapshot, after: &Snapshot) -> bool {
    states.paths().all(|path| before.get(path) == after.get(path))
}

/// Codes, files, and writes outside of their lock: as stock's.
fn compare(played: &mut Played, how: &str, stock: &End, ours: &End, is_held: bool) {
    let agree = match (stock.code, ours.code) {
        (stock, ours) if stock == ours => true,
        // Where Terraform has only 1, tfwrap says more.
        (1, 64 | 78) => true,
        (1, 75) => is_held,
        _ => false,
    };
    if !agree {
        let what = format!("{how}: stock ended with {}, we with {}", stock.code, ours.code);
        played.fault("another code", &what, &ours.done);
        played.say("stock said", &stock.done);
    }
    let differences = differences(&stock.after, &ours.after, &|_| true);
    if !differences.is_empty() {
        played.fault("other files", &format!("{how}: {}", differences.join("; ")), &ours.done);
    }
    for write in ours.unlocked.iter().filter(|write| !stock.unlocked.contains(write)) {
        played.fault(JOURNAL, &format!("{how}: {write}"), &ours.done);
    }
}

/// The differences in what counts.
fn differences(stock: &Snapshot, ours: &Snapshot, counts: &dyn Fn(&String) -> bool) -> Vec<String> {
    let all: BTreeSet<_> = stock.keys().chain(ours.keys()).filter(|path| counts(path)).collect();
    let differs = all.into_iter().filter(|path| stock.get(*path) != ours.get(*path));
    let show = |what: Option<&String>| {
        what.map_or("nothing".to_owned(), |what| what.chars().take(600).collect())
    };
    differs
        .map(|path| {
            format!(
                "`{path}` is\n    {}\n  of stock's\n    {}",
                show(ours.get(path)),
                show(stock.get(path))
            )
        })
        .collect()
}

/// tfwrap waits for the stranger, and meanwhile something changes.
fn wait(
    played: &mut Played,
    arena: &Arena,
    case: &Case,
    stage: &Stage,
    states: &Locks,
    change: &Change,
) {
    let Stage { template, before, .. } = stage;
    // What stock makes of the changed place, to be known beforehand.
    arena.restore(template);
    case.make(arena, change);
    let changed_before = arena.look();
    let stock = perform(arena, &mut case.stock(arena));
    let then = Locks::of_changed(&changed_before, &stock.after);
    arena.restore(template);
    let (first, second) = (states.without(&then).take(arena), then.take(arena));
    arena.unlocked_writes();
    let mut command = case.other(arena, Player::Tfwrap, "60s");
    let ours = Running::start(&mut command);
    let bounded = |what: &dyn Fn() -> bool| {
        (0..1000).any(|_| {
            let holds = what();
            if !holds {
                pause(Duration::from_millis(10));
            }
            holds
        })
    };
    bounded(&|| ours.is_over() || ours.stderr().contains("waiting"));
    played.waited = !ours.is_over();
    case.make(arena, change);
    let said = ours.stderr().len();
    first.give_back(arena);
    if !states.without(&then).is_empty() {
        // Where the new place's lock is not had, it cannot go on.
        bounded(&|| ours.is_over() || ours.stderr().len() > said);
        pause(Duration::from_millis(100));
    }
    let meanwhile = arena.look();
    second.give_back(arena);
    let ours = end(arena, ours.finish());
    for state in then.paths() {
        if meanwhile.get(state) != changed_before.get(state) {
            played.fault(BESIDE, &format!("after {change:?}: {state}"), &ours.done);
        }
    }
    if !played.waited {
        return;
    }
    let how = format!("after {change:?}");
    if matches!(change, Change::Nothing) {
        compare(played, &how, &stock, &ours, false);
        return;
    }
    // A workspace that was not there stock makes before it waits, too: only the states count.
    for write in ours.unlocked.iter().filter(|write| !stock.unlocked.contains(write)) {
        played.fault(JOURNAL, &format!("{how}: {write}"), &ours.done);
    }
    let counts = |path: &String| {
        let is_locked = |after: &Snapshot| after.get(path).is_some_and(|what| what == "lock");
        let was_there = states.0.contains(path) && before.contains_key(path);
        then.0.contains(path) || was_there || is_locked(&ours.after)
    };
    let different = differences(&stock.after, &ours.after, &counts);
    let given_up = matches!(ours.code, 75 | 76 | 78) && unchanged(states, before, &ours.after);
    if !different.is_empty() && !given_up {
        played.fault("other files", &format!("{how}: {}", different.join("; ")), &ours.done);
    }
}

impl Case {
    /// Makes the change; where it cannot be made, nothing changes.
    fn make(&self, arena: &Arena, change: &Change) {
        let scene = &self.scene;
        let stock = |args: &[&str]| drop(harness::run(&mut scene.stock(arena, args)));
        match change {
            Change::Nothing => {}
            Change::Select(name) => stock(&["workspace", "select", name]),
            Change::Reconfigure => {
                scene.write_backend(arena, &scene.turned());
                stock(&["init", "-reconfigure", "-input=false"]);
            }
            Change::PlanAnew => {
                let name = scene.plan.as_deref().unwrap_or("p.bin");
                stock(&["plan", "-lock=false", &format!("-out={name}"), "-var=x=anew"]);
            }
        }
    }
}

/// States, to be locked by a stranger.
#[derive(Debug, Clone)]
struct Locks(BTreeSet<String>);

impl Locks {
    /// Those that were changed, as far as a stranger can have locked them before.
    fn of_changed(before: &Snapshot, after: &Snapshot) -> Self {
        let is_state = |what: &String| what.starts_with(r#"{"version":4"#);
        let all: BTreeSet<_> = before.keys().chain(after.keys()).cloned().collect();
        let changed = all.into_iter().filter(|path| {
            let (was, is) = (before.get(path), after.get(path));
            let is_there = was.is_some_and(is_state) || is.is_some_and(is_state);
            let can_be_locked = path.starts_with("s3:") || was.is_some_and(is_state);
            let is_copy = path.contains("backup") || path.ends_with("saved");
            was != is && is_there && can_be_locked && !is_copy
        });
        Self(changed.collect())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn paths(&self) -> impl Iterator<Item = &String> {
        self.0.iter()
    }

    fn without(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).cloned().collect())
    }

    /// As a stranger's Terraform does.
    fn take(&self, arena: &Arena) -> Held {
        let mut held = Held::default();
        for path in &self.0 {
            if let Some(key) = path.strip_prefix("s3:") {
                let lock = format!("{}/{key}", arena.bucket);
                arena.put_lock(&lock);
                held.items.push(lock);
            } else {
                held.files.push(lock_file(&arena.path().join(path)));
            }
        }
        held
    }
}

/// A stranger's locks.
#[derive(Debug, Default)]
struct Held {
    items: Vec<String>,
    files: Vec<(File, PathBuf)>,
}

impl Held {
    fn give_back(self, arena: &Arena) {
        self.items.iter().for_each(|item| arena.remove_lock(item));
        for (_, info) in &self.files {
            // The player may have taken the whole directory away.
            drop(fs::remove_file(info));
        }
    }
}

/// The file, and where it says who has locked it.
fn lock_file(path: &Path) -> (File, PathBuf) {
    let file = File::options().read(true).write(true).open(path).expect("it is there");
    let lock = libc::flock {
        l_type: i16::try_from(libc::F_WRLCK).expect("a small number"),
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)).expect("nobody else has it");
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    let info = path.with_file_name(format!(".{}.lock.info", name.trim_start_matches('.')));
    let text = r#"{"ID":"5ca1ab1e-0000-4000-8000-000000000001","Operation":"OperationTypeApply","Info":"","Who":"jane@desk","Version":"1.11.4","Created":"2026-01-02T03:04:05Z","Path":"terraform.tfstate"}"#;
    fs::write(&info, text).expect("it can be written");
    (file, info)
}
