//! Whether a host is at the other end of the control port, or is away for so long that its session is over.
//!
//! The device tells of a host that leaves and of one that comes by control messages, but bytes of the next host may
//! overtake both: a new session can be open already when the leaving of the old host is heard. So a closed port ends a
//! session only when it stays closed.

/// How long the port may be closed before the session is over, in nanoseconds.
const AWAY: u64 = 1_000_000_000;

/// What is known of the host. Times are nanoseconds since boot.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Presence {
    closed_since: Option<u64>,
}

impl Presence {
    /// Takes note of what a read from the port said.
    pub(crate) fn note(&mut self, closed: bool, now: u64) {
        self.closed_since = if closed { self.closed_since.or(Some(now)) } else { None };
    }

    /// When the port must be looked at again, if it is closed.
    pub(crate) fn deadline(self) -> Option<u64> {
        self.closed_since.map(|since| since.saturating_add(AWAY))
    }

    /// Whether the host has been away for too long.
    pub(crate) fn is_gone(self, now: u64) -> bool {
        self.deadline().is_some_and(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_that_comes_back_in_time_was_never_gone() {
        let mut presence = Presence::default();
        assert!(!presence.is_gone(u64::MAX));
        presence.note(true, 10);
        presence.note(true, 20);
        assert_eq!(presence.deadline(), Some(10 + AWAY));
        presence.note(false, 30);
        assert_eq!(presence.deadline(), None);
        assert!(!presence.is_gone(10 + AWAY));
    }

    #[test]
    fn host_that_stays_away_is_gone() {
        let mut presence = Presence::default();
        presence.note(true, 10);
        presence.note(true, 10 + AWAY);
        assert!(!presence.is_gone(9 + AWAY));
        assert!(presence.is_gone(10 + AWAY));
    }
}
