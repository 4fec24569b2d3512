//! The nftables table as a pure function of what is attached.
//!
//! Every change replaces the whole table in one transaction, so packets see the old rules or the new ones, never
//! half of each, and the rules cannot drift from what is attached.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::address::{HostTag, UlaPrefix};
use crate::taps::Tap;

/// An empty chain of this name in a Holm table says: forwarding was off before Holm came.
pub(crate) const FORWARDING_WAS_OFF: &str = "forwarding_was_off";

/// ICMPv6 by its number: names of protocols are in `/etc/protocols`, which small systems do not have.
const ICMPV6: u8 = 58;

/// What the table depends on.
#[derive(Debug)]
pub(crate) struct Ruleset<'a> {
    pub(crate) tag: HostTag,
    pub(crate) prefix: UlaPrefix,
    pub(crate) forwarding_was_off: bool,
    pub(crate) taps: &'a [Tap],
}

impl Ruleset<'_> {
    /// The ruleset in nft's language.
    pub(crate) fn render(&self) -> String {
        let table = self.tag.table();
        let apps: BTreeSet<&str> = self.taps.iter().map(|tap| tap.app.as_str()).collect();
        let marks: BTreeMap<&str, usize> = apps.into_iter().zip(1..).collect();
        let mut sources = Vec::new();
        let mut app_of = Vec::new();
        let mut members = Vec::new();
        for tap in self.taps {
            let (name, mark) = (&tap.name, marks[tap.app.as_str()]);
            sources.push(format!("\"{name}\" . {}", self.prefix.instance(tap.index)));
            app_of.push(format!("\"{name}\" : {mark}"));
            members.push(format!("\"{name}\" . {mark}"));
        }
        let taps = format!("\"{}*\"", self.tag.tap_prefix());
        let mut text = format!("table inet {table}\ndelete table inet {table}\n");
        let marker =
            if self.forwarding_was_off { format!("chain {FORWARDING_WAS_OFF} {{ }}\n") } else { String::new() };
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            r#"table inet {table} {{
{marker}# Which address a tap may send from, and which app it belongs to.
set sources {{ type ifname . ipv6_addr; {sources} }}
map app_of {{ type ifname : mark; {app_of} }}
set members {{ type ifname . mark; {members} }}

chain spoofing {{
    type filter hook prerouting priority raw; policy accept;
    iifname {taps} jump check_source
}}
chain check_source {{
    iifname . ip6 saddr @sources return
    # Neighbour discovery and echo on the link itself; duplicate address detection has no source yet.
    ip6 saddr {{ fe80::/10, :: }} meta l4proto {ICMPV6} return
    drop
}}
chain to_host {{
    type filter hook input priority filter; policy accept;
    iifname {taps} jump from_guest_to_host
}}
chain from_guest_to_host {{
    ct state established,related accept
    meta l4proto {ICMPV6} accept
    drop
}}
chain routed {{
    type filter hook forward priority filter; policy accept;
    iifname {taps} oifname {taps} jump between_guests
    oifname {taps} ct state established,related accept
    oifname {taps} drop
}}
chain between_guests {{
    ct state established,related accept
    meta mark set iifname map @app_of
    oifname . meta mark @members meta mark set 0 accept
    drop
}}
chain outside {{
    type nat hook postrouting priority srcnat; policy accept;
    ip6 saddr {prefix} oifname != {taps} masquerade
}}
}}
"#,
            sources = elements(&sources),
            app_of = elements(&app_of),
            members = elements(&members),
            prefix = self.prefix,
        );
        text
    }

    /// The ruleset that removes the table, whether it is there or not.
    pub(crate) fn removal(tag: HostTag) -> String {
        let table = tag.table();
        format!("table inet {table}\ndelete table inet {table}\n")
    }
}

/// The `elements` clause of a set; nft refuses an empty one.
fn elements(elements: &[String]) -> String {
    if elements.is_empty() { String::new() } else { format!("elements = {{ {} }};", elements.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tap(index: u64, app: &str) -> Tap {
        let tag = HostTag::of_host("host");
        let instance = format!("i{index}");
        Tap { name: tag.tap(index).unwrap(), instance, app: app.to_owned(), index }
    }

    #[test]
    fn members_of_one_app_share_a_mark_and_no_other_app_has_it() {
        let taps = [tap(1, "web"), tap(2, "db"), tap(3, "web")];
        let tag = HostTag::of_host("host");
        let prefix = UlaPrefix::of_host("host");
        let text = Ruleset { tag, prefix, forwarding_was_off: true, taps: &taps }.render();
        let p = tag.tap_prefix();
        assert!(text.contains(&format!("\"{p}1\" . 2, \"{p}2\" . 1, \"{p}3\" . 2")), "{text}");
        assert!(text.contains(&format!("\"{p}1\" : 2, \"{p}2\" : 1, \"{p}3\" : 2")), "{text}");
        assert!(text.contains(&format!("\"{p}3\" . {}", prefix.instance(3))), "{text}");
        assert!(text.contains("chain forwarding_was_off"));
    }

    #[test]
    fn protocols_are_numbers() {
        let (tag, prefix) = (HostTag::of_host("host"), UlaPrefix::of_host("host"));
        let text = Ruleset { tag, prefix, forwarding_was_off: false, taps: &[] }.render();
        let protocols: Vec<_> = text.lines().filter_map(|line| line.split_once("l4proto ")).collect();
        assert_eq!(protocols.len(), 2);
        assert!(protocols.iter().all(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit())), "{protocols:?}");
    }

    #[test]
    fn nothing_attached_has_empty_sets() {
        let (tag, prefix) = (HostTag::of_host("host"), UlaPrefix::of_host("host"));
        let text = Ruleset { tag, prefix, forwarding_was_off: false, taps: &[] }.render();
        assert!(!text.contains("elements"));
        assert!(!text.contains("forwarding_was_off"));
    }
}
