//! The commands below a `run` or a `hold`: how they come under its lock, take turns, and leave, and
//! what is left of them when they are killed; beside them somebody who waits for the lock.
//!
//! What the program does here is no machine but a few calls in a row (`run::inherit`, `run::door`,
//! `run::release`), so these are told here once more: a place inside is a lock on an open file
//! description, which runner, guardian and child share. All orders of their steps are visited; there
//! is no time in it.
//!
//! What must hold: no two commands' children are at work at once; none while the lock is not the
//! holder's; none that was told to stop before its start; none is interrupted twice; all ends.

use crate::client::Checked;
use crate::search::Explored;

/// A rule broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// The turn, and with it the place inside, ends with the runner: its child has no part in it.
    TurnEndsWithRunner,
    /// No door is closed behind the last: the holder looks for receipts, and a command writes its
    /// own after the look at the lock that counts.
    ReceiptAfterLook,
    /// Its guardian does not know that its child was interrupted.
    GuardianForgets,
}

/// One world.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// How many commands there are, and which of them have others below them: these take no turn.
    pub(crate) commands: Vec<bool>,
    pub(crate) kills: u8,
    pub(crate) stops: u8,
    pub(crate) mutation: Option<Mutation>,
}

/// One step of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// A command's runner goes on.
    Runner(usize),
    /// The guardian of one that was killed does.
    Guardian(usize),
    /// A child ends.
    Ends(usize),
    Stop(usize),
    KillRunner(usize),
    KillGuardian(usize),
    /// The holder is told to give the lock back, or killed: then its guardian does it.
    Release,
    /// It tries to close the door, and then gives the lock back.
    Holder,
    /// Somebody else takes the lock, and gives it back.
    Stranger,
}

/// What is in the lock's register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Register {
    Holders,
    Free,
    Strangers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Holder {
    Holds,
    Leaves,
    Closed,
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    /// It has seen that the lock is held for it.
    Outside,
    Inside,
    /// Its receipt is written.
    Named,
    /// The lock was looked at once more.
    Ready,
    Running,
    /// Its child is gone.
    Done,
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Child {
    lives: bool,
    interrupted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each can be so without the others")]
struct Command {
    has_others: bool,
    step: Step,
    runner: bool,
    guardian: bool,
    child: Option<Child>,
    /// The locks of its description.
    turn: bool,
    inside: bool,
    stopped: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Nest {
    register: Register,
    holder: Holder,
    stranger_is_over: bool,
    commands: Vec<Command>,
    kills: u8,
    stops: u8,
}

impl Command {
    fn child_lives(&self) -> bool {
        self.child.is_some_and(|child| child.lives)
    }

    fn leave(&mut self) {
        (self.turn, self.inside) = (false, false);
    }

    /// The kernel ends its locks with the last that has the description open.
    fn closes(&mut self, mutation: Option<Mutation>) {
        let shared = mutation != Some(Mutation::TurnEndsWithRunner);
        if !(self.runner || shared && (self.guardian || self.child_lives())) {
            self.leave();
        }
    }

    fn interrupt(&mut self) -> Checked {
        let Some(child) = self.child.as_mut().filter(|child| child.lives) else { return Ok(()) };
        if std::mem::replace(&mut child.interrupted, true) {
            return Err("a child is interrupted twice".to_owned());
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.step == Step::Over || (!self.runner && !self.guardian && !self.child_lives())
    }
}

impl Nest {
    /// Whether the runner would only wait.
    fn waits(&self, command: &Command, config: &Config) -> bool {
        let before_entry = match config.mutation {
            Some(Mutation::ReceiptAfterLook) => command.step == Step::Ready && !command.inside,
            _ => command.step == Step::Outside,
        };
        match command.step {
            _ if before_entry => {
                !command.stopped && !self.may_enter(command, config) && !self.is_gone()
            }
            Step::Running => command.child_lives(),
            _ => false,
        }
    }

    /// Whether there is no door any more.
    fn is_gone(&self) -> bool {
        self.holder == Holder::Gone
    }

    fn may_enter(&self, command: &Command, config: &Config) -> bool {
        let in_use = self.commands.iter().any(|it| it.turn) && !command.has_others;
        let is_open = matches!(self.holder, Holder::Holds | Holder::Leaves);
        !in_use && (is_open || config.mutation == Some(Mutation::ReceiptAfterLook))
    }

    fn runner(&mut self, config: &Config, index: usize) {
        let late = config.mutation == Some(Mutation::ReceiptAfterLook);
        let may_enter = self.may_enter(&self.commands[index], config);
        let held = self.register == Register::Holders;
        let command = &mut self.commands[index];
        if command.stopped && command.child.is_none() {
            (command.step, command.guardian) = (Step::Over, false);
            command.leave();
            return;
        }
        let enter = |command: &mut Command, next| {
            // Without a door it is on its own.
            command.step = if may_enter { next } else { Step::Over };
            (command.inside, command.turn) = (may_enter, may_enter && !command.has_others);
        };
        match command.step {
            Step::Outside if late && held => command.step = Step::Ready,
            Step::Outside if late => command.step = Step::Over,
            Step::Outside => enter(command, Step::Inside),
            Step::Inside => command.step = Step::Named,
            Step::Named if held => command.step = Step::Ready,
            Step::Ready if late && !command.inside => enter(command, Step::Ready),
            Step::Ready => {
                command.step = Step::Running;
                command.child = Some(Child { lives: true, interrupted: false });
            }
            Step::Running => command.step = Step::Done,
            // Not held for us any more; or all is done.
            Step::Named | Step::Done | Step::Over => {
                command.step = Step::Over;
                command.leave();
            }
        }
        if command.step == Step::Over {
            command.guardian = false;
        }
    }

    fn guardian(&mut self, config: &Config, index: usize) -> Checked {
        let forgets = config.mutation == Some(Mutation::GuardianForgets);
        let command = &mut self.commands[index];
        let interrupted = command.child.is_some_and(|child| child.interrupted);
        if command.child_lives() {
            return if interrupted && !forgets { Ok(()) } else { command.interrupt() };
        }
        command.leave();
        (command.guardian, command.step) = (false, Step::Over);
        Ok(())
    }

    fn step_of_holder(&mut self) {
        self.holder = match self.holder {
            Holder::Leaves => Holder::Closed,
            Holder::Closed => {
                self.register = Register::Free;
                Holder::Gone
            }
            other => other,
        };
    }

    fn check(&self) -> Checked {
        let at_work: Vec<_> =
            (0..self.commands.len()).filter(|it| self.commands[*it].child_lives()).collect();
        let alone = at_work.iter().filter(|it| !self.commands[**it].has_others);
        if alone.count() > 1 {
            return Err(format!("the children of {at_work:?} are at work at once"));
        }
        if !at_work.is_empty() && self.register != Register::Holders {
            return Err(format!("the children of {at_work:?} work under no lock"));
        }
        Ok(())
    }
}

impl Explored for Nest {
    type Config = Config;
    type Action = Action;

    fn new(config: &Config) -> Result<Self, String> {
        let command = |has_others: &bool| Command {
            has_others: *has_others,
            step: Step::Outside,
            runner: true,
            guardian: true,
            child: None,
            turn: false,
            inside: false,
            stopped: false,
        };
        Ok(Self {
            register: Register::Holders,
            holder: Holder::Holds,
            stranger_is_over: false,
            commands: config.commands.iter().map(command).collect(),
            kills: config.kills,
            stops: config.stops,
        })
    }

    fn actions(&self, config: &Config) -> Vec<Action> {
        let mut actions = Vec::new();
        for (index, command) in self.commands.iter().enumerate() {
            if command.child_lives() {
                actions.push(Action::Ends(index));
            }
            if command.step == Step::Over {
                continue;
            }
            if command.runner {
                if !self.waits(command, config) {
                    actions.push(Action::Runner(index));
                }
                if self.stops > 0 && !command.stopped {
                    actions.push(Action::Stop(index));
                }
                if self.kills > 0 {
                    actions.push(Action::KillRunner(index));
                }
            } else if command.guardian {
                let waits = command.child.is_some_and(|it| it.lives && it.interrupted);
                if !waits || config.mutation == Some(Mutation::GuardianForgets) {
                    actions.push(Action::Guardian(index));
                }
                if self.kills > 0 {
                    actions.push(Action::KillGuardian(index));
                }
            }
        }
        let inside = self.commands.iter().any(|command| command.inside);
        match self.holder {
            Holder::Holds => actions.push(Action::Release),
            Holder::Leaves if inside => {}
            Holder::Leaves | Holder::Closed => actions.push(Action::Holder),
            Holder::Gone => {}
        }
        if self.register != Register::Holders && !self.stranger_is_over {
            actions.push(Action::Stranger);
        }
        actions
    }

    fn step(&mut self, config: &Config, action: Action) -> Checked {
        match action {
            Action::Runner(index) => self.runner(config, index),
            Action::Guardian(index) => self.guardian(config, index)?,
            Action::Ends(index) => {
                if let Some(child) = &mut self.commands[index].child {
                    child.lives = false;
                }
                self.commands[index].closes(config.mutation);
            }
            Action::Stop(index) => {
                self.stops -= 1;
                self.commands[index].stopped = true;
                self.commands[index].interrupt()?;
            }
            Action::KillRunner(index) => {
                self.kills -= 1;
                self.commands[index].runner = false;
                self.commands[index].closes(config.mutation);
            }
            Action::KillGuardian(index) => {
                self.kills -= 1;
                self.commands[index].guardian = false;
                self.commands[index].closes(config.mutation);
            }
            Action::Release => self.holder = Holder::Leaves,
            Action::Holder => self.step_of_holder(),
            Action::Stranger => {
                let is_over = self.register == Register::Strangers;
                self.register = if is_over { Register::Free } else { Register::Strangers };
                self.stranger_is_over |= is_over;
            }
        }
        self.check()
    }

    fn is_over(&self) -> bool {
        self.holder == Holder::Gone
            && self.stranger_is_over
            && self.commands.iter().all(Command::is_over)
    }

    fn tell(&self, action: Action, after: &Self) -> Option<String> {
        Some(format!("{action:?} -> {:?}, {:?}", after.holder, after.register))
    }
}
