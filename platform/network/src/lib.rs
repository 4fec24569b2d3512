//! The host's side of instance networks: a tap, an address and firewall rules per instance.
//!
//! It owns the taps, routes and the nftables table whose names carry its host tag, and the forwarding switch while it
//! needs it; it may not touch anything else of the host's network.
//!
//! With privilege ([`Network`]) an instance has its own tap with a routed /128 out of the host's ULA /48. It reaches
//! the outside (masqueraded) and the instances of its own app, nothing of the host itself, and no other app; nobody
//! but the host and its own app reaches it. Without privilege ([`user`]) QEMU's user network serves, and ports of the
//! guest are forwarded from the host's loopback.
//!
//! The kernel holds the state: what is attached is read from the taps themselves, so a killed agent loses nothing
//! and [`Network::sync`] can clean up after it.
//!
//! | module | concept |
//! | --- | --- |
//! | [`address`] | prefixes, addresses and names, all derived |
//! | `ruleset` | the nftables table as a pure function of what is attached |
//! | `taps` | taps and routes, by `ip` |
//! | `forwarding` | the forwarding switch, and how it was before |
//! | `command` | running `ip` and `nft` |
//! | [`user`] | forwarded ports of the user network |
#![forbid(unsafe_code)]

pub mod address;
mod command;
mod forwarding;
mod network;
mod ruleset;
mod taps;
pub mod user;

pub use address::{HostTag, MacAddress, UlaPrefix};
pub use command::CommandError;
pub use network::{Attachment, Config, Error, Missing, Network, Synced, privileges};
