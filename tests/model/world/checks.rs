//! What must hold.

use tfwrap::lock::lease::SHORTEST;

use super::World;
use crate::client::{Checked, Client};
use crate::config::{Config, Mutation};
use tfwrap::lock::register::Request;

impl World {
    /// I2: a record that is not ours is never changed, but for a lease that its holder let expire.
    /// And whoever takes it over finds its holder's child gone.
    pub(super) fn check_change(&self, config: &Config, index: usize, request: &Request) -> Checked {
        let Some(current) = &self.register else { return Ok(()) };
        let (id, whose, run) = self.owner(config, current);
        let by = self.clients[index].letter();
        let below = self.clients.iter().find(|it| it.is_below(config) && whose == 0);
        if whose == index || below.is_some_and(|below| below.index == index) {
            return Ok(());
        }
        if below.is_some_and(|below| below.child_lives() && !below.stands_still()) {
            return Err(format!("{by} takes over the record {id}, under which a child lives"));
        }
        if matches!(request, Request::Remove(_)) {
            return Err(format!("I2: {by} removes the record {id}"));
        }
        if current.record.lease.is_none() {
            return Err(format!("I2: {by} takes over the record {id}, which has no lease"));
        }
        let holder = &self.clients[whose];
        if holder.left(run).is_some() {
            // Nobody lives under that ID.
            return Ok(());
        }
        if holder.child_lives() && !holder.stands_still() {
            return Err(format!("{by} takes over the record {id}, whose child lives"));
        }
        let stood = u128::from(self.now - self.stored_at) * 105;
        if stood < SHORTEST.as_millis() * 100 {
            return Err(format!("I2: {by} takes over the record {id}, which was not expired"));
        }
        Ok(())
    }

    pub(super) fn check(&self, config: &Config) -> Checked {
        let clients = self.clients.iter().filter(|client| client.child_acts()).map(Client::letter);
        let stock = self.stock.iter().filter(|stock| stock.acts()).map(|_| 's');
        let acting: Vec<char> = clients.chain(stock).collect();
        // A person who unlocks takes the leave to do so.
        if acting.len() > 1 && self.unlocked.is_none() {
            return Err(format!("I1: the children of {acting:?} act at once"));
        }
        self.check_rest(config)?;
        self.check_unlocked(config)
    }

    /// I3: nothing stays behind that nobody was told of.
    fn check_rest(&self, config: &Config) -> Checked {
        let Some(current) = &self.register else { return Ok(()) };
        let (id, whose, run) = self.owner(config, current);
        match self.clients.get(whose).and_then(|client| client.left(run)) {
            Some(false) if config.mutation != Some(Mutation::SameBytes) => {
                Err(format!("I3: {id} is left behind, and its user was not told"))
            }
            _ => Ok(()),
        }
    }

    /// Whoever lost its lock to a person notices within a beat, if the store answers.
    fn check_unlocked(&self, config: &Config) -> Checked {
        let Some((id, at)) = &self.unlocked else { return Ok(()) };
        let Some(client) = self.clients.iter().find(|it| id.0.starts_with(it.letter())) else {
            return Ok(());
        };
        let run = id.0.as_bytes()[1] - b'0';
        let back = self.register.as_ref().is_some_and(|stored| stored.record.is_held_by(id));
        let beat = u64::try_from(SHORTEST.as_millis() / 10).expect("short") * 100 / 95;
        let excused = back || config.faults > 0 || client.left(run).is_some();
        if self.now > at + beat + 100 && !excused && client.child_lives() && !client.is_stopping() {
            return Err(format!("the loss of {id} goes unnoticed"));
        }
        Ok(())
    }
}
