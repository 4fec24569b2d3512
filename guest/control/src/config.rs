//! What a guest is told to run: the `Configure` message's content and its checks.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use serde::{Deserialize, Serialize};

use crate::GuestVolume;

use crate::secrets::GuestSecrets;

/// Everything a guest needs to run its app. Sent once; the same again is acknowledged, a different one refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Instance id, for the guest's own messages.
    pub instance: String,
    /// Host name the app sees. Letters, digits, `-` and `.`; at most 63 bytes.
    pub hostname: String,
    /// Program and arguments, the image's Entrypoint and Cmd already joined by the host. Not empty.
    pub command: Vec<String>,
    /// Whole environment: the image's merged with the manifest's. `PATH` is added where it is missing.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// `""` (root), `name`, `uid`, `uid:gid`, `name:group`; names are looked up in the image.
    #[serde(default)]
    pub user: String,
    /// Working directory; `""` is `/`. Made when missing.
    #[serde(default)]
    pub working_dir: String,
    /// Signal number that asks the app to end. Default 15.
    #[serde(default = "default_stop_signal")]
    pub stop_signal: i32,
    /// Milliseconds between the stop signal and SIGKILL.
    #[serde(default = "default_grace_ms")]
    pub grace_ms: u64,
    /// Hard cap of the app's memory in bytes.
    #[serde(default)]
    pub memory_max: Option<u64>,
    /// Addresses of the guest's network device; absent: loopback only.
    #[serde(default)]
    pub network: Option<Network>,
    /// The writable layer.
    #[serde(default)]
    pub root: RootOptions,
    /// How to tell whether the app works; absent: running is healthy.
    #[serde(default)]
    pub health: Option<HealthCheck>,
    /// Files written into the root before the app starts.
    #[serde(default)]
    pub files: Vec<GuestFile>,
    /// Volumes mounted before the app starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<GuestVolume>,
    /// The app's secrets; absent: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<GuestSecrets>,
    /// Milliseconds an exited guest waits to be told to stop before it powers off by itself.
    #[serde(default = "default_linger_ms")]
    pub linger_ms: u64,
}

fn default_stop_signal() -> i32 {
    15
}

fn default_grace_ms() -> u64 {
    10_000
}

fn default_linger_ms() -> u64 {
    600_000
}

/// The guest's network device and its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Device to use, by Ethernet address; else by `interface`; else the first that is not loopback.
    #[serde(default)]
    pub mac: Option<String>,
    /// Device to use, by name.
    #[serde(default)]
    pub interface: Option<String>,
    /// IPv6 address and gateway.
    #[serde(default)]
    pub v6: Option<Ipv6Address>,
    /// IPv4 address and gateway.
    #[serde(default)]
    pub v4: Option<Ipv4Address>,
    /// Name servers, as text, in order.
    #[serde(default)]
    pub dns: Vec<String>,
    /// Search domains, in order.
    #[serde(default)]
    pub search: Vec<String>,
    /// Whether the guest answers for the names of the app's own instances, which [`crate::HostMessage::Names`] tells.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub names: bool,
}

/// An IPv6 address with its way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6Address {
    /// The guest's address.
    pub address: Ipv6Addr,
    /// Prefix length, 0..=128.
    pub prefix: u8,
    /// Default gateway, taken as reachable on the link. Usually `fe80::1`.
    #[serde(default)]
    pub gateway: Option<Ipv6Addr>,
}

/// An IPv4 address with its way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv4Address {
    /// The guest's address.
    pub address: Ipv4Addr,
    /// Prefix length, 0..=32.
    pub prefix: u8,
    /// Default gateway, taken as reachable on the link.
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
}

/// The writable layer above the image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootOptions {
    /// Most bytes the app may write; it is guest memory. Absent: half of the guest's memory.
    #[serde(default)]
    pub writable_max: Option<u64>,
}

/// A health check that runs inside the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is tried.
    pub probe: Probe,
    /// Milliseconds between tries, at least 1.
    pub interval_ms: u64,
    /// Milliseconds after which a try has failed.
    pub timeout_ms: u64,
    /// Successes in a row that make an app healthy, at least 1.
    pub healthy_after: u32,
    /// Failures in a row that make an app unhealthy, at least 1.
    pub unhealthy_after: u32,
}

/// What a health check tries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Probe {
    /// A TCP connection to the loopback addresses, IPv6 first, then IPv4.
    Tcp {
        /// Port.
        port: u16,
    },
    /// `GET path` over HTTP/1.1; 200..=399 is healthy.
    Http {
        /// Port.
        port: u16,
        /// Path with query, starting with `/`.
        path: String,
    },
    /// A command in the app's root, as the app's user; exit code 0 is healthy.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
}

/// A file to write into the root before the app starts.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFile {
    /// Absolute path without `..`. Missing folders are made with mode 0755.
    pub path: String,
    /// Permission bits, at most 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Content; base64 in JSON.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub bytes: Vec<u8>,
}

impl core::fmt::Debug for GuestFile {
    /// Leaves the content out: it may be a secret.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("GuestFile")
            .field("path", &self.path)
            .field("mode", &format_args!("{:#o}", self.mode))
            .field("uid", &self.uid)
            .field("gid", &self.gid)
            .field("bytes", &format_args!("<{} bytes>", self.bytes.len()))
            .finish()
    }
}

pub(crate) fn to_base64<S: serde::Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(&base64::engine::general_purpose::STANDARD.encode(bytes))
}

pub(crate) fn from_base64<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(input)?;
    base64::engine::general_purpose::STANDARD.decode(text).map_err(serde::de::Error::custom)
}

/// Why a [`Config`] cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is no program to run.
    #[error("command is empty: the image has no Entrypoint or Cmd and the manifest gives no command")]
    NoCommand,
    /// The host name is not one.
    #[error("host name `{0}` must be 1 to 63 letters, digits, `-` or `.`")]
    Hostname(String),
    /// A string that goes to the kernel has a zero byte.
    #[error("{0} contains a zero byte")]
    ZeroByte(&'static str),
    /// A variable name that cannot be one.
    #[error("environment variable name `{0}` is empty or contains `=`")]
    EnvName(String),
    /// Not a signal number.
    #[error("stop signal {0} is not in 1..=64")]
    StopSignal(i32),
    /// A prefix longer than the address.
    #[error("prefix length {0} is longer than the address")]
    Prefix(u8),
    /// A file path that leaves the root or is relative.
    #[error("file path `{0}` must be absolute, without `..`, and not a folder")]
    FilePath(String),
    /// A number outside its range.
    #[error("{0} is out of range")]
    Range(&'static str),
}

impl Config {
    /// Checks everything that can be known without the image.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.command.first().is_none_or(String::is_empty) {
            return Err(ConfigError::NoCommand);
        }
        let host_byte = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        if !(1..=63).contains(&self.hostname.len()) || !self.hostname.bytes().all(host_byte) {
            return Err(ConfigError::Hostname(self.hostname.clone()));
        }
        if self.command.iter().any(|a| a.contains('\0')) {
            return Err(ConfigError::ZeroByte("command"));
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains('=') {
                return Err(ConfigError::EnvName(name.clone()));
            }
            if name.contains('\0') || value.contains('\0') {
                return Err(ConfigError::ZeroByte("environment"));
            }
        }
        if self.user.contains('\0') {
            return Err(ConfigError::ZeroByte("user"));
        }
        if self.working_dir.contains('\0') {
            return Err(ConfigError::ZeroByte("working directory"));
        }
        if !(1..=64).contains(&self.stop_signal) {
            return Err(ConfigError::StopSignal(self.stop_signal));
        }
        if self.memory_max == Some(0) {
            return Err(ConfigError::Range("memory_max"));
        }
        if let Some(network) = &self.network {
            network.check()?;
        }
        if let Some(health) = &self.health {
            health.check()?;
        }
        for volume in &self.volumes {
            volume.check()?;
        }
        if let Some(secrets) = &self.secrets {
            secrets.check()?;
        }
        for file in &self.files {
            let inside = file.path.starts_with('/') && !file.path.ends_with('/') && !file.path.contains('\0');
            if !inside || file.path.split('/').any(|part| part == "..") {
                return Err(ConfigError::FilePath(file.path.clone()));
            }
            if file.mode > 0o7777 {
                return Err(ConfigError::Range("file mode"));
            }
        }
        Ok(())
    }
}

impl Network {
    fn check(&self) -> Result<(), ConfigError> {
        match (&self.v6, &self.v4) {
            (Some(v6), _) if v6.prefix > 128 => return Err(ConfigError::Prefix(v6.prefix)),
            (_, Some(v4)) if v4.prefix > 32 => return Err(ConfigError::Prefix(v4.prefix)),
            _ => {}
        }
        if self.dns.iter().chain(&self.search).any(|s| s.contains(char::is_whitespace) || s.contains('\0')) {
            return Err(ConfigError::Range("name server or search domain"));
        }
        Ok(())
    }
}

impl HealthCheck {
    fn check(&self) -> Result<(), ConfigError> {
        if self.interval_ms == 0 || self.timeout_ms == 0 {
            return Err(ConfigError::Range("health check interval or timeout"));
        }
        if self.healthy_after == 0 || self.unhealthy_after == 0 {
            return Err(ConfigError::Range("health check threshold"));
        }
        match &self.probe {
            Probe::Tcp { port: 0 } | Probe::Http { port: 0, .. } => Err(ConfigError::Range("health check port")),
            Probe::Http { path, .. } if !path.starts_with('/') || path.contains(|c: char| c.is_ascii_control()) => {
                Err(ConfigError::Range("health check path"))
            }
            Probe::Exec { command } if command.is_empty() => Err(ConfigError::NoCommand),
            _ => Ok(()),
        }
    }
}
