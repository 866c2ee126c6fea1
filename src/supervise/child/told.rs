//! Which processes have had the interrupt, so that nobody gets a second one, and how long they
//! live.

use std::future::{pending, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::task::Poll;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getsid};
use tokio::io::unix::AsyncFd;

use super::spawn::pidfd;
use crate::supervise::process::{ProcessId, Stat, Waiting, children};
use crate::supervise::stand_in::OverheardStop;
use crate::supervise::targets::{
    ChildPlace, Strays, interrupt_for, interrupt_for_group, is_own, runs_tfwrap, targets,
};
use crate::supervise::{Rest, StopSignal};

/// To whom the last interrupt went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    /// To these.
    Each(Vec<ProcessId>),
    /// To the whole group: nobody in it could be told to be a Terraform.
    Group,
    /// All have had it.
    Nobody,
}

/// What is gone of a child.
pub(super) struct Gone {
    /// Its whole group, and not it alone.
    pub(super) group_too: bool,
}

/// Whom the interrupts of one child went to.
pub(super) struct Told {
    leader: Pid,
    place: ChildPlace,
    /// Our other children, which were there before it.
    before: Vec<ProcessId>,
    /// Whether it is to be a Terraform, and not a command around some.
    is_terraform: bool,
    each: Vec<ProcessId>,
    /// Those of them that have it from us.
    from_us: Vec<ProcessId>,
    /// Those that the next interrupt is for, if that was decided before it: who has appeared since may have
    /// its interrupt from elsewhere.
    chosen: Option<Vec<ProcessId>>,
    /// Whether its group as a whole has had one.
    group: bool,
    /// Those of `each` whose end nobody else tells us of.
    living: Vec<(ProcessId, Option<AsyncFd<OwnedFd>>)>,
}

impl Told {
    pub(super) fn new(leader: Pid, before: Vec<ProcessId>, is_terraform: bool) -> Self {
        let session = getsid(Some(leader)).map_or(0, Pid::as_raw);
        let place = ChildPlace { leader: Some(leader), group: Some((leader, session)) };
        Self {
            leader,
            place,
            before,
            is_terraform,
            each: Vec::new(),
            from_us: Vec::new(),
            chosen: None,
            group: false,
            living: Vec::new(),
        }
    }

    /// From now on its number may be another process', and that of its group, too.
    pub(super) fn are_gone(&mut self, Gone { group_too }: Gone) {
        self.place.leader = None;
        if group_too {
            self.place.group = None;
        }
    }

    /// Whether we have no children but these and those that were there before the child. Whoever has
    /// lost its parent is our child, since we are a subreaper: so then nobody is left of it.
    pub(super) fn nobody_is_left(&self, but: Option<Pid>) -> bool {
        let is_known = |child: &Pid| {
            Some(*child) == but || self.before.iter().any(|it| it.pid() == *child && it.is_alive())
        };
        children().is_some_and(|children| children.iter().all(is_known))
    }

    /// Every Terraform and every tfwrap of the child that lives. What was one stays one, also where
    /// that cannot be told any more.
    pub(super) fn targets(&self) -> Vec<ProcessId> {
        let mut all = targets(self.place, Strays::AdoptedBut(&self.before));
        let known = self.each.iter().filter(|it| it.is_alive() && !all.contains(it));
        let known: Vec<_> = known.copied().collect();
        all.extend(known);
        all
    }

    /// What is left beside what is neither.
    pub(super) fn rest(&self) -> Rest {
        match self.targets().as_slice() {
            [] => Rest::Others,
            targets if self.is_terraform && targets.iter().any(|it| is_own(*it)) => {
                Rest::OwnTerraform
            }
            _ => Rest::Terraform,
        }
    }

    /// Those that are not in the child's group, and get nothing that is sent to that.
    pub(super) fn strayed(&self) -> Vec<ProcessId> {
        let mut all = self.targets();
        all.retain(|it| !self.is_in_the_group(*it));
        all
    }

    fn is_in_the_group(&self, process: ProcessId) -> bool {
        Stat::of(process.pid()).is_some_and(|stat| stat.group == self.leader.as_raw())
    }

    /// Interrupts whoever has not had it: each target; where there is none, the group, once.
    pub(super) fn interrupt(&mut self, frozen: bool) -> io::Result<Whom> {
        let targets = self.chosen_or_all();
        if targets.is_empty() && !self.group {
            self.interrupt_group()
        } else {
            self.tell_new(targets, frozen)
        }
    }

    /// Interrupts each target that is not known to have had it.
    pub(super) fn interrupt_new(&mut self, frozen: bool) -> io::Result<Whom> {
        let targets = self.chosen_or_all();
        self.tell_new(targets, frozen)
    }

    /// Decides whom the next interrupt is for, at most; returns them.
    pub(super) fn choose(&mut self) -> Vec<ProcessId> {
        let targets = self.targets();
        self.chosen = Some(targets.clone());
        targets
    }

    fn chosen_or_all(&mut self) -> Vec<ProcessId> {
        self.chosen.take().unwrap_or_else(|| self.targets())
    }

    /// The second one, which the user asked for.
    pub(super) fn interrupt_again(&mut self, frozen: bool) -> io::Result<Whom> {
        let targets = self.targets();
        if targets.is_empty() { self.interrupt_group() } else { self.tell(targets, frozen) }
    }

    /// Whether each target ignores or blocks this signal; where there is none, the leader.
    pub(super) fn are_deaf_to(&self, signal: Signal) -> bool {
        let mut all: Vec<_> = self.targets().into_iter().map(ProcessId::pid).collect();
        if all.is_empty() {
            all.extend(self.place.leader);
        }
        !all.is_empty() && all.into_iter().all(|pid| Waiting::of(pid).is_deaf_to(signal))
    }

    /// Whoever heeds this stop where it came has it from somebody else; whether that is anybody who can be
    /// told.
    pub(super) fn have_it_already(&mut self, stop: OverheardStop) -> bool {
        let mut targets = self.targets();
        targets.retain(|it| !stop.from_terminal || self.is_in_the_group(*it));
        if stop.signal == StopSignal::Hangup {
            targets.retain(|it| !Waiting::of(it.pid()).is_deaf_to(Signal::SIGHUP));
        }
        let any = !targets.is_empty();
        // Without a Terraform it was a key or a signal to a script, which may live on.
        self.group |= any;
        for target in targets {
            self.note(target);
        }
        any
    }

    /// Whether the child is to be a Terraform, and not a command around some.
    pub(super) fn is_terraform(&self) -> bool {
        self.is_terraform
    }

    /// Whether a Terraform or a tfwrap is known to have had it.
    pub(super) fn any(&self) -> bool {
        !self.each.is_empty()
    }

    /// Whether all that could be watched have ended, since the last time that somebody had not.
    pub(super) fn have_all_ended(&mut self) -> bool {
        let any = !self.living.is_empty();
        self.living.retain(|(process, _)| process.is_alive());
        any && self.living.is_empty()
    }

    /// Waits until one of them ends. May return too early.
    pub(super) async fn ended(&self) {
        if self.living.is_empty() {
            return pending().await;
        }
        poll_fn(|context| {
            let mut ends = self.living.iter().filter_map(|(_, pidfd)| pidfd.as_ref());
            if ends.any(|pidfd| pidfd.poll_read_ready(context).is_ready()) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Whether there is somebody whose end can only be found by looking.
    pub(super) fn must_look(&self) -> bool {
        self.living.iter().any(|(_, pidfd)| pidfd.is_none())
    }

    fn tell_new(&mut self, mut targets: Vec<ProcessId>, frozen: bool) -> io::Result<Whom> {
        // A tfwrap knows whether its own child has had it, and takes ours for the same one then. It may have started
        // while the signal was on its way, or stand where that did not go.
        let has_it = |target: &ProcessId| {
            let all = if runs_tfwrap(target.pid()) { &self.from_us } else { &self.each };
            all.contains(target)
        };
        targets.retain(|target| !has_it(target));
        self.tell(targets, frozen)
    }

    fn tell(&mut self, targets: Vec<ProcessId>, frozen: bool) -> io::Result<Whom> {
        let mut told = Vec::new();
        let mut refused = Ok(());
        for target in targets {
            let sent = target.signal(interrupt_for(target.pid()));
            self.note(target);
            self.from_us.push(target);
            // A stopped one could not hear it; with the group only those in it are continued.
            if !frozen && Stat::of(target.pid()).is_some_and(|stat| stat.stopped) {
                drop(target.signal(Signal::SIGCONT));
            }
            match sent {
                Ok(_) => told.push(target),
                // One that refuses keeps nobody else from being told.
                Err(error) => refused = Err(refusal(&error, target.pid())),
            }
        }
        refused?;
        Ok(if told.is_empty() { Whom::Nobody } else { Whom::Each(told) })
    }

    pub(super) fn note(&mut self, target: ProcessId) {
        if !self.each.contains(&target) {
            self.each.push(target);
            // The leader's end is waited for in any case.
            if target.pid() != self.leader {
                self.living.push((target, pidfd(target.pid())));
            }
        }
    }

    fn interrupt_group(&mut self) -> io::Result<Whom> {
        self.group = true;
        if self.place.group.is_none() {
            return Ok(Whom::Nobody);
        }
        match killpg(self.leader, interrupt_for_group(self.leader)) {
            Ok(()) | Err(nix::Error::ESRCH) => Ok(Whom::Group),
            Err(error) => Err(refusal(&error.into(), self.leader)),
        }
    }
}

fn refusal(error: &io::Error, pid: Pid) -> io::Error {
    io::Error::new(error.kind(), format!("SIGINT to process {pid}: {error}"))
}
