//! All that may happen next.

use tfwrap::lock::LockId;

use super::{Action, Fault, World};
use crate::client::{Client, Outage};
use crate::config::{Config, Crash, Millis};
use crate::request::Way;
use tfwrap::lock::register::Request;

/// Pauses: shorter than it matters, between the fences, beyond the second, beyond the lease. And
/// what is seen first afterwards.
const PAUSES: [(Millis, bool); 3] = [(4_000, true), (9_600, false), (20_000, true)];

/// A tfwrap that is stopped is missed only when its lease comes near its end.
const STUCK: [(Millis, bool); 2] = [(9_600, false), (20_000, true)];

const OUTAGES: [(Outage, Millis); 3] =
    [(Outage::Full, 9_000), (Outage::Full, 30_000), (Outage::Writes, 30_000)];

impl World {
    /// All that may happen now. Nothing: it is over.
    pub(crate) fn actions(&self, config: &Config) -> Vec<Action> {
        let mut actions = Vec::new();
        let moment = self.moment(config);
        for (index, wanderer) in self.wanderers.iter().enumerate() {
            if wanderer.until > self.now && self.would_apply(&wanderer.request) {
                actions.push(Action::Land(index));
            }
        }
        if self.is_over() {
            return actions;
        }
        // Requests of different clients that only read give the same in any order; so do starts.
        let starts = self.clients.iter().find(|client| client.can_start(moment));
        let quiet = self.quiet_reader();
        let is_first = self.faults == config.faults;
        let until = if is_first { config.first_until } else { Millis::MAX };
        let may_fail = self.faults > 0 && self.now <= config.faults_until.min(until);
        let mut urgent = false;
        if let Some(client) = starts {
            urgent = true;
            actions.push(Action::Start { client: client.index, long: false });
            if self.long_children > 0 {
                actions.push(Action::Start { client: client.index, long: true });
            }
        }
        if self.may_enter(config) {
            urgent = true;
            actions.push(Action::Enter(1));
        }
        for client in self.clients.iter().filter(|it| quiet.is_none_or(|quiet| quiet == it.index)) {
            let index = client.index;
            let Some(pending) = &client.pending else { continue };
            let fresh = pending.way == Way::Fresh;
            if fresh || pending.way == Way::Arrived {
                urgent = true;
                actions.push(Action::Deliver(index));
            }
            if fresh && may_fail {
                if config.kinds.requests && client.outage.is_none() {
                    faults_of(&pending.request, index, &mut actions);
                }
                // Only its requests show it.
                let spared = is_spared(client, config) || client.outage.is_some();
                if config.kinds.outages && !spared {
                    actions.extend(OUTAGES.map(|(kind, lasts)| Action::Outage(index, kind, lasts)));
                }
                troubles_of(client, config, &mut actions);
            }
        }
        if !urgent && may_fail {
            // What befalls a waiter between two requests it meets at the next, too.
            for client in self.clients.iter().filter(|client| client.holds()) {
                troubles_of(client, config, &mut actions);
            }
        }
        if let Some(stock) = &self.stock {
            if stock.is_due(self.now) {
                urgent = true;
                actions.push(Action::Stock);
            }
            if may_fail && config.kinds.stock_crashes && !stock.is_over() {
                actions.push(Action::StockCrash);
            }
        }
        if self.unlocks > 0 && self.register.is_some() {
            actions.push(Action::Unlock);
        }
        if !urgent && self.next(config).is_some() {
            actions.push(Action::Time);
        }
        actions
    }

    fn may_enter(&self, config: &Config) -> bool {
        let [hold, below, ..] = &self.clients[..] else { return false };
        let id = LockId("a0".to_owned());
        let is_held = self.register.as_ref().is_some_and(|it| it.record.is_held_by(&id));
        config.below && below.is_outside() && hold.is_open(config) && is_held
    }

    /// The first of the clients that read, where all that have sent something do.
    fn quiet_reader(&self) -> Option<usize> {
        let mut first = None;
        for client in &self.clients {
            let Some(pending) = &client.pending else { continue };
            if matches!(pending.way, Way::Answered(..) | Way::Arrives(_)) {
                continue;
            }
            if pending.request != Request::Read {
                return None;
            }
            first = first.or(Some(client.index));
        }
        let alone = self.wanderers.is_empty()
            && self.unlocks == 0
            && self.stock.as_ref().is_none_or(|stock| !stock.is_due(self.now));
        first.filter(|_| alone)
    }
}

fn is_spared(client: &Client, config: &Config) -> bool {
    config.below && !client.is_hold(config) && !client.is_below(config)
}

fn faults_of(request: &Request, index: usize, actions: &mut Vec<Action>) {
    let faults: &[Fault] = match request {
        Request::Read => &[Fault::Dropped, Fault::Slow, Fault::SlowReply],
        _ => &[
            Fault::Lost,
            Fault::Dropped,
            Fault::Refused,
            Fault::Late,
            Fault::Slow,
            Fault::SlowReply,
        ],
    };
    actions.extend(faults.iter().map(|fault| Action::Fault(index, *fault)));
}

fn troubles_of(client: &Client, config: &Config, actions: &mut Vec<Action>) {
    let index = client.index;
    if is_spared(client, config) {
        return;
    }
    let followed = config.crash == Crash::IsFollowed;
    // On a machine that stands still nobody takes over.
    if config.kinds.crashes && !(followed && client.stands_still()) {
        actions.push(Action::Crash(index));
    }
    if client.is_paused() {
        return;
    }
    if config.kinds.kills && client.child_lives() {
        actions.push(Action::Kill(index, false));
        if followed && client.tfwrap_lives() {
            actions.push(Action::Kill(index, true));
        }
    }
    if config.kinds.pauses {
        actions.extend(PAUSES.map(|(lasts, first)| Action::Pause(index, lasts, first)));
        // Without a child it is as if the machine stood still.
        if followed && client.tfwrap_lives() && client.child_lives() {
            actions.extend(STUCK.map(|(lasts, first)| Action::Stuck(index, lasts, first)));
        }
    }
    if config.kinds.stops && client.can_stop() {
        actions.push(Action::Stop(index));
    }
}
