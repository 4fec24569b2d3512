//! The user network: ports of a guest forwarded from the host's loopback, for hosts without privilege.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use serde::{Deserialize, Serialize};

/// One forwarded port, as QEMU's `hostfwd=tcp:HOST-:GUEST` takes it. QEMU's user network forwards IPv4 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortForward {
    /// Where the host reaches it, on loopback.
    pub host: SocketAddr,
    /// TCP port the guest listens on.
    pub guest_port: u16,
}

/// Finds a free loopback port for each port the guest listens on.
///
/// Each port was bound once and is free when this answers, but not reserved: QEMU may still find it taken, and the
/// caller then asks again. All ports of one call differ.
pub fn allocate_forwards(guest_ports: &[u16]) -> io::Result<Vec<PortForward>> {
    // Held until all are found, so that no port is answered twice.
    let mut held = Vec::with_capacity(guest_ports.len());
    let mut forwards = Vec::with_capacity(guest_ports.len());
    for &guest_port in guest_ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        forwards.push(PortForward { host: listener.local_addr()?, guest_port });
        held.push(listener);
    }
    Ok(forwards)
}

/// Whether a forward's host port can be bound now: to be asked before a forward from an earlier run is used again.
pub fn is_free(forward: &PortForward) -> bool {
    TcpListener::bind(forward.host).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_distinct_free_loopback_ports() {
        let forwards = allocate_forwards(&[80, 443, 80]).unwrap();
        assert_eq!(forwards.iter().map(|f| f.guest_port).collect::<Vec<_>>(), [80, 443, 80]);
        let mut ports: Vec<u16> = forwards.iter().map(|f| f.host.port()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 3);
        assert!(forwards.iter().all(|f| f.host.ip().is_loopback()));
    }

    #[test]
    fn a_taken_port_is_not_free() {
        let forward = allocate_forwards(&[80]).unwrap()[0];
        let _holder = TcpListener::bind(forward.host).unwrap();
        assert!(!is_free(&forward));
    }
}
