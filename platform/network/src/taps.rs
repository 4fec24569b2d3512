//! Taps and their routes. A tap's alias says whose it is, so the kernel is the only memory needed.

use std::net::Ipv6Addr;

use serde::Deserialize;

use crate::address::{GATEWAY, HostTag};
use crate::command::{CommandError, ip_batch, json};

/// An attached instance, as its tap tells.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tap {
    pub(crate) name: String,
    pub(crate) instance: String,
    pub(crate) app: String,
    pub(crate) index: u64,
}

/// Taps that carry this host's prefix.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Those that are whole.
    pub(crate) taps: Vec<Tap>,
    /// Names of those whose making was interrupted.
    pub(crate) broken: Vec<String>,
}

#[derive(Deserialize)]
struct Link {
    ifname: String,
    #[serde(default)]
    ifalias: String,
}

impl Tap {
    fn alias(&self) -> String {
        format!("holm:{}:{}:{}", self.instance, self.app, self.index)
    }

    fn from_link(link: &Link, tag: HostTag) -> Option<Self> {
        let mut fields = link.ifalias.split(':');
        let (Some("holm"), Some(instance), Some(app), Some(index), None) =
            (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return None;
        };
        let index = index.parse().ok()?;
        let name = tag.tap(index).filter(|name| *name == link.ifname)?;
        Some(Self { name, instance: instance.to_owned(), app: app.to_owned(), index })
    }

    /// Makes the tap, down, with its alias.
    pub(crate) fn create(&self) -> Result<(), CommandError> {
        let Self { name, .. } = self;
        let alias = self.alias();
        ip_batch(&format!(
            "tuntap add dev {name} mode tap\n\
             link set dev {name} addrgenmode none\n\
             link set dev {name} alias {alias}\n"
        ))
    }

    /// Gives the tap the gateway's address and the guest's route, and sets it up.
    pub(crate) fn bring_up(&self, guest: Ipv6Addr) -> Result<(), CommandError> {
        let Self { name, .. } = self;
        ip_batch(&format!(
            "address replace {GATEWAY}/64 dev {name} nodad\n\
             link set dev {name} up\n\
             route replace {guest}/128 dev {name}\n"
        ))
    }
}

/// The taps of this host, in order of name.
pub(crate) fn list(tag: HostTag) -> Result<Found, CommandError> {
    let links = json("ip", &["-json", "link", "show"])?;
    let answer = |source| CommandError::Answer { program: "ip", source };
    let links: Vec<Link> = serde_json::from_value(links).map_err(answer)?;
    Ok(sort(links, tag))
}

fn sort(links: Vec<Link>, tag: HostTag) -> Found {
    let prefix = tag.tap_prefix();
    let mut found = Found::default();
    for link in links.into_iter().filter(|link| link.ifname.starts_with(&prefix)) {
        match Tap::from_link(&link, tag) {
            Some(tap) => found.taps.push(tap),
            None => found.broken.push(link.ifname),
        }
    }
    found.taps.sort();
    found
}

/// Removes taps by name; their addresses and routes go with them.
pub(crate) fn remove<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<(), CommandError> {
    let batch: String = names.into_iter().map(|name| format!("link delete dev {name}\n")).collect();
    if batch.is_empty() { Ok(()) } else { ip_batch(&batch) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_taps_are_found_and_unreadable_ones_are_broken() {
        let tag = HostTag::of_host("host");
        let p = tag.tap_prefix();
        let link = |ifname: &str, ifalias: &str| Link { ifname: ifname.to_owned(), ifalias: ifalias.to_owned() };
        let found = sort(
            vec![
                link("lo", ""),
                link("holm", "holm:a:b:1"),
                link(&format!("{p}a"), "holm:web-1:web:10"),
                link(&format!("{p}b"), ""),
                link(&format!("{p}c"), "holm:web-2:web:10"),
                link(&format!("{p}d"), "holm:web-2:web:13:x"),
            ],
            tag,
        );
        let (name, instance, app) = (format!("{p}a"), "web-1".into(), "web".into());
        assert_eq!(found.taps, [Tap { name, instance, app, index: 10 }]);
        assert_eq!(found.broken, ["b", "c", "d"].map(|end| format!("{p}{end}")));
    }
}
