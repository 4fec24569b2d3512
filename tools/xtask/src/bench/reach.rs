//! What each figure should reach: `bench/platform.toml`, `bench/morpheus.toml`, `bench/kernel.toml`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// One figure: what it is and what it should reach.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reach {
    /// What it is, for people.
    pub(super) what: String,
    /// Unit of the limits and of what is measured.
    pub(super) unit: String,
    /// Reached up to this value.
    pub(super) at_most: Option<f64>,
    /// Reached from this value on.
    pub(super) at_least: Option<f64>,
}

impl Reach {
    /// Whether `value` is good enough.
    pub(super) fn is_reached_by(&self, value: f64) -> bool {
        self.at_most.is_none_or(|most| value <= most) && self.at_least.is_none_or(|least| value >= least)
    }

    /// The limit in words, such as `≤ 50 ms`.
    pub(super) fn limit(&self) -> String {
        let (sign, value) = match (self.at_most, self.at_least) {
            (Some(most), _) => ("\u{2264}", most),
            (None, least) => ("\u{2265}", least.unwrap_or_default()),
        };
        format!("{sign} {value} {}", self.unit)
    }
}

/// All figures, by name.
#[derive(Debug)]
pub(super) struct Reaches(BTreeMap<String, Reach>);

impl Reaches {
    /// Reads the file.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not as it should be", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let reaches: BTreeMap<String, Reach> = toml_edit::de::from_str(text)?;
        for (name, reach) in &reaches {
            ensure!(
                reach.at_most.is_some() != reach.at_least.is_some(),
                "{name} needs at_most or at_least, one of them"
            );
        }
        Ok(Self(reaches))
    }

    /// The figure `name`.
    pub(super) fn of(&self, name: &str) -> Result<&Reach> {
        self.0.get(name).with_context(|| format!("the file of limits does not say what {name} should reach"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_at_their_edge_and_not_beyond() {
        let reaches =
            "[a]\nwhat = \"a\"\nunit = \"ms\"\nat_most = 5.0\n[b]\nwhat = \"b\"\nunit = \"×\"\nat_least = 2.0\n";
        let reaches = Reaches::parse(reaches).unwrap();
        let cases = [("a", 5.0, true), ("a", 5.1, false), ("b", 2.0, true), ("b", 1.9, false)];
        for (name, value, expected) in cases {
            assert_eq!(reaches.of(name).unwrap().is_reached_by(value), expected, "{name} {value}");
        }
        assert_eq!(reaches.of("a").unwrap().limit(), "\u{2264} 5 ms");
        assert!(reaches.of("c").is_err());
    }

    #[test]
    fn a_figure_with_no_limit_or_two_is_refused() {
        for limits in ["", "at_most = 1.0\nat_least = 1.0\n", "at_mots = 1.0\n"] {
            assert!(Reaches::parse(&format!("[a]\nwhat = \"a\"\nunit = \"ms\"\n{limits}")).is_err(), "{limits}");
        }
    }
}
