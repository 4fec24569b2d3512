//! Attach, detach, clean up: the privileged network as the agent uses it.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io;
use std::net::Ipv6Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::thread::{CapabilitySet, capabilities};
use serde::{Deserialize, Serialize};

use crate::address::{GATEWAY, HostTag, MAX_INDEX, MacAddress, UlaPrefix};
use crate::command::{self, CommandError};
use crate::forwarding;
use crate::ruleset::Ruleset;
use crate::taps::{self, Tap};

/// Settings of the privileged network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Id of this Holm host, unique in the world and the same after a restart. Prefix and names derive from it.
    pub host_id: String,
}

/// The privileged network of one Holm host. Calls are serialised; they run `ip` and `nft` and take milliseconds, so
/// call them from a thread that may block.
#[derive(Debug)]
pub struct Network {
    tag: HostTag,
    prefix: UlaPrefix,
    change: Mutex<()>,
}

/// An instance's end of its network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The persistent tap for the VMM, up, with the gateway's address on the host's side.
    pub tap: String,
    /// Ethernet address for the guest's interface.
    pub mac: MacAddress,
    /// Address for the guest's interface, as a /128. The host has a route to it.
    pub guest: Ipv6Addr,
    /// The guest's default route, by its interface.
    pub gateway: Ipv6Addr,
}

/// What a clean-up removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Synced {
    /// Instances that were attached but are not live.
    pub removed: Vec<String>,
    /// Live instances that are attached.
    pub kept: Vec<String>,
}

/// Why the privileged network cannot be used here.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// The process may not change the network.
    #[error("the process lacks CAP_NET_ADMIN; run as root or grant the capability")]
    Capability,
    /// Taps cannot be made.
    #[error("/dev/net/tun cannot be opened; load the `tun` module")]
    Tun(#[source] io::Error),
    /// IPv6 is off.
    #[error("IPv6 is disabled; set net.ipv6.conf.all.disable_ipv6 to 0")]
    Ipv6,
    /// A program is missing or the kernel refuses what it needs.
    #[error("a needed program does not work; install the packages `iproute2` and `nftables`")]
    Program(#[source] CommandError),
}

/// Why the network could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The privileged network cannot be used here.
    #[error("use the privileged network")]
    Missing(#[source] Missing),
    /// The index is too large for a tap's name.
    #[error("instance index {0} is not below {MAX_INDEX}")]
    Index(u64),
    /// A key has bytes that do not fit into a tap's alias.
    #[error("key `{0}` is not 1 to 80 letters, digits or `-_./@`")]
    Key(String),
    /// The index or the instance is attached as something else already.
    #[error("tap {tap} already belongs to instance `{instance}` of app `{app}`")]
    Taken {
        /// The tap.
        tap: String,
        /// Instance key it was made for.
        instance: String,
        /// App key it was made for.
        app: String,
    },
    /// A step failed.
    #[error("{step}")]
    Command {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: CommandError,
    },
    /// The forwarding switch could not be used.
    #[error("switch IPv6 forwarding")]
    Forwarding(#[source] io::Error),
}

/// Names the step a command failed in.
fn during(step: &'static str) -> impl FnOnce(CommandError) -> Error {
    move |source| Error::Command { step, source }
}

/// Whether the privileged network can be used here; changes nothing.
pub fn privileges() -> Result<(), Missing> {
    let effective = capabilities(None).map(|sets| sets.effective);
    if !effective.is_ok_and(|sets| sets.contains(CapabilitySet::NET_ADMIN)) {
        return Err(Missing::Capability);
    }
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    tun.map_err(Missing::Tun)?;
    let disabled = std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6");
    if disabled.map_or(true, |value| value.trim() != "0") {
        return Err(Missing::Ipv6);
    }
    command::run("ip", &["-Version"], "").map_err(Missing::Program)?;
    // A dry run over the real rules: the kernel checks every expression and changes nothing.
    let (tag, prefix) = (HostTag::of_host("probe"), UlaPrefix::of_host("probe"));
    let rules = Ruleset { tag, prefix, forwarding_was_off: false, taps: &[] }.render();
    command::run("nft", &["--check", "-f", "-"], &rules).map_err(Missing::Program)?;
    Ok(())
}

impl Network {
    /// Checks the privileges, turns forwarding on and puts the firewall in force for what is attached already.
    pub fn privileged(config: &Config) -> Result<Self, Error> {
        privileges().map_err(Error::Missing)?;
        let network = Self {
            tag: HostTag::of_host(&config.host_id),
            prefix: UlaPrefix::of_host(&config.host_id),
            change: Mutex::new(()),
        };
        network.refresh(&network.list()?.taps)?;
        Ok(network)
    }

    /// The host's prefix, which all its guests' addresses are in.
    pub fn prefix(&self) -> UlaPrefix {
        self.prefix
    }

    /// Makes the tap, address, route and firewall rules of an instance. The same call again answers the same.
    ///
    /// `index` is unique among this host's attached instances and below [`MAX_INDEX`]. Instances of equal `app_key`
    /// reach each other. Keys are 1 to 80 letters, digits or `-_./@`.
    pub fn attach(&self, instance_key: &str, index: u64, app_key: &str) -> Result<Attachment, Error> {
        for key in [instance_key, app_key] {
            if !is_key(key) {
                return Err(Error::Key(key.to_owned()));
            }
        }
        let name = self.tag.tap(index).ok_or(Error::Index(index))?;
        let (instance, app) = (instance_key.to_owned(), app_key.to_owned());
        let wanted = Tap { name, instance, app, index };
        let guest = self.prefix.instance(index);

        let _change = self.lock();
        let mut found = self.list()?;
        let clash = |tap: &&Tap| tap.index == index || tap.instance == instance_key;
        match found.taps.iter().find(clash) {
            Some(tap) if *tap == wanted => {}
            Some(tap) => {
                let (tap, instance, app) = (tap.name.clone(), tap.instance.clone(), tap.app.clone());
                return Err(Error::Taken { tap, instance, app });
            }
            None => {
                let broken = found.broken.iter().filter(|broken| **broken == wanted.name);
                taps::remove(broken.map(String::as_str)).map_err(during("remove a broken tap"))?;
                if let Err(error) = wanted.create() {
                    // Best effort: what remains is found as broken and removed later.
                    let _ = taps::remove([wanted.name.as_str()]);
                    return Err(during("create the tap")(error));
                }
                found.taps.push(wanted.clone());
            }
        }
        // The rules come before the link is up: no packet of the guest ever passes without them.
        self.refresh(&found.taps)?;
        wanted.bring_up(guest).map_err(during("bring up the tap"))?;
        let mac = MacAddress::of_guest(guest);
        Ok(Attachment { tap: wanted.name, mac, guest, gateway: GATEWAY })
    }

    /// Removes all that belongs to an instance. Fine if there is nothing.
    pub fn detach(&self, instance_key: &str) -> Result<(), Error> {
        let _change = self.lock();
        let (gone, kept): (Vec<Tap>, Vec<Tap>) =
            self.list()?.taps.into_iter().partition(|tap| tap.instance == instance_key);
        if gone.is_empty() {
            return Ok(());
        }
        self.remove(&gone, &[])?;
        self.refresh(&kept)
    }

    /// Removes all that belongs to instances other than the live ones, such as a killed agent's, and puts the
    /// firewall in force for the rest.
    pub fn sync(&self, live: &BTreeSet<String>) -> Result<Synced, Error> {
        let _change = self.lock();
        let found = self.list()?;
        let (kept, gone): (Vec<Tap>, Vec<Tap>) = found.taps.into_iter().partition(|tap| live.contains(&tap.instance));
        self.remove(&gone, &found.broken)?;
        self.refresh(&kept)?;
        let instances = |taps: Vec<Tap>| taps.into_iter().map(|tap| tap.instance).collect();
        Ok(Synced { removed: instances(gone), kept: instances(kept) })
    }

    /// Removes everything of this host, and turns forwarding off again if it was off before the first Holm host.
    pub fn remove_all(&self) -> Result<(), Error> {
        let _change = self.lock();
        let found = self.list()?;
        self.remove(&found.taps, &found.broken)?;
        let memory = forwarding::memory(self.tag).map_err(during("read the firewall"))?;
        if memory.was_off && !memory.others {
            forwarding::turn_off().map_err(Error::Forwarding)?;
        }
        command::nft(&Ruleset::removal(self.tag)).map_err(during("remove the firewall"))
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        // The lock guards no data: the kernel holds the state.
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn list(&self) -> Result<taps::Found, Error> {
        taps::list(self.tag).map_err(during("list the taps"))
    }

    fn remove(&self, taps: &[Tap], broken: &[String]) -> Result<(), Error> {
        let names = taps.iter().map(|tap| tap.name.as_str());
        let names = names.chain(broken.iter().map(String::as_str));
        taps::remove(names).map_err(during("remove taps"))
    }

    /// Puts the firewall in force for these taps, then lets packets be forwarded.
    fn refresh(&self, taps: &[Tap]) -> Result<(), Error> {
        let on = forwarding::is_on().map_err(Error::Forwarding)?;
        let memory = forwarding::memory(self.tag).map_err(during("read the firewall"))?;
        let forwarding_was_off = memory.was_off || !on;
        let (tag, prefix) = (self.tag, self.prefix);
        let rules = Ruleset { tag, prefix, forwarding_was_off, taps }.render();
        command::nft(&rules).map_err(during("set the firewall"))?;
        if !on {
            forwarding::turn_on().map_err(Error::Forwarding)?;
        }
        Ok(())
    }
}

fn is_key(key: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./@".contains(&byte);
    (1..=80).contains(&key.len()) && key.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_could_escape_an_alias_are_refused() {
        for key in ["web-1", "a/b@c_d.e", &"k".repeat(80)] {
            assert!(is_key(key), "{key}");
        }
        for key in ["", "a b", "a:b", "a\nlink delete dev eth0", "\u{e5}", &"k".repeat(81)] {
            assert!(!is_key(key), "{key:?}");
        }
    }
}
