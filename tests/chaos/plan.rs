//! What a round does.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::dice::Dice;
use crate::support::proxy::{Fault, Rule};

/// Who wants the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// tfwrap around a scripted child.
    Scripted,
    /// tfwrap around a real `terraform apply`.
    Terraform,
    /// `tfwrap hold`, `tfwrap apply` of a scripted child, `tfwrap release`.
    Hold,
    /// A stock `terraform apply`.
    Stock,
}

/// Which locks the backend of a contender has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// An item of the table.
    Item,
    /// A lock file.
    File,
    Both,
}

/// Who gets a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The entry process.
    Process,
    /// Its group.
    Group,
    /// All below it, children first.
    Tree,
    /// The same, and once more.
    TreeTwice,
}

/// What happens to a contender.
#[derive(Debug, Clone)]
pub(crate) struct Blow {
    /// Whether the time counts from the start of its child's work, if it gets that far; else from
    /// its own start.
    pub(crate) at_work: bool,
    pub(crate) after: Duration,
    pub(crate) signal: Signal,
    pub(crate) shape: Shape,
    /// Of a SIGSTOP, until the SIGCONT.
    pub(crate) stands: Duration,
}

#[derive(Debug, Clone)]
pub(crate) struct Contender {
    pub(crate) kind: Kind,
    pub(crate) mode: Mode,
    /// After the round's start.
    pub(crate) starts: Duration,
    pub(crate) works: Duration,
    /// How long the child takes to heed an interrupt.
    pub(crate) heeds: Duration,
    pub(crate) blow: Option<Blow>,
}

#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) contenders: Vec<Contender>,
    /// What the store does to the requests of all but stock Terraform.
    pub(crate) faults: Vec<Rule>,
    /// The same, of the requests for lock files.
    pub(crate) faults_of_files: Vec<Rule>,
    /// Whether they stand in line, where the dead cost those behind them up to 20 s; or compete.
    pub(crate) line: bool,
    /// Whether what is left is cleared by `recover`, or by the next one's wait for the lease.
    pub(crate) recover: bool,
}

const OPERATIONS: [&str; 3] = ["GetItem", "PutItem", "DeleteItem"];
/// The same, of a lock file.
const METHODS: [&str; 3] = ["GET", "PUT", "DELETE"];

impl Plan {
    /// Round `round` of this seed.
    pub(crate) fn new(seed: u64, round: usize) -> Self {
        let number = u64::try_from(round).expect("not so many");
        let mut dice = Dice::new(seed.wrapping_mul(0x9e37_79b9).wrapping_add(number));
        let count = dice.between(3, 7);
        let contenders = (0..count).map(|_| contender(&mut dice)).collect();
        let faults = dice.between(0, 6);
        let faults = (0..faults).map(|_| rule(&mut dice)).collect();
        let (line, recover) = (dice.percent(40), dice.percent(70));
        Self { contenders, faults, faults_of_files: Vec::new(), line, recover }
    }

    /// The same, of a fleet whose contenders have one of these backends.
    pub(crate) fn of_fleet(seed: u64, round: usize, modes: &[Mode]) -> Self {
        let mut plan = Self::new(seed, round);
        let number = u64::try_from(round).expect("not so many");
        let mut dice = Dice::new(!seed.wrapping_mul(0x9e37_79b9).wrapping_add(number));
        for one in &mut plan.contenders {
            one.mode = dice.one(modes);
        }
        plan.faults_of_files = (0..dice.between(0, 5)).map(|_| rule_of_file(&mut dice)).collect();
        plan
    }
}

fn millis(dice: &mut Dice, low: u64, high: u64) -> Duration {
    Duration::from_millis(dice.between(low, high))
}

fn contender(dice: &mut Dice) -> Contender {
    let kind = match dice.between(0, 20) {
        0..13 => Kind::Scripted,
        13..15 => Kind::Terraform,
        15..18 => Kind::Hold,
        _ => Kind::Stock,
    };
    let starts = millis(dice, 0, 600);
    // Now and then one that a guardian has to kill.
    let stubborn = dice.percent(6);
    let works = if stubborn { Duration::from_secs(5) } else { millis(dice, 50, 1200) };
    let heeds = if stubborn { Duration::from_secs(20) } else { millis(dice, 0, 900) };
    let blow = dice.percent(65).then(|| blow(dice));
    Contender { kind, mode: Mode::Item, starts, works, heeds, blow }
}

fn blow(dice: &mut Dice) -> Blow {
    use Signal as S;
    let signal = dice.one(&[S::INT, S::TERM, S::HUP, S::QUIT, S::KILL, S::KILL, S::KILL, S::STOP]);
    let shape =
        dice.one(&[Shape::Process, Shape::Process, Shape::Group, Shape::Tree, Shape::TreeTwice]);
    // Now and then beyond the lease: then others take over meanwhile.
    let stands = if dice.percent(8) { Duration::from_secs(17) } else { millis(dice, 50, 1500) };
    Blow { at_work: dice.percent(60), after: millis(dice, 0, 1200), signal, shape, stands }
}

fn rule(dice: &mut Dice) -> Rule {
    let delay = Fault::Delay(millis(dice, 50, 900));
    let fault = dice.one(&[
        Fault::DropReply,
        Fault::HalfReply,
        Fault::FailAfter,
        Fault::Refuse,
        delay.clone(),
        delay,
        Fault::SERVER_ERROR,
        Fault::THROTTLED,
        Fault::OVER_CAPACITY,
        Fault::CONFLICT,
    ]);
    let skip = usize::try_from(dice.between(0, 12)).expect("a small number");
    let times = usize::try_from(dice.between(1, 4)).expect("a small number");
    Rule::on(dice.one(&OPERATIONS), fault).after(skip).times(times)
}

fn rule_of_file(dice: &mut Dice) -> Rule {
    let delay = Fault::Delay(millis(dice, 50, 900));
    let fault =
        dice.one(&[Fault::DropReply, Fault::HalfReply, Fault::FailAfter, Fault::Refuse, delay]);
    let skip = usize::try_from(dice.between(0, 12)).expect("a small number");
    let times = usize::try_from(dice.between(1, 4)).expect("a small number");
    Rule::on(dice.one(&METHODS), fault).key_with(".tflock").after(skip).times(times)
}
