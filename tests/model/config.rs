//! What a search explores.

use std::time::Duration;

/// Time of the world, which nobody in it can see.
pub(crate) type Millis = u64;

/// A time of the program's in that of the world.
pub(crate) fn millis(time: Duration) -> Millis {
    Millis::try_from(time.as_millis()).expect("short")
}

/// A rule broken on purpose. The machines stay as they are: what they are told, or what they
/// send, is changed on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// An unanswered beat counts as applied when a read shows our own ID.
    RenewedByReadBack,
    /// A lock found by its ID counts from the moment it was found.
    FoundCountedFromNow,
    /// A lock counts from the reply, not from before the request.
    HolderFromReply,
    /// A waiter counts what it sees from before the request, not from the reply.
    WaiterFromRequest,
    /// A second run comes with the ID of the first, so that its record has the same bytes.
    SameBytes,
    /// The store removes whatever is there.
    UnconditionalDelete,
    /// Whoever claimed a number by a `next` that was stale keeps it: it does not hear that `next`
    /// is above its number already.
    StaleNext,
    /// A stop after the grant is ignored.
    DeafAfterGrant,
    /// The guardian counts the lease from when it takes over.
    GuardianAfresh,
    /// The guardian leaves the child alone for as long as tfwrap is there, if only stopped.
    NoGuardiansFence,
    /// The guardian is not told that a request was answered.
    UntoldAnswers,
    /// The guardian hears of a request only when that was not answered.
    ToldAfterwards,
    /// The guardian neither keeps nor fences what another has.
    GuardianLeavesInherited,
    /// Nor does tfwrap.
    LeavesInherited,
    /// The guardian releases as soon as the child is gone.
    GuardianDoesNotSettle,
}

/// What the end of tfwrap alone leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    /// Nothing: its machine is gone, or whoever ended it ended all.
    EndsAll,
    /// Its child, with nobody to look after it.
    LeavesAnOrphan,
    /// Its child and its guardian, which takes over, and may crash in its turn.
    IsFollowed,
}

/// One world.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each can be so without the others")]
pub(crate) struct Config {
    /// The pace of each client's clock, in percent; as many as there are clients.
    pub(crate) rates: Vec<u64>,
    /// How often each client runs.
    pub(crate) runs: Vec<u8>,
    /// How long they wait for the lock.
    pub(crate) wait: Duration,
    /// A waiter may oversleep: it wakes at multiples of this.
    pub(crate) oversleep: Millis,
    /// How many faults there may be.
    pub(crate) faults: u8,
    /// Until when, so that the search ends in its time.
    pub(crate) faults_until: Millis,
    /// Until when the first must happen.
    pub(crate) first_until: Millis,
    /// Which ones.
    pub(crate) kinds: Kinds,
    /// How many children may take long, and not heed their interrupt.
    pub(crate) long_children: u8,
    /// Whether a stock Terraform wants the lock, too.
    pub(crate) stock: bool,
    /// How often a person may force-unlock.
    pub(crate) unlocks: u8,
    pub(crate) crash: Crash,
    /// Whether the first is a `hold`, which has no child, and the second a command that works under
    /// its lock. Nothing befalls any other.
    pub(crate) below: bool,
    /// Whether that hold and its guardian are killed when the child of the command starts.
    pub(crate) hold_dies: bool,
    /// Whether a refusal shows what is there.
    pub(crate) shows: bool,
    /// Of the pauses between requests; 0 does not spread them.
    pub(crate) seed: u64,
    pub(crate) mutation: Option<Mutation>,
}

/// Kinds of faults.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "a set")]
pub(crate) struct Kinds {
    /// Of one request: lost, dropped, refused, slow, late.
    pub(crate) requests: bool,
    pub(crate) crashes: bool,
    pub(crate) stock_crashes: bool,
    pub(crate) pauses: bool,
    pub(crate) outages: bool,
    pub(crate) stops: bool,
    /// Somebody kills a child, alone or with its tfwrap.
    pub(crate) kills: bool,
}

impl Kinds {
    /// All but kills, which have searches of their own: for all else they are one more end.
    pub(crate) const ALL: Self = Self {
        requests: true,
        crashes: true,
        stock_crashes: true,
        pauses: true,
        outages: true,
        stops: true,
        kills: false,
    };
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // Whoever holds with the slow clock and waits with the fast one: all pairs are in it,
            // since anyone may come first.
            rates: vec![95, 105, 100],
            runs: vec![1, 1, 1],
            wait: Duration::from_mins(5),
            oversleep: 1_000,
            faults: 1,
            faults_until: Millis::MAX,
            first_until: Millis::MAX,
            kinds: Kinds::ALL,
            long_children: 1,
            stock: false,
            unlocks: 0,
            crash: Crash::EndsAll,
            below: false,
            hold_dies: false,
            shows: true,
            seed: 0,
            mutation: None,
        }
    }
}
