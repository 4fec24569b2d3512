//! Endpoints by port in JSON, where a port as a key is text and some of serde's buffers forget that it may be a number.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::de::{self, Deserialize, Deserializer, Visitor};

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Port(u16);

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrNumber;
        impl Visitor<'_> for TextOrNumber {
            type Value = Port;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a port")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Port, E> {
                text.parse().map(Port).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Port, E> {
                number.try_into().map(Port).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(TextOrNumber)
    }
}

/// For `deserialize_with`: also within flattened and tagged data.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<u16, SocketAddr>, D::Error> {
    let endpoints = BTreeMap::<Port, SocketAddr>::deserialize(deserializer)?;
    Ok(endpoints.into_iter().map(|(port, address)| (port.0, address)).collect())
}
