//! Descriptors that hold something for as long as they are open, in whatever process. So they are
//! lent to our guardian, and Terraform inherits those of the locks that it works under.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

use crate::guardian::{Guardian, LentFile};
use crate::lock::LockId;
use crate::run::door::Door;
use crate::store::{HeldFile, JoinedLock};

/// Above the numbers that scripts use for descriptors of their own.
const HIGH: i32 = 100;

/// What a descriptor holds.
#[derive(Debug)]
pub(crate) enum Use {
    /// The lock of a local state.
    Lock(HeldFile),
    /// A lock of ours on a local state, beside that of an outer run or a `hold`.
    Joined(JoinedLock),
    /// Our place under a lock that an outer run or a `hold` has.
    Inside(Door),
    /// The door of a lock that is ours.
    Door(Door),
}

/// All of them, each with the ID of its lock.
#[derive(Debug, Default)]
pub(crate) struct Lent(Vec<(LockId, Use)>);

impl Lent {
    /// Adds one, and lends it.
    ///
    /// # Errors
    /// It could not be lent, and is added all the same.
    pub(super) fn add(
        &mut self,
        guardian: Option<&Guardian>,
        id: &LockId,
        held: Use,
    ) -> io::Result<()> {
        let held = held.moved_up();
        let lent = guardian.map_or(Ok(()), |guardian| held.lend(guardian, id));
        self.0.push((id.clone(), held));
        lent
    }

    /// Lends all to another guardian.
    ///
    /// # Errors
    /// One could not be lent.
    pub(super) fn again(&self, guardian: &Guardian) -> io::Result<()> {
        self.0.iter().try_for_each(|(id, held)| held.lend(guardian, id))
    }

    /// This lock is given back, or our place under it.
    pub(super) fn forget(&mut self, id: &LockId) {
        self.0.retain(|(lent, held)| {
            if lent == id {
                held.leave();
            }
            lent != id
        });
    }

    /// Ends every place under a lock of somebody else's, whoever still has it open.
    pub(super) fn leave_all(&mut self) {
        self.0.retain(|(_, held)| !held.leave());
    }

    /// The door of a lock of ours.
    pub(super) fn door(&self, id: &LockId) -> Option<&Door> {
        self.0.iter().rev().find_map(|(lent, held)| match held {
            Use::Door(door) if lent == id => Some(door),
            _ => None,
        })
    }

    /// Lets a child that is about to start inherit what it works under, or nothing any more.
    pub(super) fn pass_on(&self, inherited: bool) {
        let flags = if inherited { FdFlags::empty() } else { FdFlags::CLOEXEC };
        let for_the_child = |held: &Use| !matches!(held, Use::Door(_));
        for (_, held) in self.0.iter().filter(|(_, held)| for_the_child(held)) {
            // It is open, and that is all that this needs.
            let _as_it_was = fcntl_setfd(held.fd(), flags);
        }
    }
}

impl Use {
    /// Ends what we have under a lock of somebody else's; whether it is that.
    fn leave(&self) -> bool {
        match self {
            Self::Joined(lock) => lock.leave(),
            Self::Inside(door) => door.leave(),
            Self::Lock(_) | Self::Door(_) => return false,
        }
        true
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Lock(file) => file.fd.as_fd(),
            Self::Joined(lock) => lock.as_fd(),
            Self::Inside(door) | Self::Door(door) => door.as_fd(),
        }
    }

    fn moved_up(self) -> Self {
        // With few descriptors allowed, it stays where it is.
        let up = |fd: BorrowedFd<'_>| -> io::Result<OwnedFd> { Ok(fcntl_dupfd_cloexec(fd, HIGH)?) };
        match (up(self.fd()), self) {
            (Ok(fd), Self::Lock(file)) => Self::Lock(HeldFile { fd, ..file }),
            (Ok(fd), Self::Joined(_)) => Self::Joined(fd.into()),
            (Ok(fd), Self::Inside(_)) => Self::Inside(Door::of(fd)),
            (Ok(fd), Self::Door(_)) => Self::Door(Door::of(fd)),
            (Err(_), held) => held,
        }
    }

    fn lend(&self, guardian: &Guardian, id: &LockId) -> io::Result<()> {
        let (created, door) = match self {
            Self::Lock(file) => (file.created.clone(), false),
            Self::Joined(_) => (None, false),
            Self::Inside(_) | Self::Door(_) => (None, true),
        };
        let lent = LentFile { id: id.0.clone(), created, door, fd: -1 };
        guardian.lend(&lent, self.fd())
    }
}
