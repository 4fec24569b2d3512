//! What a caller asks and what the ingress says: one JSON document per line, answers in any order, by number.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ingress::ApplyReport;
use crate::stats::Stats;
use crate::table::RoutingTable;

/// Both sides must have the same one.
pub(super) const PROTOCOL: u32 = 1;

/// Bytes of the longest line: a table of some hundred thousand routes.
pub(super) const LONGEST: u64 = 64 << 20;

/// A question and its number.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Question {
    pub(super) number: u64,
    pub(super) ask: Ask,
}

/// What a caller wants.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    /// Serve this from now on.
    Apply(RoutingTable),
    /// Tell all counters.
    Stats,
    /// Say how many connections this backend has, now and whenever that changes. Has no answer.
    Watch(String),
    /// Say it no longer. Has no answer.
    Forget(String),
    /// Reset the connections of this backend. Has no answer.
    Cut(String),
    /// Close the listeners, and end when the last connection has ended or after this time.
    End(Duration),
    /// Give copies of the listening sockets. Nothing else is asked on this connection.
    HandOver,
    /// Take these listening sockets. Nothing else is asked on this connection.
    TakeOver(Vec<Passed>),
}

/// A listening address whose sockets change hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Passed {
    /// As the table has it.
    pub(super) wanted: SocketAddr,
    /// Where it really listens.
    pub(super) local: SocketAddr,
    /// How many sockets follow.
    pub(super) sockets: usize,
}

/// What the ingress says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Said {
    /// The first line of every connection.
    Welcome {
        /// [`PROTOCOL`] of this ingress.
        protocol: u32,
    },
    /// To the question of this number.
    Answer { number: u64, answer: Answer },
    /// A watched backend has this many connections.
    Open { backend: String, connections: usize },
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// The table is served.
    Applied(ApplyReport),
    /// It was not taken.
    Refused(String),
    /// All counters.
    Stats(Stats),
    /// The ingress has ended; so many connections were cut.
    Ended { cut: usize },
    /// These sockets follow when a line has come.
    Listeners(Vec<Passed>),
    /// The sockets may come.
    Ready,
    /// They have come.
    Taken,
}
