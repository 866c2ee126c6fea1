//! A child and its group around the shipped [`Supervisor`] and [`Canary`]: who lives, who stands
//! still, and who has had an interrupt.
//!
//! An interrupt goes where `supervise::child` sends it: to each Terraform that has had none; where
//! there is none, to the group, once. Everything else is the machines' own.

use std::collections::VecDeque;
use std::time::Duration;

use nix::sys::signal::Signal;
use tfwrap::lock::Uptime;
use tfwrap::supervise::{
    Action, Canary, ChildStatus, ECHO, Event, Policy, Reach, Received, Rest, SecondSignal,
    SignalKind, SignalOrigin, StopSignal, Supervisor, Watch,
};

/// What one process of the group is; the first is the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Terraform,
    /// A wrapper, a script, what a provisioner has started.
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each can be so without the others")]
struct Process {
    kind: Kind,
    lives: bool,
    /// Interrupts of ours, and whether there was one of somebody else that we know of.
    ours: u8,
    others: bool,
    told: bool,
    /// It has started since the last stop, which is not for it.
    new: bool,
}

/// How many a script may have started.
const MOST_PROCESSES: usize = 5;

/// As in the machine.
const PASSES: Duration = Duration::from_secs(1);

const CHILD_TOO: Reach = Reach::ChildToo { by_parent: false };

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    Stop(StopSignal, Reach),
    /// One that the canary judges: whether it came to the child, too, and to it first.
    Sent {
        signal: StopSignal,
        to_child: bool,
        child_first: bool,
    },
    /// One that came to the child some seconds before it came to us, and meanwhile a script went on.
    Late(StopSignal),
    /// A script starts another Terraform.
    Starts,
    Suspend(Watch),
    Resume,
    Freeze,
    Thaw,
    MustStop,
    MustKill,
    Stops(Signal, Watch),
    Continues,
    Ends(usize, ChildStatus),
    /// Time passes; a tick, where one is due by then.
    Passes(Duration),
    /// The next deadline comes.
    Due,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each can be so without the others")]
pub(crate) struct Family {
    machine: Supervisor,
    canary: Canary,
    policy: Policy,
    now: Duration,
    processes: Vec<Process>,
    group_told: bool,
    status: Option<ChildStatus>,
    /// What is told next.
    reports: VecDeque<Event>,
    rest_has_terraform: bool,
    halted: bool,
    frozen: bool,
    resume_is_due: bool,
    /// Who would resume us, as of the last suspension.
    watch: Watch,
    /// It was asked to end; the first stop, and when; whether a second may be passed on.
    asked: bool,
    first: Option<(StopSignal, Duration)>,
    /// Whether the parent has passed one on.
    parent_told: bool,
    outer_told: bool,
    /// When those get it who have not had what came to the child.
    pass_on_at: Option<Duration>,
    second: bool,
    forwarded: bool,
    /// Something harder than an interrupt was sent.
    forced: bool,
    finished: bool,
    /// A rule broken on purpose: what is left of a group is interrupted again.
    again: bool,
}

pub(crate) type Checked = Result<(), String>;

impl Family {
    pub(crate) fn new(kinds: &[Kind], policy: Policy, again: bool) -> Self {
        let process = |kind: &Kind| Process {
            kind: *kind,
            lives: true,
            ours: 0,
            others: false,
            told: false,
            new: false,
        };
        Self {
            machine: Supervisor::new(policy),
            canary: Canary::default(),
            policy,
            now: Duration::from_secs(100),
            processes: kinds.iter().map(process).collect(),
            group_told: false,
            status: None,
            reports: VecDeque::new(),
            rest_has_terraform: false,
            halted: false,
            frozen: false,
            resume_is_due: false,
            watch: Watch::Shell,
            asked: false,
            first: None,
            parent_told: false,
            outer_told: false,
            pass_on_at: None,
            second: false,
            forwarded: false,
            forced: false,
            finished: false,
            again,
        }
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    pub(crate) fn living(&self) -> Vec<usize> {
        (0..self.processes.len()).filter(|index| self.processes[*index].lives).collect()
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Whether it stands still though it need not.
    pub(crate) fn is_halted(&self) -> bool {
        self.halted && !self.frozen && self.processes[0].lives
    }

    pub(crate) fn has_deadline(&self) -> bool {
        self.machine.deadline().is_some()
    }

    /// Takes one input, and whatever follows from it.
    pub(crate) fn step(&mut self, input: Input) -> Checked {
        match input {
            Input::Stop(signal, reach) => {
                if matches!(reach, Reach::ChildToo { .. }) {
                    self.have_it_already();
                }
                self.stop((signal, Duration::ZERO), reach)?;
            }
            Input::Sent { signal, to_child, child_first } => {
                self.judge(signal, to_child, child_first)?;
            }
            Input::Late(signal) => self.late(signal)?,
            Input::Starts => self.start(),
            Input::Suspend(watch) => {
                self.watch = watch;
                self.feed(Event::Suspend(watch))?;
            }
            Input::Resume => self.resume_is_due = true,
            Input::Freeze => {
                self.frozen = true;
                self.feed(Event::Freeze)?;
            }
            Input::Thaw => {
                self.frozen = false;
                self.feed(Event::Thaw)?;
            }
            Input::MustStop | Input::MustKill => {
                self.asked |= !self.living().is_empty();
                let kill = input == Input::MustKill;
                self.feed(if kill { Event::MustKill } else { Event::MustStop })?;
            }
            Input::Stops(signal, watch) if self.processes[0].lives && !self.halted => {
                self.halted = true;
                self.reports.push_back(Event::ChildStopped(signal, watch));
            }
            Input::Continues if self.processes[0].lives && self.halted && !self.frozen => {
                self.halted = false;
                self.reports.push_back(Event::ChildContinued);
            }
            Input::Stops(..) | Input::Continues => {}
            Input::Ends(index, status) => self.end(index, status),
            Input::Passes(lasts) => {
                // Told late of what is over.
                self.now += lasts;
                self.wait_until(self.now)?;
            }
            Input::Due => {
                self.now = self.now.max(self.machine.deadline().map_or(self.now, |at| at.0));
                self.feed(Event::Tick)?;
            }
        }
        self.settle()?;
        self.check()
    }

    /// Time passes, and the machine is told whenever it asks for that.
    fn wait_until(&mut self, at: Duration) -> Checked {
        for _ in 0..1000 {
            let due = self.machine.deadline().map(|due| due.0.max(self.now));
            let Some(due) = due.filter(|due| *due <= at) else {
                self.now = at;
                return Ok(());
            };
            self.now = due;
            self.feed(Event::Tick)?;
            self.settle()?;
        }
        Err("it asks again and again for what is over".to_owned())
    }

    fn settle(&mut self) -> Checked {
        for _ in 0..100 {
            if let Some(event) = self.reports.pop_front() {
                self.feed(event)?;
            } else if self.resume_is_due && !self.frozen {
                self.resume_is_due = false;
                self.feed(Event::Resume)?;
            } else {
                return Ok(());
            }
        }
        Err("it never comes to rest".to_owned())
    }

    fn check(&self) -> Checked {
        if self.finished || !self.asked || self.forced {
            return Ok(());
        }
        let is_late = self.pass_on_at.is_some_and(|at| self.now >= at);
        if is_late && self.processes.iter().any(|it| it.lives && it.new && !it.told) {
            return Err("what came to the child alone is not passed on".to_owned());
        }
        let silent = |it: &Process| it.ours == 0 && !it.others;
        let is_deaf =
            |it: &Process| it.lives && it.kind == Kind::Terraform && silent(it) && !it.new;
        let child_lives = self.processes[0].lives;
        if self.processes.iter().any(is_deaf) || (child_lives && self.processes.iter().all(silent))
        {
            return Err("a stop is lost: nobody was interrupted".to_owned());
        }
        if child_lives && self.halted && !self.frozen {
            return Err("what is to end stands still".to_owned());
        }
        Ok(())
    }

    fn judge(&mut self, signal: StopSignal, to_child: bool, child_first: bool) -> Checked {
        let received = Received {
            kind: SignalKind::Stop(signal),
            origin: SignalOrigin::Sent { by_tfwrap: false, by_parent: false },
        };
        if to_child && child_first {
            self.overheard(signal)?;
        }
        let at_once = self.canary.ours(Uptime(self.now), received, true);
        if to_child && !child_first {
            self.wait_until(self.now + Duration::from_millis(50))?;
            self.overheard(signal)?;
        }
        if at_once.is_none() {
            self.wait_until(self.canary.deadline().map_or(self.now, |at| at.0))?;
        }
        let judged = at_once.or_else(|| self.canary.due(Uptime(self.now), || false));
        let judged = judged.ok_or("a signal is lost in the canary")?;
        if judged.child_too != to_child {
            return Err(format!("the canary takes {to_child} for {}", judged.child_too));
        }
        if to_child {
            self.have_it_already();
        }
        self.stop((signal, judged.waited), if to_child { CHILD_TOO } else { Reach::UsOnly })
    }

    fn late(&mut self, signal: StopSignal) -> Checked {
        self.overheard(signal)?;
        self.start();
        self.wait_until(self.now + Duration::from_secs(5))?;
        let received = Received {
            kind: SignalKind::Stop(signal),
            origin: SignalOrigin::Sent { by_tfwrap: false, by_parent: false },
        };
        let judged = self.canary.ours(Uptime(self.now), received, true);
        if judged.is_none_or(|judged| !judged.child_too) {
            return Err("the canary has forgotten what came to the child".to_owned());
        }
        self.stop((signal, Duration::ZERO), CHILD_TOO)
    }

    fn start(&mut self) {
        let is_script = self.processes[0].lives && self.processes[0].kind == Kind::Other;
        if is_script && self.processes.len() < MOST_PROCESSES {
            let kind = Kind::Terraform;
            let process =
                Process { kind, lives: true, ours: 0, others: false, told: false, new: true };
            self.processes.push(process);
        }
    }

    fn overheard(&mut self, signal: StopSignal) -> Checked {
        if signal != StopSignal::Quit {
            self.have_it_already();
        }
        self.canary.its(Uptime(self.now));
        self.feed(Event::Overheard(signal))
    }

    /// Somebody else has told all of them.
    fn have_it_already(&mut self) {
        self.group_told |= self.has_terraform();
        for process in self.processes.iter_mut().filter(|it| it.lives) {
            process.others = true;
            process.told |= process.kind == Kind::Terraform;
        }
    }

    fn stop(&mut self, (signal, waited): (StopSignal, Duration), reach: Reach) -> Checked {
        if !self.living().is_empty() {
            self.asked = true;
            let is_the_first = self.first.is_none();
            let (first, at) = *self.first.get_or_insert((signal, self.now + ECHO));
            let told_before = self.parent_told;
            self.parent_told |=
                matches!(reach, Reach::ByParent | Reach::ChildToo { by_parent: true });
            let outer_before = self.outer_told;
            let comes = self.now.saturating_sub(waited);
            let equal = (signal == first || signal != StopSignal::Quit) && comes < at;
            let is_echo = !is_the_first && equal;
            self.outer_told |=
                reach == Reach::Relayed || (reach == Reach::PerhapsRelayed && !is_echo);
            let passed_on = match reach {
                Reach::ByParent => {
                    !told_before && (signal == first || outer_before && signal != StopSignal::Quit)
                }
                Reach::Relayed | Reach::PerhapsRelayed => {
                    !is_the_first && !outer_before && signal != StopSignal::Quit
                }
                Reach::UsOnly | Reach::ChildToo { .. } => false,
            };
            let is_first = at == self.now + ECHO && signal == first;
            let same = is_first || equal || passed_on;
            self.second |= !same && signal != StopSignal::Hangup;
            let counts = (is_the_first || !equal) && signal != StopSignal::Quit;
            // Whoever lives is to hear of this one: at once, or when a sweep has passed.
            match reach {
                Reach::ChildToo { .. }
                    if counts && (is_the_first || signal != StopSignal::Hangup) =>
                {
                    self.pass_on_at = Some(self.now + PASSES);
                }
                _ if counts => self.processes.iter_mut().for_each(|it| it.new = false),
                _ => {}
            }
        }
        self.feed(Event::Stop(signal, reach, waited))
    }

    fn has_terraform(&self) -> bool {
        self.processes.iter().any(|it| it.lives && it.kind == Kind::Terraform)
    }

    fn end(&mut self, index: usize, status: ChildStatus) {
        let Some(process) = self.processes.get_mut(index).filter(|it| it.lives) else { return };
        process.lives = false;
        let (told, kind) = (process.told, process.kind);
        let (has_terraform, is_empty) = (self.has_terraform(), self.living().is_empty());
        if index == 0 {
            let rest = match (is_empty, has_terraform) {
                (true, _) => Rest::Gone,
                (_, true) => Rest::Terraform,
                _ => Rest::Others,
            };
            self.rest_has_terraform = rest == Rest::Terraform;
            self.status = Some(status);
            self.reports.push_back(Event::ChildExited { status, rest });
        } else if self.status.is_none() {
            if told && kind == Kind::Terraform {
                self.reports.push_back(Event::TerraformGone);
            }
        } else if is_empty {
            self.reports.push_back(Event::GroupGone);
        } else if !has_terraform && std::mem::take(&mut self.rest_has_terraform) {
            self.reports.push_back(Event::TerraformGone);
        }
    }

    fn feed(&mut self, event: Event) -> Checked {
        for action in self.machine.step(Uptime(self.now), event) {
            if self.finished {
                return Err(format!("{action:?} after the end"));
            }
            self.apply(action)?;
        }
        Ok(())
    }

    fn apply(&mut self, action: Action) -> Checked {
        match action {
            Action::Interrupt => self.interrupt(false)?,
            Action::ForwardSecond => {
                let allowed = self.policy.second_signal == SecondSignal::Forward && self.second;
                if !allowed || std::mem::replace(&mut self.forwarded, true) {
                    return Err("a second interrupt that nobody asked for".to_owned());
                }
                self.interrupt(true)?;
            }
            Action::Quit => self.forced = true,
            Action::KillRest if self.has_terraform() => {}
            Action::Kill | Action::KillRest => self.kill(),
            Action::StopGroup if self.halted => {}
            Action::StopGroup => {
                self.halted = true;
                self.reports.push_back(Event::ChildStopped(Signal::SIGTSTP, self.watch));
            }
            Action::SuspendSelf | Action::SuspendJob(_) => self.resume_is_due = true,
            Action::ContinueStopped if !self.halted => {}
            Action::ContinueGroup | Action::ContinueStopped | Action::Thaw { goes_on: true } => {
                if self.frozen {
                    return Err(format!("{action:?} while it must stand still"));
                }
                if std::mem::take(&mut self.halted) && self.processes[0].lives {
                    self.reports.push_back(Event::ChildContinued);
                }
            }
            Action::AwaitRest if !self.has_terraform() => {
                return Err("it waits for a Terraform that is gone".to_owned());
            }
            Action::Freeze => self.halted = true,
            Action::InterruptNew | Action::Withhold(_) => self.interrupt_new()?,
            Action::AwaitRest | Action::Thaw { goes_on: false } | Action::PassOn(_) => {}
            Action::Finished { .. } => {
                self.finished = true;
                let by_itself = !self.asked && matches!(self.status, Some(ChildStatus::Exited(_)));
                if self.processes[0].lives || !(by_itself || self.living().is_empty()) {
                    return Err(format!("it is over while {:?} live", self.living()));
                }
            }
        }
        Ok(())
    }

    fn kill(&mut self) {
        self.forced = true;
        for index in (0..self.processes.len()).rev() {
            self.end(index, ChildStatus::Signaled(Signal::SIGKILL as i32));
        }
    }

    fn interrupt(&mut self, second: bool) -> Checked {
        let has_terraform = self.has_terraform();
        let whole_group = !has_terraform && (second || self.again || !self.group_told);
        self.group_told |= whole_group;
        let most = if second || self.forwarded { 2 } else { 1 };
        for process in self.processes.iter_mut().filter(|it| it.lives) {
            let to_it = has_terraform && process.kind == Kind::Terraform;
            if !(whole_group || to_it && (second || !process.told)) {
                continue;
            }
            process.told = true;
            process.ours += 1;
            let all = process.ours + u8::from(process.others && process.kind == Kind::Terraform);
            if process.ours > most || (all > 1 && !second) {
                return Err(format!("a {:?} is interrupted again", process.kind));
            }
        }
        Ok(())
    }

    fn interrupt_new(&mut self) -> Checked {
        self.pass_on_at = None;
        self.processes.iter_mut().for_each(|it| it.new = false);
        let is_new = |it: &&mut Process| it.lives && it.kind == Kind::Terraform && !it.told;
        for process in self.processes.iter_mut().filter(is_new) {
            process.told = true;
            process.ours += 1;
            if process.ours > 1 || process.others {
                return Err("one that has had its interrupt gets another".to_owned());
            }
        }
        Ok(())
    }
}
