//! What the ingress counted: refusals by reason, bytes and connections per route.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

/// A snapshot of all counters. Counts are since start; they survive a new table as long as it has the route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Connections accepted, refused ones included.
    pub accepted: u64,
    /// Connections open now.
    pub active: usize,
    /// Failed `accept` calls, such as for lack of file descriptors.
    pub accept_errors: u64,
    /// Connections refused before a route was known. Reasons that never occurred are left out.
    pub refused: BTreeMap<Refusal, u64>,
    /// The listeners of the current table, by their address there.
    pub listeners: BTreeMap<SocketAddr, ListenerStatus>,
    /// The routes of the current table.
    pub routes: BTreeMap<String, RouteStats>,
}

/// Whether a listener of the table is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerStatus {
    /// Open on this address, which differs from the table's only if the table's port is 0.
    Open(SocketAddr),
    /// Not open, and why. It is tried again from time to time.
    Failed(String),
}

/// Counters of one route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStats {
    /// Connections that reached this route, refused ones included.
    pub accepted: u64,
    /// Connections open now.
    pub active: usize,
    /// Bytes from clients to backends.
    pub bytes_in: u64,
    /// Bytes from backends to clients.
    pub bytes_out: u64,
    /// Attempts to connect to a backend that failed. Another backend may have taken the connection.
    pub connect_failures: u64,
    /// Connections cut: reset by a side, idle too long, or closed with their backend.
    pub cut: u64,
    /// Connections refused by reason. Reasons that never occurred are left out.
    pub refused: BTreeMap<Refusal, u64>,
    /// Connections open now by backend id, over all routes the backend is in.
    pub backends: BTreeMap<String, usize>,
}

/// Why a connection was not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Too many connections in total.
    TotalLimit,
    /// Too many connections from the same source: an IPv6 /64 or an IPv4 address.
    SourceLimit,
    /// New connections from the same source came too fast.
    SourceRate,
    /// Made room for a newer one: too many connections in total have not sent a whole ClientHello yet.
    HalfOpenLimit,
    /// Too many such connections from the same source.
    HalfOpenSourceLimit,
    /// The ClientHello was not whole before the deadline.
    HelloTimeout,
    /// The ClientHello is larger than the limit.
    HelloTooLarge,
    /// The bytes are not a well-formed ClientHello.
    HelloMalformed,
    /// The client closed before its ClientHello was whole.
    HelloCut,
    /// The ClientHello has no server name.
    NameMissing,
    /// No route has the server name.
    NameUnknown,
    /// A trusted proxy in front did not send its whole PROXY header before the deadline.
    ProxyHeaderTimeout,
    /// What a trusted proxy in front sent first is no PROXY header of version 2.
    ProxyHeaderMalformed,
    /// A trusted proxy in front closed before its PROXY header was whole.
    ProxyHeaderCut,
    /// Too many connections to the app, over all its routes.
    AppLimit,
    /// Too many connections to the app from the same source.
    AppSourceLimit,
    /// New connections to the app came too fast.
    AppRate,
    /// Too many connections on the route.
    RouteLimit,
    /// The route has no healthy backend.
    NoBackend,
    /// No healthy backend could be connected to.
    ConnectFailed,
    /// The listener left the table while the connection was being accepted.
    ListenerGone,
}

const REFUSALS: [Refusal; 21] = [
    Refusal::TotalLimit,
    Refusal::SourceLimit,
    Refusal::SourceRate,
    Refusal::HalfOpenLimit,
    Refusal::HalfOpenSourceLimit,
    Refusal::HelloTimeout,
    Refusal::HelloTooLarge,
    Refusal::HelloMalformed,
    Refusal::HelloCut,
    Refusal::NameMissing,
    Refusal::NameUnknown,
    Refusal::ProxyHeaderTimeout,
    Refusal::ProxyHeaderMalformed,
    Refusal::ProxyHeaderCut,
    Refusal::AppLimit,
    Refusal::AppSourceLimit,
    Refusal::AppRate,
    Refusal::RouteLimit,
    Refusal::NoBackend,
    Refusal::ConnectFailed,
    Refusal::ListenerGone,
];

/// One counter per reason.
#[derive(Debug, Default)]
pub(crate) struct RefusalCounters([AtomicU64; REFUSALS.len()]);

impl RefusalCounters {
    pub(crate) fn add(&self, refusal: Refusal) {
        self.0[refusal as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn snapshot(&self) -> BTreeMap<Refusal, u64> {
        let counted = REFUSALS.into_iter().map(|reason| (reason, self.0[reason as usize].load(Relaxed)));
        counted.filter(|(_, count)| *count > 0).collect()
    }
}

/// Counters of the whole ingress.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) accepted: AtomicU64,
    pub(crate) accept_errors: AtomicU64,
    pub(crate) refused: RefusalCounters,
}

/// Counters of one route.
#[derive(Debug, Default)]
pub(crate) struct RouteCounters {
    pub(crate) accepted: AtomicU64,
    pub(crate) active: AtomicUsize,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) connect_failures: AtomicU64,
    pub(crate) cut: AtomicU64,
    pub(crate) refused: RefusalCounters,
}

impl RouteCounters {
    pub(crate) fn snapshot(&self, backends: BTreeMap<String, usize>) -> RouteStats {
        RouteStats {
            accepted: self.accepted.load(Relaxed),
            active: self.active.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            connect_failures: self.connect_failures.load(Relaxed),
            cut: self.cut.load(Relaxed),
            refused: self.refused.snapshot(),
            backends,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter() {
        let counters = RefusalCounters::default();
        for (index, reason) in REFUSALS.into_iter().enumerate() {
            for _ in 0..=index {
                counters.add(reason);
            }
        }
        let snapshot = counters.snapshot();
        for (index, reason) in REFUSALS.into_iter().enumerate() {
            assert_eq!(snapshot[&reason], index as u64 + 1);
        }
    }
}
