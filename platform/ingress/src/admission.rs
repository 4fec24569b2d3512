//! Admission: how many connections may be open in total and per source, how fast they may come, and how many of them may
//! be half-open.
//!
//! A source is an IPv6 /64, since one customer usually holds a whole one, or a single IPv4 address.

use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::rate::{Pace, Rate, nanos};
use crate::stats::Refusal;

/// What one source counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    V4(Ipv4Addr),
    V6Prefix([u16; 4]),
}

impl Source {
    /// The source an address belongs to.
    pub(crate) fn of(addr: IpAddr) -> Self {
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
    /// How often a source may begin a connection.
    pub(crate) source_connects: Option<Rate>,
    pub(crate) half_open: usize,
    pub(crate) half_open_per_source: usize,
}

#[derive(Debug, Default)]
struct Use {
    open: usize,
    half_open: usize,
    pace: Pace,
}

impl Use {
    /// Whether nothing of it matters any more.
    fn is_over(&self, now: u64) -> bool {
        self.open == 0 && self.half_open == 0 && self.pace.is_rested(now)
    }
}

/// The sources of one shard.
#[derive(Debug, Default)]
struct Sources {
    by_source: HashMap<Source, Use>,
    /// Sources at which those that do not matter any more are looked for.
    sweep_at: usize,
}

/// Sources of a shard below which a sweep is not worth it.
const SWEEP_AT_LEAST: usize = 1024;
const SHARDS: usize = 16;

/// Counts who is connected.
#[derive(Debug)]
pub(crate) struct Admission {
    caps: Caps,
    began: Instant,
    open: watch::Sender<usize>,
    half_open: Mutex<Waiting>,
    sources: [Mutex<Sources>; SHARDS],
}

/// The half-open connections, oldest first, each with what tells it to make room.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    by_age: BTreeMap<u64, CancellationToken>,
}

impl Admission {
    pub(crate) fn new(caps: Caps) -> Self {
        Self {
            caps,
            began: Instant::now(),
            open: watch::Sender::new(0),
            half_open: Mutex::default(),
            sources: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// Connections open now, to read or to wait on.
    pub(crate) fn open(&self) -> watch::Receiver<usize> {
        self.open.subscribe()
    }

    /// Admits a connection of a source that is not known yet, until the permit is dropped.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<Permit, Refusal> {
        let below = self.open.send_if_modified(|open| {
            let below = *open < self.caps.total;
            *open += usize::from(below);
            below
        });
        if below { Ok(Permit { admission: Arc::clone(self), source: None }) } else { Err(Refusal::TotalLimit) }
    }

    fn now(&self) -> u64 {
        nanos(self.began.elapsed())
    }

    fn shard(&self, source: Source) -> MutexGuard<'_, Sources> {
        let mut hasher = DefaultHasher::new();
        source.hash(&mut hasher);
        let shard = &self.sources[hasher.finish() as usize % SHARDS];
        // Counts are changed in one step each, so they are right even after a panic elsewhere.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.half_open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, source: Source, change: impl FnOnce(&mut Use)) {
        let now = self.now();
        let mut sources = self.shard(source);
        if let Entry::Occupied(mut entry) = sources.by_source.entry(source) {
            change(entry.get_mut());
            if entry.get().is_over(now) {
                entry.remove();
            }
        }
    }
}

impl Sources {
    /// What a source uses. Sources that came and went a while ago are forgotten first when there are many, so that their
    /// number is bounded by the open connections and by those of the last seconds.
    fn entry(&mut self, source: Source, now: u64) -> &mut Use {
        if self.by_source.len() >= self.sweep_at.max(SWEEP_AT_LEAST) {
            self.by_source.retain(|_, used| !used.is_over(now));
            self.sweep_at = 2 * self.by_source.len();
        }
        self.by_source.entry(source).or_default()
    }
}

/// One admitted connection.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    source: Option<Source>,
}

impl Permit {
    /// Counts the connection as one of `peer`. Once only.
    pub(crate) fn come_from(&mut self, peer: IpAddr) -> Result<Source, Refusal> {
        let source = Source::of(peer);
        let caps = self.admission.caps;
        let now = self.admission.now();
        let mut sources = self.admission.shard(source);
        let used = sources.entry(source, now);
        if used.open >= caps.per_source {
            return Err(Refusal::SourceLimit);
        }
        if caps.source_connects.is_some_and(|rate| !used.pace.take(rate, now)) {
            return Err(Refusal::SourceRate);
        }
        used.open += 1;
        drop(sources);
        debug_assert!(self.source.is_none(), "a connection has one source");
        self.source = Some(source);
        Ok(source)
    }

    /// Counts the connection as half-open until the answer is dropped. When there are too many, the one that has been
    /// half-open for longest is told to make room: whoever means it sends a hello at once, so a flood pushes out its own.
    pub(crate) fn half_open(&self) -> Result<HalfOpen<'_>, Refusal> {
        let admission = &*self.admission;
        if let Some(source) = self.source {
            let now = admission.now();
            let mut sources = admission.shard(source);
            let used = sources.entry(source, now);
            if used.half_open >= admission.caps.half_open_per_source {
                return Err(Refusal::HalfOpenSourceLimit);
            }
            used.half_open += 1;
        }
        let make_room = CancellationToken::new();
        let mut waiting = admission.waiting();
        while waiting.by_age.len() >= admission.caps.half_open.max(1) {
            if let Some((_, oldest)) = waiting.by_age.pop_first() {
                oldest.cancel();
            }
        }
        let age = waiting.next;
        waiting.next += 1;
        waiting.by_age.insert(age, make_room.clone());
        drop(waiting);
        Ok(HalfOpen { permit: self, age, make_room })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(source) = self.source {
            self.admission.release(source, |used| used.open -= 1);
        }
        self.admission.open.send_modify(|open| *open -= 1);
    }
}

/// An admitted connection that has not said yet where it wants to go.
#[derive(Debug)]
pub(crate) struct HalfOpen<'a> {
    permit: &'a Permit,
    age: u64,
    /// Cancelled when it must make room for a newer one.
    pub(crate) make_room: CancellationToken,
}

impl Drop for HalfOpen<'_> {
    fn drop(&mut self) {
        let Permit { admission, source } = self.permit;
        if let Some(source) = source {
            admission.release(*source, |used| used.half_open -= 1);
        }
        admission.waiting().by_age.remove(&self.age);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(caps: Caps) -> Arc<Admission> {
        Arc::new(Admission::new(caps))
    }

    const WIDE: Caps = Caps { total: 9, per_source: 9, source_connects: None, half_open: 9, half_open_per_source: 9 };

    fn admit(admission: &Arc<Admission>, peer: &str) -> Result<Permit, Refusal> {
        let mut permit = admission.admit()?;
        permit.come_from(peer.parse().unwrap())?;
        Ok(permit)
    }

    #[test]
    fn a_slash_64_is_one_source_and_a_mapped_v4_address_is_its_v4_source() {
        let admission = admission(Caps { per_source: 1, ..WIDE });
        let _held = admit(&admission, "2001:db8::1").unwrap();
        assert_eq!(admit(&admission, "2001:db8::2").unwrap_err(), Refusal::SourceLimit);
        let _other = admit(&admission, "2001:db8:0:1::1").unwrap();
        let _v4 = admit(&admission, "192.0.2.1").unwrap();
        assert_eq!(admit(&admission, "::ffff:192.0.2.1").unwrap_err(), Refusal::SourceLimit);
        let _next = admit(&admission, "192.0.2.2").unwrap();
        assert_eq!(*admission.open().borrow(), 4);
    }

    #[test]
    fn dropping_permits_leaves_nothing_behind() {
        let admission = admission(WIDE);
        let permit = admit(&admission, "::1").unwrap();
        let half = permit.half_open().unwrap();
        drop(half);
        drop(permit);
        let unknown = admission.admit().unwrap();
        drop(unknown.half_open().unwrap());
        drop(unknown);
        assert_eq!(*admission.open().borrow(), 0);
        assert!(admission.waiting().by_age.is_empty());
        assert!(admission.sources.iter().all(|shard| shard.lock().unwrap().by_source.is_empty()));
    }

    #[test]
    fn each_cap_refuses_with_its_own_reason_and_reopens() {
        let total = admission(Caps { total: 1, ..WIDE });
        let held = admit(&total, "::1").unwrap();
        assert_eq!(admit(&total, "2001:db8::").unwrap_err(), Refusal::TotalLimit);
        drop(held);
        assert!(admit(&total, "2001:db8::").is_ok());

        let source = admission(Caps { half_open_per_source: 1, ..WIDE });
        let (a, b) = (admit(&source, "::1").unwrap(), admit(&source, "::2").unwrap());
        let first = a.half_open().unwrap();
        assert_eq!(b.half_open().unwrap_err(), Refusal::HalfOpenSourceLimit);
        drop(first);
        assert!(b.half_open().is_ok());
    }

    #[test]
    fn a_flood_of_half_open_connections_pushes_out_its_oldest() {
        let admission = admission(Caps { half_open: 2, ..WIDE });
        let permits = [0, 1, 2].map(|i| admit(&admission, &format!("2001:db8:0:{i}::")).unwrap());
        let [oldest, older, newest] = permits.each_ref().map(|permit| permit.half_open().unwrap());
        assert!(oldest.make_room.is_cancelled());
        assert!(!older.make_room.is_cancelled() && !newest.make_room.is_cancelled());
        drop(oldest);
        assert_eq!(admission.waiting().by_age.len(), 2);
    }

    #[test]
    fn a_source_that_hangs_up_at_once_is_still_held_to_its_rate() {
        let rate = Rate { per_second: 1, burst: 2 };
        let admission = admission(Caps { source_connects: Some(rate), ..WIDE });
        for _ in 0..2 {
            drop(admit(&admission, "192.0.2.1").unwrap());
        }
        assert_eq!(admit(&admission, "192.0.2.1").unwrap_err(), Refusal::SourceRate);
        assert!(admit(&admission, "192.0.2.2").is_ok());
    }

    #[test]
    fn sources_of_long_ago_are_forgotten() {
        let mut sources = Sources::default();
        let rate = Rate { per_second: 1_000_000, burst: 1 };
        for number in 0..100_000_u32 {
            let now = u64::from(number) * 1_000_000;
            assert!(sources.entry(Source::V4(number.into()), now).pace.take(rate, now));
        }
        assert!(sources.by_source.len() <= SWEEP_AT_LEAST, "{}", sources.by_source.len());
    }
}
