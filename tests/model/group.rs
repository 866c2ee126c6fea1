//! A child with others in its group: a wrapper that dies of the signal while its Terraform lives, a
//! script, what a provisioner left. The shipped `Supervisor` and `Canary` in the world of
//! `support::family`; all orders of a few stops, deaths and faults.

use std::time::Duration;

use nix::sys::signal::Signal;
use tfwrap::supervise::{ChildStatus, Policy, Reach, StopSignal, Watch};

use crate::family::{Family, Input, Kind};
use crate::search::Explored;

#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) kinds: Vec<Kind>,
    pub(crate) policy: Policy,
    pub(crate) stops: u8,
    /// Half seconds that may pass with nothing due.
    pub(crate) waits: u8,
    /// Of a Terraform, by a script that goes on.
    pub(crate) starts: u8,
    /// Losses, freezes, and those who stop the child with SIGSTOP.
    pub(crate) faults: u8,
    /// What is left of a group is interrupted again.
    pub(crate) again: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Group {
    family: Family,
    stops: u8,
    starts: u8,
    faults: u8,
    /// Half seconds that may pass with nothing due.
    waits: u8,
}

const HALF: Duration = Duration::from_millis(500);

const STOPS: [Input; 6] = [
    Input::Stop(StopSignal::Terminate, Reach::UsOnly),
    Input::Stop(StopSignal::Interrupt, Reach::Relayed),
    Input::Stop(StopSignal::Hangup, Reach::UsOnly),
    Input::Stop(StopSignal::Quit, Reach::UsOnly),
    Input::Sent { signal: StopSignal::Terminate, to_child: true, child_first: true },
    Input::Sent { signal: StopSignal::Terminate, to_child: true, child_first: false },
];

/// Another Terraform, which a script starts.
const STARTS: [Input; 2] = [Input::Late(StopSignal::Terminate), Input::Starts];

const FAULTS: [Input; 6] = [
    Input::Suspend(Watch::Shell),
    Input::Suspend(Watch::Nobody),
    Input::MustStop,
    Input::MustKill,
    Input::Freeze,
    Input::Stops(Signal::SIGSTOP, Watch::Nobody),
];

impl Explored for Group {
    type Config = Config;
    type Action = Input;

    fn new(config: &Config) -> Result<Self, String> {
        let family = Family::new(&config.kinds, config.policy, config.again);
        Ok(Self {
            family,
            stops: config.stops,
            starts: config.starts,
            faults: config.faults,
            waits: config.waits,
        })
    }

    fn actions(&self, _: &Config) -> Vec<Input> {
        if self.is_over() {
            return Vec::new();
        }
        let mut actions = Vec::new();
        for index in self.family.living() {
            actions.push(Input::Ends(index, ChildStatus::Exited(1)));
            actions.push(Input::Ends(index, ChildStatus::Signaled(Signal::SIGINT as i32)));
        }
        if self.stops > 0 {
            actions.extend(STOPS);
        }
        if self.starts > 0 {
            actions.extend(STARTS);
        }
        if self.faults > 0 {
            actions.extend(FAULTS);
        }
        if self.family.is_frozen() {
            actions.push(Input::Thaw);
        }
        if self.family.is_halted() {
            actions.extend([Input::Continues, Input::Resume]);
        }
        if self.waits > 0 {
            actions.push(Input::Passes(HALF));
        }
        if self.family.has_deadline() {
            actions.push(Input::Due);
        }
        actions
    }

    fn step(&mut self, _: &Config, action: Input) -> Result<(), String> {
        self.stops -= u8::from(STOPS.contains(&action));
        self.starts -= u8::from(STARTS.contains(&action));
        self.faults -= u8::from(FAULTS.contains(&action));
        self.waits -= u8::from(action == Input::Passes(HALF));
        self.family.step(action)
    }

    fn is_over(&self) -> bool {
        self.family.is_finished()
    }

    fn tell(&self, action: Input, after: &Self) -> Option<String> {
        Some(format!("{action:?} -> {:?} live", after.family.living()))
    }
}
