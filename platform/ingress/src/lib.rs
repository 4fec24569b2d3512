//! The ingress: an L4 proxy from public listeners to the instances behind them.
//!
//! It owns sockets and routing, never TLS keys: an SNI listener reads the ClientHello only to pick the route and
//! forwards every byte as it came. It may not touch the control plane's state or the network set-up.
//!
//! A caller starts one [`Ingress`], or one in [a process of its own](apart), and hands it whole [`RoutingTable`]s. Each table replaces the last one:
//! listeners that are new open, those gone close, the rest stay, and connections under way are never disturbed.
//!
//! ```text
//! accept ─ origin ─ limits ─┬─ Tcp ─────────────────────────────────┬─ app's limits ─ choose backend ─ connect ─ pump both ways
//!                          └─ Sni: assemble ClientHello ─ by name ─┘
//! ```
//!
//! | module | concept |
//! | --- | --- |
//! | [`table`] | what the caller wants: listeners, routes, backends |
//! | [`hello`] | the ClientHello, from hostile bytes to a server name |
//! | `live` | the table as connections see it, with state that outlives one table |
//! | `balance` | which backend gets the next connection |
//! | [`proxy`] | the PROXY protocol: who connected, told in a header |
//! | `arrival` | who a connection comes from, behind a proxy in front or not |
//! | `admission` | caps in total and per source |
//! | `app`, `rate` | caps of one app; averages with bursts |
//! | `connection` | one connection from accept to close |
//! | `pump` | bytes both ways, copied while few, spliced when many |
//! | `listen` | listening sockets, one per worker |
//! | [`apart`] | the same in a process of its own, that outlives its caller |
//! | [`stats`] | what was counted |
#![forbid(unsafe_code)]

mod admission;
pub mod apart;
mod app;
mod arrival;
mod balance;
#[cfg(feature = "bench")]
pub mod bench;
mod connection;
pub mod hello;
mod ingress;
mod listen;
mod live;
pub mod proxy;
mod pump;
mod rate;
pub mod stats;
pub mod table;

pub use ipnet::IpNet;

pub use ingress::{ApplyReport, Config, Ingress, IngressHandle, ShutdownReport, StartError};
pub use rate::Rate;
pub use stats::{ListenerStatus, Refusal, RouteStats, Stats};
pub use table::{
    AppLimits, Backend, BackendState, Listener, Route, RouteLimits, RoutingTable, ServerName, ServerNameError,
    TableError,
};
