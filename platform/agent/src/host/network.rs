//! Taps with routed addresses where the host lets us, QEMU's user network elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;

use holm_model::id::InstanceName;
use holm_network::{Network, user};
use holm_vmm::{HostForward, MacAddress, NetSpec};

use super::short_name;
use crate::world::{Attachment, Failure};

/// How instances reach the network and are reached.
#[derive(Debug, Clone)]
pub enum NetworkMode {
    /// A tap and a routed address per instance; needs privilege.
    Privileged(Arc<Network>),
    /// QEMU's user network, with forwards from loopback.
    User,
}

impl NetworkMode {
    pub(super) async fn attach(
        &self,
        instance: &InstanceName,
        ports: &BTreeSet<u16>,
        dns: &[String],
    ) -> Result<Attachment, Failure> {
        let Self::Privileged(network) = self else {
            return Ok(Attachment::User { forwards: free_ports(ports)? });
        };
        let (network, key) = (network.clone(), short_name(instance));
        let (index, app) = (instance.number, instance.app.to_string());
        let made = blocking(move || network.attach(&key, index, &app)).await?;
        Ok(Attachment::Routed {
            tap: made.tap,
            mac: made.mac.to_string(),
            address: made.guest,
            gateway: made.gateway,
            dns: dns.to_vec(),
        })
    }

    pub(super) async fn detach(&self, instance: &InstanceName) -> Result<(), Failure> {
        let Self::Privileged(network) = self else { return Ok(()) };
        let (network, key) = (network.clone(), short_name(instance));
        blocking(move || network.detach(&key)).await
    }

    /// Removes the networks of all instances but `known`; says whose they were.
    pub(super) async fn sync(&self, known: BTreeSet<String>) -> Result<Vec<String>, Failure> {
        let Self::Privileged(network) = self else { return Ok(Vec::new()) };
        let network = network.clone();
        Ok(blocking(move || network.sync(&known)).await?.removed)
    }

    /// Removes everything of this host's network, the firewall too.
    pub(super) async fn leave(&self) -> Result<(), Failure> {
        let Self::Privileged(network) = self else { return Ok(()) };
        let network = network.clone();
        blocking(move || network.remove_all()).await
    }
}

/// A free port of the host's loopback for each port of a guest.
pub(super) fn free_ports(ports: &BTreeSet<u16>) -> Result<BTreeMap<u16, SocketAddrV4>, Failure> {
    let ports: Vec<u16> = ports.iter().copied().collect();
    let forwards = user::allocate_forwards(&ports)
        .map_err(|error| Failure(format!("cannot find a free port on loopback: {error}")))?;
    let v4 = |forward: user::PortForward| match forward.host {
        SocketAddr::V4(host) => Ok((forward.guest_port, host)),
        SocketAddr::V6(host) => Err(Failure(format!("the user network cannot forward from {host}"))),
    };
    forwards.into_iter().map(v4).collect()
}

/// The guest's network device.
pub(super) fn device(instance: &InstanceName, network: &Attachment) -> Result<NetSpec, Failure> {
    Ok(match network {
        Attachment::Routed { tap, mac, .. } => {
            let mac = mac.parse().map_err(|error| Failure::of(&error))?;
            NetSpec::Tap { ifname: tap.clone(), mac }
        }
        Attachment::User { forwards } => {
            let forwards = forwards.iter().map(|(port, listen)| HostForward { listen: *listen, guest_port: *port });
            // The network is the guest's own: any address will do.
            let [.., a, b, c, d] = instance.number.to_be_bytes();
            NetSpec::User { forwards: forwards.collect(), mac: MacAddress::local([0, a, b, c, d]) }
        }
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, holm_network::Error> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| Failure::of(&error))?;
    done.map_err(|error| Failure(format!("cannot {}", Failure::of(&error))))
}
