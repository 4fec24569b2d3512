//! What an app may take of the ingress: `[ingress]`.

use serde::{Deserialize, Serialize};
use toml_edit::{Table, value};

use crate::diagnostic::Sink;
use crate::section::{Field, Section};

/// Caps on the connections from outside to one app, over all its routes and instances. `None`: Holm's own default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressLimits {
    /// Connections at the same time: 1 to 1,000,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Connections at the same time from one source, which is an IPv6 /64 or an IPv4 address: 1 to 1,000,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_per_source: Option<u32>,
    /// New connections per second on average, twice as many at once: 1 to 1,000,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connects_per_second: Option<u32>,
}

const FIELDS: [&str; 3] = ["connections", "connections_per_source", "connects_per_second"];

impl IngressLimits {
    /// Whether nothing is set.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn read(field: &Field<'_>, sink: &mut Sink<'_>) -> Self {
        let Some(table) = field.table("limits, such as connections = 2000", sink) else { return Self::default() };
        let section = Section::strict(table, field.span.clone(), "[ingress]".to_owned(), &FIELDS, sink);
        let [connections, connections_per_source, connects_per_second] =
            FIELDS.map(|word| section.get(word).and_then(|field| field.number(1..=1_000_000, sink)));
        Self { connections, connections_per_source, connects_per_second }
    }

    pub(crate) fn to_table(self) -> Table {
        let mut table = Table::new();
        let values = [self.connections, self.connections_per_source, self.connects_per_second];
        for (word, number) in FIELDS.into_iter().zip(values) {
            if let Some(number) = number {
                table[word] = value(i64::from(number));
            }
        }
        table
    }
}
