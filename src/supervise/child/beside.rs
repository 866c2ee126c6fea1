//! The stand-in beside the child.

use std::fs;
use std::future::pending;
use std::time::Duration;

use nix::unistd::Pid;
use tokio::time::{Interval, interval};

use super::{Alive, Child};
use crate::supervise::stand_in::{Behind, Model, OverheardStop, StandIn};
use crate::supervise::targets::words;
use crate::supervise::{ProcessId, StopSignal};

/// How many stand-ins one child has, one after the other.
const STAND_INS: u8 = 10;

/// Between two looks for the Terraform behind a script.
const LOOK: Duration = Duration::from_secs(1);

/// The stand-in, and what the next ones are made like.
pub(super) struct Beside {
    pub(super) stand_in: Option<StandIn>,
    last_words: Vec<OverheardStop>,
    model: Option<Model>,
    /// How many more there may be.
    left: u8,
    /// When the Terraform behind a script is looked for, until it is found.
    look: Option<Interval>,
}

impl Beside {
    pub(super) fn of(model: Option<Model>) -> Self {
        let look = model.as_ref().is_some_and(Model::is_of_a_script).then(|| interval(LOOK));
        Self { stand_in: None, last_words: Vec::new(), model, left: STAND_INS, look }
    }

    /// Waits until the Terraform behind a script is to be looked for. Dropping the future loses nothing.
    pub(super) async fn must_look(look: &mut Option<Interval>) {
        match look {
            Some(look) => drop(look.tick().await),
            None => pending().await,
        }
    }

    /// What it is waited for, and when is to be looked: apart, for those who wait for both.
    pub(super) fn parts(&mut self) -> (Option<&mut StandIn>, &mut Option<Interval>) {
        (self.stand_in.as_mut(), &mut self.look)
    }
}

impl Child {
    /// Whether somebody stands where the child stands, and tells of what comes there.
    #[must_use]
    pub fn has_stand_in(&self) -> bool {
        self.beside.stand_in.is_some()
    }

    /// What came to where the child stood, of which nothing was told yet. For when it has ended.
    pub fn overheard_at_last(&mut self) -> Vec<OverheardStop> {
        self.keep_last_words();
        let mut told = std::mem::take(&mut self.beside.last_words);
        told.retain(|overheard| !self.is_deaf_to(overheard.signal));
        told
    }

    /// Which stop came to where the child stands, that it heeds and that is about to be told.
    #[must_use]
    pub fn is_about_to_tell(&self) -> Option<StopSignal> {
        let stand_in = self.beside.stand_in.as_ref()?;
        let mut stops = StopSignal::heard();
        stops.find(|stop| stand_in.is_about_to_tell(stop.signal()) && !self.is_deaf_to(*stop))
    }

    pub(super) fn keep_last_words(&mut self) {
        let words = self.beside.stand_in.as_ref().map(StandIn::last_words);
        self.beside.last_words.extend(words.unwrap_or_default());
    }

    pub(super) fn stand_in_again(&mut self) {
        self.beside.stand_in = None;
        if let (Some(model), Alive::Leader, 1..) =
            (&self.beside.model, self.alive, self.beside.left)
        {
            self.beside.left -= 1;
            self.beside.stand_in = StandIn::start(self.leader, model);
        }
    }

    /// Gives the stand-in the name of the Terraform of a script, once that is there: whoever names it
    /// means that one, and whoever names the script (`pkill -x terraform`) does not. The script may have
    /// started it, or have become it (`exec`).
    pub(super) fn name_stand_in(&mut self) {
        let Some(model) = &mut self.beside.model else { return };
        let found = self.told.targets().into_iter().next().map(ProcessId::pid);
        if found.is_some() {
            self.beside.look = None;
        }
        // One of an odd name is known by its words alone. It may still be a program that starts another.
        let is_it = |leader: &Pid| model.is_given_alone(&words(*leader));
        let Some(terraform) = found.or_else(|| Some(self.leader).filter(is_it)) else { return };
        let name = fs::read_to_string(format!("/proc/{terraform}/comm"));
        let program = words(terraform).into_iter().next();
        let (Ok(name), Some(program)) = (name, program) else { return };
        let name = name.trim_end().to_owned();
        if self.beside.stand_in.as_ref().is_some_and(|it| it.name() == name) {
            return;
        }
        model.set_behind(Behind::new(name, program));
        // What it has just heard it tells first, and the next one has the name.
        let is_silent = self.beside.stand_in.as_ref().is_some_and(StandIn::has_nothing_to_tell);
        if is_silent && self.alive == Alive::Leader {
            self.beside.left = self.beside.left.saturating_add(1);
            self.stand_in_again();
        }
    }
}
