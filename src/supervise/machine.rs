//! The decisions: which signal the child gets, and when all of it is gone.
//!
//! Its rules: `docs/protocol.md#signals`.

mod events;
#[cfg(test)]
mod tests;

pub use events::{Action, Event, Rest, StopCause, Watch};

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{ChildStatus, Policy, Reach, SecondSignal, StopSignal};
use crate::lock::Uptime;
pub use crate::lock::lease::SETTLE;

/// How long what is left of the group after a stopped child's end may take to end by itself.
///
/// With [`SETTLE`] it fits what GitHub leaves between its first signal and its last (7.5 s + 2.5 s)
/// whenever the child itself is quick.
pub const GROUP_GRACE: Duration = Duration::from_secs(3);

/// For how long after the first stop another one is the same, whatever it is called:
///
/// - `timeout` signals the process, and then its group;
/// - of a terminal that is closed, a shell and the kernel both tell;
/// - a shell sends SIGTERM then to a job that was stopped;
/// - an outer tfwrap makes an INT of the TERM that everybody got, and so may a script.
pub const ECHO: Duration = Duration::from_secs(1);

/// How long whoever signals one process after the other may take from us to the last of those below.
const PASSES: Duration = Duration::from_secs(1);

/// How long a wrapper may take to end by itself, after the Terraform that was interrupted below it.
const REST_AFTER: Duration = Duration::from_millis(500);

/// For how long a Terraform that has outlived the child is waited for in silence.
const AWAIT_REST: Duration = Duration::from_secs(3);

/// How often a child that stops again and again while it is to end is continued at once; then every
/// [`CONTINUE`], which leaves the processor to others.
const CONTINUES: u16 = 1000;
const CONTINUE: Duration = Duration::from_millis(20);

/// Where the child is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Running,
    /// The child is gone, others of its group are not.
    Ending(ChildStatus),
    /// All are gone, but a request may be in flight.
    Settling(ChildStatus, Uptime),
    Finished,
}

/// How hard the child was pressed. Whatever is above none may have cut it off in the middle of a
/// request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Force {
    None,
    /// A second interrupt, a SIGQUIT, or somebody else's SIGKILL.
    Hurried,
    /// Our SIGKILL.
    Killed,
}

/// Decides what the child gets. Pure: the same events at the same times give the same actions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each can be so without the others")]
pub struct Supervisor {
    policy: Policy,
    phase: Phase,
    /// Why the child was asked to end; set once.
    stopped_by: Option<StopCause>,
    /// Stops from outside: none, one, two, more.
    stops: u8,
    /// The first of them, and when it came.
    first: Option<(StopSignal, Uptime)>,
    /// Whether our parent has told us of a stop, and whether an outer tfwrap has.
    parent_has_told: bool,
    outer_has_told: bool,
    /// Whether the child has had an interrupt, from whomever: its next one is the second.
    interrupted: bool,
    /// When the group is killed.
    kill_at: Option<Uptime>,
    /// When what is left of it is killed.
    kill_rest_at: Option<Uptime>,
    /// When it is said whose end is waited for.
    await_rest_at: Option<Uptime>,
    /// When those hear of a stop, which the child has had from elsewhere, who have not.
    pass_on_at: Option<Uptime>,
    /// When those hear of the stop who go on after their Terraform has ended.
    interrupt_rest_at: Option<Uptime>,
    /// When a child that stops again and again is continued, and how often it was.
    continue_at: Option<Uptime>,
    continues: u16,
    force: Force,
    child_is_stopped: bool,
    frozen: bool,
    suspend_asked: bool,
}

impl Supervisor {
    /// Begins with a child that has just started.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            phase: Phase::Running,
            stopped_by: None,
            stops: 0,
            first: None,
            parent_has_told: false,
            outer_has_told: false,
            pass_on_at: None,
            interrupted: false,
            kill_at: None,
            kill_rest_at: None,
            await_rest_at: None,
            interrupt_rest_at: None,
            continue_at: None,
            continues: 0,
            force: Force::None,
            child_is_stopped: false,
            frozen: false,
            suspend_asked: false,
        }
    }

    /// When [`Event::Tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Uptime> {
        match self.phase {
            Phase::Running => {
                let waits = [self.continue_at, self.interrupt_rest_at, self.pass_on_at];
                waits.into_iter().chain([self.kill_at]).flatten().min()
            }
            Phase::Ending(_) => {
                let waits = [self.kill_rest_at, self.await_rest_at, self.pass_on_at];
                waits.into_iter().chain([self.kill_at]).flatten().min()
            }
            Phase::Settling(_, until) => Some(until),
            Phase::Finished => None,
        }
    }

    /// Takes one event and says what follows, in order.
    #[must_use]
    pub fn step(&mut self, now: Uptime, event: Event) -> Vec<Action> {
        match (self.phase, event) {
            (Phase::Settling(status, until), Event::Tick) if now >= until => self.finish(status),
            // Nothing is left that a signal could reach.
            (Phase::Settling(..) | Phase::Finished, _) => Vec::new(),

            (_, Event::Stop(signal, reach, waited)) => self.stop(now, (signal, waited), reach),
            (_, Event::Overheard(signal)) => {
                // Go ends a program on SIGQUIT where it stands, and Terraform itself at its second
                // interrupt.
                if signal == StopSignal::Quit || self.interrupted {
                    self.hurried();
                }
                self.interrupted = true;
                // It came to whoever stood still there, and nobody may be able to resume them.
                if self.frozen { Vec::new() } else { vec![Action::ContinueStopped] }
            }
            (_, Event::MustStop) if self.stopped_by.is_none() => {
                self.first_stop(now, StopCause::Order, Some(Action::Interrupt))
            }
            (_, Event::MustKill) => {
                self.stopped_by.get_or_insert(StopCause::Order);
                self.kill(now)
            }
            (_, Event::Freeze) => {
                self.frozen = true;
                vec![Action::Freeze]
            }
            (_, Event::Thaw) => {
                let was_frozen = std::mem::take(&mut self.frozen);
                match (self.child_is_stopped, self.stopped_by) {
                    _ if !was_frozen => Vec::new(),
                    (false, _) => vec![Action::Thaw { goes_on: true }],
                    // It was asked to end meanwhile, and is to hear of it.
                    (true, Some(_)) => vec![Action::Thaw { goes_on: true }, Action::ContinueGroup],
                    // What the user stopped stays so.
                    (true, None) => vec![Action::Thaw { goes_on: false }],
                }
            }
            (_, Event::Tick) if self.kill_at.is_some_and(|at| now >= at) => self.kill(now),
            (_, Event::Tick) if self.pass_on_at.is_some_and(|at| now >= at) => {
                self.pass_on_at = None;
                if self.force < Force::Killed { vec![Action::InterruptNew] } else { Vec::new() }
            }
            (Phase::Ending(_), Event::Tick) if self.kill_rest_at.is_some_and(|at| now >= at) => {
                self.force = Force::Killed;
                self.kill_rest_at = Some(now.plus(GROUP_GRACE));
                vec![Action::KillRest]
            }
            (Phase::Ending(_), Event::Tick) if self.await_rest_at.is_some_and(|at| now >= at) => {
                self.await_rest_at = None;
                vec![Action::AwaitRest]
            }
            (Phase::Running, Event::Tick) if self.interrupt_rest_at.is_some_and(|at| now >= at) => {
                self.interrupt_rest_at = None;
                if self.force < Force::Killed { vec![Action::Interrupt] } else { Vec::new() }
            }
            (Phase::Running, Event::Tick) if self.continue_at.is_some_and(|at| now >= at) => {
                self.continue_at = None;
                vec![Action::ContinueGroup]
            }
            (_, Event::MustStop | Event::Tick) => Vec::new(),

            (Phase::Running, event) => self.while_running(now, event),
            (Phase::Ending(status), Event::GroupGone) => self.group_gone(now, status),
            (Phase::Ending(status), Event::TerraformGone) if self.is_of_own_accord(status) => {
                self.group_gone(now, status)
            }
            (Phase::Ending(_), Event::TerraformGone) => self.end_the_rest(now),
            // The rest of the group is on its way out: only its end is of interest.
            (Phase::Ending(_), _) => Vec::new(),
        }
    }

    fn while_running(&mut self, now: Uptime, event: Event) -> Vec<Action> {
        match event {
            Event::ChildExited { status, rest } => self.child_exited(now, status, rest),
            Event::ChildStopped(signal, watch) => self.suspended(now, signal, watch),
            Event::ChildContinued => {
                self.child_is_stopped = false;
                Vec::new()
            }
            Event::Suspend(Watch::Orphaned) => Vec::new(),
            // It is to end, and could not.
            Event::Suspend(Watch::Nobody) if self.stopped_by.is_some() => Vec::new(),
            Event::Suspend(watch) => {
                self.suspend_asked = true;
                if self.child_is_stopped {
                    self.suspended(now, Signal::SIGTSTP, watch)
                } else {
                    vec![Action::StopGroup]
                }
            }
            Event::Resume => {
                let was_asked = std::mem::take(&mut self.suspend_asked);
                // Told twice of one, it must not undo what has stopped the child since.
                if self.frozen || !(was_asked || self.child_is_stopped) {
                    return Vec::new();
                }
                self.child_is_stopped = false;
                vec![Action::ContinueGroup]
            }
            Event::Pass(signal) => vec![Action::PassOn(signal)],
            // A script goes on with its next command: it has not heard of the stop yet.
            Event::TerraformGone if self.stopped_by.is_some() => {
                self.interrupt_rest_at = Some(now.plus(REST_AFTER));
                Vec::new()
            }
            // Told before; or by a child that has not ended.
            Event::TerraformGone
            | Event::Stop(..)
            | Event::Overheard(_)
            | Event::MustStop
            | Event::MustKill
            | Event::Freeze
            | Event::Thaw
            | Event::Tick
            | Event::GroupGone => Vec::new(),
        }
    }

    fn stop(
        &mut self,
        now: Uptime,
        (signal, waited): (StopSignal, Duration),
        reach: Reach,
    ) -> Vec<Action> {
        // Whoever passes a stop on may call it otherwise, and of signals that wait together the one with
        // the lowest number is read first, not the one that came first. But nobody makes a QUIT of
        // another: it asks for more.
        let asks_for_more = |first| signal == StopSignal::Quit && first != StopSignal::Quit;
        // Terragrunt passes on after 15 s what it got together with us.
        let (told_before, outer_told_before) = (self.parent_has_told, self.outer_has_told);
        let is_echo = |(first, at): (StopSignal, Uptime)| {
            now.since(at) < ECHO + waited && !asks_for_more(first)
        };
        let is_echo = self.first.is_some_and(is_echo);
        // At once it may be anybody's, and what an outer tfwrap passes on is still to come.
        self.outer_has_told |=
            reach == Reach::Relayed || (reach == Reach::PerhapsRelayed && !is_echo);
        let (reached, by_parent) = match reach {
            Reach::ChildToo { by_parent } => (true, by_parent),
            Reach::UsOnly | Reach::Relayed | Reach::PerhapsRelayed => (false, false),
            Reach::ByParent => (false, true),
        };
        self.parent_has_told |= by_parent;
        if is_echo {
            return Vec::new();
        }
        if let Some((first, _)) = self.first {
            // An outer tfwrap passes on what may have come to all of us. Whether it did, it does not know.
            let may_be_renamed = outer_told_before && signal != StopSignal::Quit;
            let is_passed_on = match reach {
                // It makes an INT of whatever it got, and our parent may have got that, too.
                Reach::ByParent => !told_before && (signal == first || may_be_renamed),
                Reach::Relayed | Reach::PerhapsRelayed => {
                    !outer_told_before && signal != StopSignal::Quit
                }
                Reach::UsOnly | Reach::ChildToo { .. } => false,
            };
            if is_passed_on || signal == StopSignal::Hangup {
                return vec![Action::InterruptNew];
            }
        }
        self.stops = self.stops.saturating_add(1);
        self.first.get_or_insert((signal, now));
        if reached && signal != StopSignal::Quit {
            // It may have come to the child seconds ago, and a script has started another Terraform since. And
            // whoever signals one after the other may be on the way to those below still.
            self.pass_on_at = Some(now.plus(PASSES));
        }
        if self.stopped_by.is_none() {
            // Go ends a program on SIGQUIT where it stands.
            let action = match signal {
                StopSignal::Quit => {
                    self.hurried();
                    Action::Quit
                }
                StopSignal::Interrupt | StopSignal::Terminate | StopSignal::Hangup => {
                    Action::Interrupt
                }
            };
            return self.first_stop(now, StopCause::Signal(signal), (!reached).then_some(action));
        }
        // The first from outside is no second one even if the child was interrupted already, by
        // our own order: who sent it wants the child to end, and that it does.
        if reached {
            return Vec::new();
        }
        if self.stops == 2 && self.policy.second_signal == SecondSignal::Forward {
            self.hurried();
            let action =
                if signal == StopSignal::Quit { Action::Quit } else { Action::ForwardSecond };
            return vec![action];
        }
        vec![Action::Withhold(signal)]
    }

    fn first_stop(&mut self, now: Uptime, cause: StopCause, action: Option<Action>) -> Vec<Action> {
        self.stopped_by = Some(cause);
        self.interrupted |= action.is_some();
        if self.force < Force::Killed {
            self.kill_at = self.policy.grace.map(|grace| now.plus(grace));
        }
        // A stopped child could neither end nor save its state; a frozen one must not yet.
        let go_on = match action {
            _ if self.frozen => None,
            _ if self.child_is_stopped => Some(Action::ContinueGroup),
            // With an interrupt of ours that is seen to.
            Some(_) => None,
            None => Some(Action::ContinueStopped),
        };
        action.into_iter().chain(go_on).collect()
    }

    fn kill(&mut self, now: Uptime) -> Vec<Action> {
        self.force = Force::Killed;
        self.kill_at = Some(now.plus(GROUP_GRACE));
        vec![Action::Kill]
    }

    fn hurried(&mut self) {
        self.force = self.force.max(Force::Hurried);
    }

    fn suspended(&mut self, now: Uptime, signal: Signal, watch: Watch) -> Vec<Action> {
        if self.frozen && signal == Signal::SIGSTOP {
            return Vec::new();
        }
        if signal == Signal::SIGTSTP && watch == Watch::Orphaned {
            // As if it had not come; of a frozen one, its thaw takes care.
            (self.child_is_stopped, self.suspend_asked) = (false, false);
            return if self.frozen { Vec::new() } else { self.go_on(now) };
        }
        self.child_is_stopped = true;
        let by_job_control = matches!(signal, Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU);
        if self.suspend_asked && watch == Watch::Shell {
            vec![Action::SuspendSelf]
        } else if self.is_to_end(watch) && !self.frozen {
            // It is to end, and must hear of it, though it reads a terminal that is not its own.
            self.go_on(now)
        } else if by_job_control && watch == Watch::Shell {
            vec![Action::SuspendJob(signal)]
        } else {
            // Whoever stopped it, it is between them and the child: nobody would wake us again.
            Vec::new()
        }
    }

    /// By what we were told, or by what it was told itself where no shell resumes it.
    fn is_to_end(&self, watch: Watch) -> bool {
        self.stopped_by.is_some() || (self.interrupted && watch != Watch::Shell)
    }

    fn go_on(&mut self, now: Uptime) -> Vec<Action> {
        if self.continues == CONTINUES {
            self.continue_at = Some(now.plus(CONTINUE));
            return Vec::new();
        }
        self.continues += 1;
        vec![Action::ContinueGroup]
    }

    fn child_exited(&mut self, now: Uptime, status: ChildStatus, rest: Rest) -> Vec<Action> {
        // Killed by whomever, for instance for want of memory.
        if status == ChildStatus::Signaled(Signal::SIGKILL as i32) {
            self.hurried();
        }
        // What a provisioner left running it left on purpose, as with bare Terraform; not so a wrapper
        // that has failed its Terraform.
        let is_left = self.is_of_own_accord(status) && rest != Rest::OwnTerraform;
        if rest == Rest::Gone || is_left {
            return self.group_gone(now, status);
        }
        self.phase = Phase::Ending(status);
        let has_terraform = rest != Rest::Others;
        self.await_rest_at = has_terraform.then(|| now.plus(AWAIT_REST));
        match (has_terraform, self.stopped_by) {
            // A wrapper that a signal ended: whoever sent that has told its Terraform, or has not
            // meant it.
            (true, None) => Vec::new(),
            // Nor is it known yet who of them has had it.
            (true, Some(_)) if self.pass_on_at.is_some() => Vec::new(),
            (true, Some(_)) => {
                if self.force < Force::Killed {
                    vec![Action::Interrupt]
                } else {
                    Vec::new()
                }
            }
            _ => self.end_the_rest(now),
        }
    }

    /// Whether nothing has asked it to end: a key or a signal that came to its group alone is a stop for
    /// whoever is in it, too.
    fn is_of_own_accord(&self, status: ChildStatus) -> bool {
        let is_stopped = self.stopped_by.is_some() || self.interrupted;
        !is_stopped && matches!(status, ChildStatus::Exited(_))
    }

    fn end_the_rest(&mut self, now: Uptime) -> Vec<Action> {
        self.kill_rest_at.get_or_insert(now.plus(GROUP_GRACE));
        self.await_rest_at = None;
        let have_it_already = self.interrupted && self.stopped_by.is_none();
        if self.force == Force::Killed || have_it_already {
            return Vec::new();
        }
        vec![Action::Interrupt]
    }

    fn group_gone(&mut self, now: Uptime, status: ChildStatus) -> Vec<Action> {
        if self.force == Force::None {
            return self.finish(status);
        }
        self.phase = Phase::Settling(status, now.plus(SETTLE));
        Vec::new()
    }

    fn finish(&mut self, status: ChildStatus) -> Vec<Action> {
        self.phase = Phase::Finished;
        vec![Action::Finished { status, stopped_by: self.stopped_by }]
    }
}
