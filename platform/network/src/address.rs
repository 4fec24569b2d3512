//! Prefixes, addresses and names. All are derived, so they need no storage and are the same after a restart.

use std::fmt;
use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The gateway of every guest: a link-local address of the host's end of its tap.
pub const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// A unique local /48 of one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UlaPrefix([u8; 6]);

impl UlaPrefix {
    /// Derives the prefix from a host id that is unique in the world, after RFC 4193 section 3.2.2 (with SHA-256
    /// in place of SHA-1, and the id in place of time and EUI-64).
    pub fn of_host(host_id: &str) -> Self {
        let hash = digest("prefix", host_id.as_bytes());
        Self([0xfd, hash[0], hash[1], hash[2], hash[3], hash[4]])
    }

    /// Address of the instance with this index: the index is its interface identifier in subnet 1.
    pub fn instance(self, index: u64) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets[..6].copy_from_slice(&self.0);
        octets[7] = 1;
        octets[8..].copy_from_slice(&index.to_be_bytes());
        octets.into()
    }

    /// The first address of the prefix.
    pub fn network(self) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets[..6].copy_from_slice(&self.0);
        octets.into()
    }
}

impl fmt::Display for UlaPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/48", self.network())
    }
}

/// Four hexadecimal digits that tell the names of one Holm host from those of another on the same machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostTag(u16);

impl HostTag {
    /// Derives the tag from the host id.
    pub fn of_host(host_id: &str) -> Self {
        let hash = digest("tag", host_id.as_bytes());
        Self(u16::from_be_bytes([hash[0], hash[1]]))
    }

    /// What the names of all taps of this host begin with.
    pub fn tap_prefix(self) -> String {
        format!("holm{:04x}", self.0)
    }

    /// The nftables table of this host, in family `inet`.
    pub fn table(self) -> String {
        format!("holm_{:04x}", self.0)
    }

    /// Name of the tap of the instance with this index, at most 15 bytes as the kernel demands. `None` if the index
    /// is [`MAX_INDEX`] or more.
    pub fn tap(self, index: u64) -> Option<String> {
        (index < MAX_INDEX).then(|| format!("{}{index:x}", self.tap_prefix()))
    }
}

/// Indices must be below this: seven hexadecimal digits remain for them in a tap's name.
pub const MAX_INDEX: u64 = 1 << 28;

/// An Ethernet address of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Derives a locally administered unicast address from the guest's IPv6 address.
    pub fn of_guest(guest: Ipv6Addr) -> Self {
        let hash = digest("mac", &guest.octets());
        Self([0x02, hash[0], hash[1], hash[2], hash[3], hash[4]])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

fn digest(purpose: &str, bytes: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update("holm ").chain_update(purpose).chain_update([0]).chain_update(bytes).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_addresses_stay_the_same_forever() {
        let prefix = UlaPrefix::of_host("host-1");
        assert_eq!(prefix, UlaPrefix::of_host("host-1"));
        assert_ne!(prefix, UlaPrefix::of_host("host-2"));
        let tag = HostTag(0x0af0);
        assert_eq!(tag.tap(0x2b).as_deref(), Some("holm0af02b"));
        assert_eq!(tag.table(), "holm_0af0");
        assert_eq!(tag.tap(MAX_INDEX), None);
        let prefix = UlaPrefix([0xfd, 1, 2, 3, 4, 5]);
        assert_eq!(prefix.to_string(), "fd01:203:405::/48");
        assert_eq!(prefix.instance(7).to_string(), "fd01:203:405:1::7");
    }

    proptest! {
        #[test]
        fn derived_values_are_valid(host: String, index in 0..MAX_INDEX) {
            let prefix = UlaPrefix::of_host(&host);
            let address = prefix.instance(index);
            prop_assert!(address.is_unique_local());
            prop_assert_eq!(address.segments()[..3].to_vec(), prefix.network().segments()[..3].to_vec());
            let tap = HostTag::of_host(&host).tap(index).unwrap();
            prop_assert!(tap.len() <= 15 && tap.starts_with("holm"));
            let MacAddress(mac) = MacAddress::of_guest(address);
            prop_assert_eq!(mac[0] & 0b11, 0b10);
        }
    }
}
