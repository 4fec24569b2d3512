//! The routing table: what the caller wants the ingress to serve.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::rate::Rate;

/// Everything the ingress serves at one moment. Immutable once applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutingTable {
    /// Listening addresses. Port 0 asks the kernel for a free port.
    pub listeners: BTreeMap<SocketAddr, Listener>,
    /// Routes by id. The id names the route in statistics.
    pub routes: BTreeMap<String, Route>,
    /// Limits of apps by id. An app that is not listed has those of the ingress's configuration.
    #[serde(default)]
    pub apps: BTreeMap<String, AppLimits>,
    /// Proxies in front, by listening address: connections from these networks begin with a PROXY header of version 2, and
    /// count as what it says. Connections from elsewhere have none.
    #[serde(default)]
    pub proxies: BTreeMap<SocketAddr, Vec<IpNet>>,
}

/// What a listening address does with its connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Listener {
    /// Every connection goes to one route.
    Tcp {
        /// Route id.
        route: String,
    },
    /// The server name of the TLS ClientHello picks the route; TLS itself passes through.
    Sni {
        /// Route id by server name.
        names: BTreeMap<ServerName, String>,
    },
}

/// Backends that serve the same thing, and the limits on reaching them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Candidates for new connections.
    pub backends: Vec<Backend>,
    /// Limits of this route.
    #[serde(default)]
    pub limits: RouteLimits,
    /// The app it belongs to; routes of one app share the app's limits. `None`: no such limits.
    #[serde(default)]
    pub app: Option<String>,
}

/// One address an instance serves on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Id of the instance. Connections are counted, drained and closed by this id, over all routes.
    pub id: String,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Whether it may get new connections.
    pub state: BackendState,
    /// Whether it expects a PROXY header of version 2 before the client's bytes.
    #[serde(default)]
    pub proxy_protocol: bool,
}

/// Whether a backend may get new connections. Connections under way are not touched by a change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendState {
    /// Gets new connections.
    Healthy,
    /// Gets no new connections; it is about to stop.
    Draining,
    /// Gets no new connections; its health check fails.
    Unhealthy,
}

/// Limits of one route. `None` means no limit of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteLimits {
    /// Connections at the same time.
    pub max_connections: Option<usize>,
    /// A connection on which no byte moved for this long is reset.
    pub idle_timeout: Option<Duration>,
}

/// What one app may take of the ingress, over all its routes. `None` means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppLimits {
    /// Connections at the same time.
    pub max_connections: Option<usize>,
    /// Connections at the same time per source: an IPv6 /64 or an IPv4 address.
    pub max_per_source: Option<usize>,
    /// How often a connection may begin.
    pub connects: Option<Rate>,
}

/// A DNS name as TLS server names use it: lower case, letters, digits and hyphens, no trailing dot, at most
/// 253 bytes, not an IP address (RFC 6066 section 3).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerName(String);

/// Why a text is not a server name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ServerNameError {
    /// Empty, or longer than 253 bytes.
    #[error("a server name has 1 to 253 bytes")]
    Length,
    /// A label is empty, longer than 63 bytes, or has a hyphen at an end.
    #[error("each label of a server name has 1 to 63 bytes and no hyphen at its ends")]
    Label,
    /// A byte other than a letter, digit, hyphen or dot.
    #[error("a server name has letters, digits, hyphens and dots only")]
    Character,
    /// An IPv4 address; IPv6 addresses already fail by their colons.
    #[error("an IP address is not a server name")]
    IpAddress,
}

impl ServerName {
    /// Checks a name and makes it lower case.
    pub fn parse(name: &[u8]) -> Result<Self, ServerNameError> {
        if name.is_empty() || name.len() > 253 {
            return Err(ServerNameError::Length);
        }
        let ldh = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
        for label in name.split(|byte| *byte == b'.') {
            if !label.iter().all(ldh) {
                return Err(ServerNameError::Character);
            }
            let hyphen = |byte: Option<&u8>| byte == Some(&b'-');
            if label.is_empty() || label.len() > 63 || hyphen(label.first()) || hyphen(label.last()) {
                return Err(ServerNameError::Label);
            }
        }
        // No top-level domain is all digits, so a name that ends in such a label can only mean an IPv4 address.
        let last = name.rsplit(|byte| *byte == b'.').next().unwrap_or(name);
        if last.iter().all(u8::is_ascii_digit) {
            return Err(ServerNameError::IpAddress);
        }
        let lower = name.iter().map(|byte| byte.to_ascii_lowercase() as char);
        Ok(Self(lower.collect()))
    }

    /// The name, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ServerName {
    type Error = ServerNameError;

    fn try_from(name: String) -> Result<Self, ServerNameError> {
        Self::parse(name.as_bytes())
    }
}

impl From<ServerName> for String {
    fn from(name: ServerName) -> Self {
        name.0
    }
}

impl std::borrow::Borrow<str> for ServerName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a table cannot be applied. The table before it stays in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// A listener names a route that the table does not have.
    #[error("listener {listener} names route `{route}`, which the table does not have")]
    UnknownRoute {
        /// Address of the listener.
        listener: SocketAddr,
        /// Route id it names.
        route: String,
    },
    /// The ingress was shut down.
    #[error("the ingress was shut down")]
    ShutDown,
}

impl RoutingTable {
    /// Checks that every listener's routes exist.
    pub fn validate(&self) -> Result<(), TableError> {
        for (addr, listener) in &self.listeners {
            let missing = match listener {
                Listener::Tcp { route } => (!self.routes.contains_key(route)).then_some(route),
                Listener::Sni { names } => names.values().find(|route| !self.routes.contains_key(*route)),
            };
            if let Some(route) = missing {
                let (listener, route) = (*addr, route.clone());
                return Err(TableError::UnknownRoute { listener, route });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names_are_checked() {
        let table = [
            ("example.com", Ok("example.com")),
            ("EXAMPLE.Com", Ok("example.com")),
            ("a", Ok("a")),
            ("xn--bcher-kva.example", Ok("xn--bcher-kva.example")),
            ("1.example", Ok("1.example")),
            ("", Err(ServerNameError::Length)),
            ("example.com.", Err(ServerNameError::Label)),
            ("a..b", Err(ServerNameError::Label)),
            ("-a.b", Err(ServerNameError::Label)),
            ("a-.b", Err(ServerNameError::Label)),
            ("a_b.c", Err(ServerNameError::Character)),
            ("b\u{fc}cher.example", Err(ServerNameError::Character)),
            ("::1", Err(ServerNameError::Character)),
            ("127.0.0.1", Err(ServerNameError::IpAddress)),
        ];
        for (name, expected) in table {
            let got = ServerName::parse(name.as_bytes());
            assert_eq!(got.as_ref().map(|name| name.as_str()), expected.as_ref().copied(), "{name}");
        }
        let label = "a".repeat(63);
        assert!(ServerName::parse(label.as_bytes()).is_ok());
        assert_eq!(ServerName::parse(format!("{label}a").as_bytes()), Err(ServerNameError::Label));
        let long = [label.as_str(); 4].join(".");
        assert_eq!(ServerName::parse(long.as_bytes()), Err(ServerNameError::Length));
    }

    #[test]
    fn a_listener_without_its_route_is_refused() {
        let listener = Listener::Tcp { route: "web".into() };
        let addr = "[::1]:80".parse().unwrap();
        let table = RoutingTable { listeners: [(addr, listener)].into(), ..Default::default() };
        let error = table.validate().unwrap_err();
        assert_eq!(error.to_string(), "listener [::1]:80 names route `web`, which the table does not have");
    }
}
