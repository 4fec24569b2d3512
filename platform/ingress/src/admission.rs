//! Admission: how many connections may be open in total and per source, and how many of them half-open.
//!
//! A source is an IPv6 /64, since one customer usually holds a whole one, or a single IPv4 address.

use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::stats::Refusal;

/// What one source counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    V4(Ipv4Addr),
    V6Prefix([u16; 4]),
}

impl Source {
    fn of(addr: IpAddr) -> Self {
        match addr.to_canonical() {
            IpAddr::V4(addr) => Self::V4(addr),
            IpAddr::V6(addr) => {
                let [a, b, c, d, ..] = addr.segments();
                Self::V6Prefix([a, b, c, d])
            }
        }
    }
}

/// The caps. Each is a number of connections at the same time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caps {
    pub(crate) total: usize,
    pub(crate) per_source: usize,
    pub(crate) half_open: usize,
    pub(crate) half_open_per_source: usize,
}

#[derive(Debug, Default)]
struct Use {
    open: usize,
    half_open: usize,
}

const SHARDS: usize = 16;

/// Counts who is connected.
#[derive(Debug)]
pub(crate) struct Admission {
    caps: Caps,
    open: watch::Sender<usize>,
    half_open: AtomicUsize,
    sources: [Mutex<HashMap<Source, Use>>; SHARDS],
}

impl Admission {
    pub(crate) fn new(caps: Caps) -> Self {
        Self {
            caps,
            open: watch::Sender::new(0),
            half_open: AtomicUsize::new(0),
            sources: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// Connections open now, to read or to wait on.
    pub(crate) fn open(&self) -> watch::Receiver<usize> {
        self.open.subscribe()
    }

    /// Admits a connection until the permit is dropped.
    pub(crate) fn admit(self: &Arc<Self>, peer: IpAddr) -> Result<Permit, Refusal> {
        let source = Source::of(peer);
        let below = self.open.send_if_modified(|open| {
            let below = *open < self.caps.total;
            *open += usize::from(below);
            below
        });
        if !below {
            return Err(Refusal::TotalLimit);
        }
        let mut sources = self.shard(source);
        let entry = sources.entry(source).or_default();
        if entry.open >= self.caps.per_source {
            drop(sources);
            self.open.send_modify(|open| *open -= 1);
            return Err(Refusal::SourceLimit);
        }
        entry.open += 1;
        drop(sources);
        Ok(Permit { admission: Arc::clone(self), source })
    }

    fn shard(&self, source: Source) -> MutexGuard<'_, HashMap<Source, Use>> {
        let mut hasher = DefaultHasher::new();
        source.hash(&mut hasher);
        let shard = &self.sources[hasher.finish() as usize % SHARDS];
        // Counts are changed in one step each, so they are right even after a panic elsewhere.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, source: Source, change: impl FnOnce(&mut Use)) {
        let mut sources = self.shard(source);
        if let Entry::Occupied(mut entry) = sources.entry(source) {
            change(entry.get_mut());
            if entry.get().open == 0 && entry.get().half_open == 0 {
                entry.remove();
            }
        }
    }
}

/// One admitted connection.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    source: Source,
}

impl Permit {
    /// Counts the connection as half-open until the answer is dropped.
    pub(crate) fn half_open(&self) -> Result<HalfOpen<'_>, Refusal> {
        let admission = &*self.admission;
        if admission.half_open.fetch_add(1, Relaxed) >= admission.caps.half_open {
            admission.half_open.fetch_sub(1, Relaxed);
            return Err(Refusal::HalfOpenLimit);
        }
        let mut sources = admission.shard(self.source);
        let entry = sources.entry(self.source).or_default();
        if entry.half_open >= admission.caps.half_open_per_source {
            drop(sources);
            admission.half_open.fetch_sub(1, Relaxed);
            return Err(Refusal::HalfOpenSourceLimit);
        }
        entry.half_open += 1;
        Ok(HalfOpen { permit: self })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.release(self.source, |used| used.open -= 1);
        self.admission.open.send_modify(|open| *open -= 1);
    }
}

/// An admitted connection that has not said yet where it wants to go.
#[derive(Debug)]
pub(crate) struct HalfOpen<'a> {
    permit: &'a Permit,
}

impl Drop for HalfOpen<'_> {
    fn drop(&mut self) {
        let Permit { admission, source } = self.permit;
        admission.release(*source, |used| used.half_open -= 1);
        admission.half_open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(caps: Caps) -> Arc<Admission> {
        Arc::new(Admission::new(caps))
    }

    const WIDE: Caps = Caps { total: 9, per_source: 9, half_open: 9, half_open_per_source: 9 };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_slash_64_is_one_source_and_a_mapped_v4_address_is_its_v4_source() {
        let admission = admission(Caps { per_source: 1, ..WIDE });
        let _held = admission.admit(ip("2001:db8::1")).unwrap();
        assert_eq!(admission.admit(ip("2001:db8::2")).unwrap_err(), Refusal::SourceLimit);
        let _other = admission.admit(ip("2001:db8:0:1::1")).unwrap();
        let _v4 = admission.admit(ip("192.0.2.1")).unwrap();
        assert_eq!(admission.admit(ip("::ffff:192.0.2.1")).unwrap_err(), Refusal::SourceLimit);
        let _next = admission.admit(ip("192.0.2.2")).unwrap();
        assert_eq!(*admission.open().borrow(), 4);
    }

    #[test]
    fn dropping_permits_leaves_nothing_behind() {
        let admission = admission(WIDE);
        let permit = admission.admit(ip("::1")).unwrap();
        let half = permit.half_open().unwrap();
        drop(half);
        drop(permit);
        assert_eq!(*admission.open().borrow(), 0);
        assert_eq!(admission.half_open.load(Relaxed), 0);
        assert!(admission.sources.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }

    #[test]
    fn each_cap_refuses_with_its_own_reason_and_reopens() {
        let total = admission(Caps { total: 1, ..WIDE });
        let held = total.admit(ip("::1")).unwrap();
        assert_eq!(total.admit(ip("2001:db8::")).unwrap_err(), Refusal::TotalLimit);
        drop(held);
        assert!(total.admit(ip("2001:db8::")).is_ok());

        let half = admission(Caps { half_open: 1, ..WIDE });
        let (a, b) = (half.admit(ip("::1")).unwrap(), half.admit(ip("2001:db8::")).unwrap());
        let first = a.half_open().unwrap();
        assert_eq!(b.half_open().unwrap_err(), Refusal::HalfOpenLimit);
        drop(first);
        assert!(b.half_open().is_ok());

        let source = admission(Caps { half_open_per_source: 1, ..WIDE });
        let (a, b) = (source.admit(ip("::1")).unwrap(), source.admit(ip("::2")).unwrap());
        let first = a.half_open().unwrap();
        assert_eq!(b.half_open().unwrap_err(), Refusal::HalfOpenSourceLimit);
        drop(first);
        assert!(b.half_open().is_ok());
    }
}
