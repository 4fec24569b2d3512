//! The forwarding switch. It is the whole machine's, so how it was before is remembered by every Holm host on it and
//! restored by the last to leave.

use std::fs;
use std::io;
use std::path::Path;

use crate::address::HostTag;
use crate::command::{CommandError, json};
use crate::ruleset::FORWARDING_WAS_OFF;

const CONF: &str = "/proc/sys/net/ipv6/conf";

/// Whether IPv6 forwarding is on.
pub(crate) fn is_on() -> io::Result<bool> {
    Ok(fs::read_to_string(format!("{CONF}/all/forwarding"))?.trim() != "0")
}

/// Turns IPv6 forwarding on. Interfaces that take their address from router advertisements keep doing so.
pub(crate) fn turn_on() -> io::Result<()> {
    // A router ignores advertisements unless accept_ra is 2: the host would lose its own default route.
    for interface in fs::read_dir(CONF)? {
        let accept_ra = interface?.path().join("accept_ra");
        if fs::read_to_string(&accept_ra).is_ok_and(|value| value.trim() == "1") {
            write(&accept_ra, "2")?;
        }
    }
    write(Path::new(&format!("{CONF}/all/forwarding")), "1")
}

/// Turns IPv6 forwarding off. `accept_ra` stays at 2, which for a host means the same as 1.
pub(crate) fn turn_off() -> io::Result<()> {
    write(Path::new(&format!("{CONF}/all/forwarding")), "0")
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    // A sysctl takes its value in one write; an interface may vanish meanwhile.
    match fs::write(path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// What the Holm tables on this machine say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// A table remembers that forwarding was off before Holm came.
    pub(crate) was_off: bool,
    /// A Holm host with another tag is on this machine.
    pub(crate) others: bool,
}

/// Reads what the Holm tables on this machine remember.
pub(crate) fn memory(tag: HostTag) -> Result<Memory, CommandError> {
    let answer = json("nft", &["--json", "list", "chains"])?;
    Ok(recall(&answer, tag))
}

fn recall(answer: &serde_json::Value, tag: HostTag) -> Memory {
    let own = tag.table();
    let mut memory = Memory { was_off: false, others: false };
    for chain in answer["nftables"].as_array().into_iter().flatten().map(|entry| &entry["chain"]) {
        let table = chain["table"].as_str().unwrap_or_default();
        if chain["family"] == "inet" && table.starts_with("holm_") {
            memory.others |= table != own;
            memory.was_off |= chain["name"] == FORWARDING_WAS_OFF;
        }
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn memory_is_read_from_every_holm_table_and_no_other() {
        let tag = HostTag::of_host("host");
        let own = tag.table();
        let chain =
            |table: &str, name: &str| json!({"chain": {"family": "inet", "table": table, "name": name, "handle": 1}});
        let memory = |chains: &[serde_json::Value]| {
            let mut all = vec![json!({"metainfo": {"version": "1.0.6"}})];
            all.extend_from_slice(chains);
            recall(&json!({ "nftables": all }), tag)
        };
        let off = FORWARDING_WAS_OFF;
        assert_eq!(memory(&[]), Memory { was_off: false, others: false });
        assert_eq!(memory(&[chain(&own, off)]), Memory { was_off: true, others: false });
        assert_eq!(memory(&[chain("holm_zzzz", off)]), Memory { was_off: true, others: true });
        assert_eq!(memory(&[chain("filter", off)]), Memory { was_off: false, others: false });
    }
}
