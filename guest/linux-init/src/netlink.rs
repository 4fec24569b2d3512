//! Network devices, addresses and routes over rtnetlink: the three requests a guest needs, written by hand.

use std::fs;
use std::net::IpAddr;

use holm_guest_control::Network;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST_ACK: u16 = 1 | 4;
const NLM_F_REPLACE_CREATE: u16 = 0x100 | 0x400;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;

/// Why the network is not up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("no network device {0}")]
    NoDevice(String),
    #[error("cannot {step}: {source}")]
    Step { step: String, source: Errno },
}

/// Brings up loopback.
pub(crate) fn bring_up_loopback() -> Result<(), NetworkError> {
    Netlink::open()?.request("bring up loopback", &link_up(1))
}

/// Brings up the device with its addresses and default routes. Doing it twice is fine.
pub(crate) fn bring_up(network: &Network) -> Result<(), NetworkError> {
    let name = device(network)?;
    // Addresses are given, not found: no advertisement is taken, no duplicate is looked for.
    for (key, value) in [("accept_ra", "0"), ("accept_dad", "0"), ("autoconf", "0")] {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/{key}"), value);
    }
    let index = fs::read_to_string(format!("/sys/class/net/{name}/ifindex"))
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok())
        .ok_or_else(|| NetworkError::NoDevice(format!("`{name}`")))?;
    let netlink = Netlink::open()?;
    netlink.request(&format!("bring up {name}"), &link_up(index))?;
    let v6 = network.v6.iter().map(|a| (IpAddr::V6(a.address), a.prefix, a.gateway.map(IpAddr::V6)));
    let v4 = network.v4.iter().map(|a| (IpAddr::V4(a.address), a.prefix, a.gateway.map(IpAddr::V4)));
    for (address, prefix, gateway) in v6.chain(v4) {
        netlink.request(&format!("add {address}/{prefix} to {name}"), &add_address(index, address, prefix))?;
        if let Some(gateway) = gateway {
            netlink.request(&format!("route by {gateway} on {name}"), &default_route(index, gateway))?;
        }
    }
    Ok(())
}

fn device(network: &Network) -> Result<String, NetworkError> {
    let mut names: Vec<String> = fs::read_dir("/sys/class/net")
        .map(|entries| entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect())
        .unwrap_or_default();
    names.retain(|name| name != "lo");
    names.sort();
    if let Some(mac) = &network.mac {
        let found = names.into_iter().find(|name| {
            fs::read_to_string(format!("/sys/class/net/{name}/address"))
                .is_ok_and(|a| a.trim().eq_ignore_ascii_case(mac))
        });
        return found.ok_or_else(|| NetworkError::NoDevice(format!("with address {mac}")));
    }
    match &network.interface {
        Some(wanted) if names.contains(wanted) => Ok(wanted.clone()),
        Some(wanted) => Err(NetworkError::NoDevice(format!("`{wanted}`"))),
        None => names.into_iter().next().ok_or_else(|| NetworkError::NoDevice("besides loopback".into())),
    }
}

struct Netlink(OwnedFd);

impl Netlink {
    /// Protocol 0, rustix's `None`, is NETLINK_ROUTE.
    fn open() -> Result<Self, NetworkError> {
        let failed = |source| NetworkError::Step { step: "open a netlink socket".into(), source };
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .map_err(failed)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0)).map_err(failed)?;
        Ok(Self(socket))
    }

    /// Sends one request and waits for the kernel's answer, which comes at once.
    fn request(&self, step: &str, message: &[u8]) -> Result<(), NetworkError> {
        let failed = |source| NetworkError::Step { step: step.to_owned(), source };
        rustix::net::sendto(&self.0, message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).map_err(failed)?;
        let mut answer = [0u8; 4096];
        let (_, length) = rustix::net::recv(&self.0, &mut answer[..], RecvFlags::empty()).map_err(failed)?;
        match acknowledged(&answer[..length.min(4096)]) {
            Some(0) => Ok(()),
            Some(errno) => Err(failed(Errno::from_raw_os_error(errno))),
            None => Err(failed(Errno::BADMSG)),
        }
    }
}

/// Error number in an acknowledgement; 0 is success.
fn acknowledged(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let error = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    (kind == NLMSG_ERROR).then(|| error.saturating_neg())
}

/// A request: netlink header, fixed part, attributes, each padded to four bytes.
fn message(kind: u16, flags: u16, fixed: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut out = vec![0; 16];
    out.extend_from_slice(fixed);
    for (name, value) in attributes {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&length.to_ne_bytes());
        out.extend_from_slice(&name.to_ne_bytes());
        out.extend_from_slice(value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    let length = u32::try_from(out.len()).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_ne_bytes());
    out[4..6].copy_from_slice(&kind.to_ne_bytes());
    out[6..8].copy_from_slice(&(flags | NLM_F_REQUEST_ACK).to_ne_bytes());
    out[8..12].copy_from_slice(&1u32.to_ne_bytes());
    out
}

fn link_up(index: u32) -> Vec<u8> {
    let mut ifinfo = vec![0u8; 4];
    for field in [index, IFF_UP, IFF_UP] {
        ifinfo.extend_from_slice(&field.to_ne_bytes());
    }
    message(RTM_NEWLINK, 0, &ifinfo, &[])
}

fn family_and_bytes(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AF_INET6, v6.octets().to_vec()),
    }
}

fn add_address(index: u32, address: IpAddr, prefix: u8) -> Vec<u8> {
    let (family, bytes) = family_and_bytes(address);
    let mut ifaddr = vec![family, prefix, IFA_F_NODAD, 0];
    ifaddr.extend_from_slice(&index.to_ne_bytes());
    message(RTM_NEWADDR, NLM_F_REPLACE_CREATE, &ifaddr, &[(IFA_LOCAL, &bytes), (IFA_ADDRESS, &bytes)])
}

fn default_route(index: u32, gateway: IpAddr) -> Vec<u8> {
    let (family, bytes) = family_and_bytes(gateway);
    let mut route = vec![family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, 0, RTN_UNICAST];
    route.extend_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
    message(RTM_NEWROUTE, NLM_F_REPLACE_CREATE, &route, &[(RTA_GATEWAY, &bytes), (RTA_OIF, &index.to_ne_bytes())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_carries_its_length_and_pads_its_attributes() {
        let bytes = message(RTM_NEWADDR, 0, &[0; 8], &[(1, &[9; 5]), (2, &[7; 4])]);
        assert_eq!(bytes.len(), 16 + 8 + 12 + 8);
        assert_eq!(u32::from_ne_bytes(bytes[..4].try_into().unwrap()), 44);
        assert_eq!(u16::from_ne_bytes(bytes[24..26].try_into().unwrap()), 9);
        assert_eq!(bytes[36 - 3..36], [0; 3]);
    }

    #[test]
    fn a_refusal_is_told_by_its_error_number_and_rubbish_is_none() {
        let mut answer = vec![0u8; 36];
        answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        answer[16..20].copy_from_slice(&(-17i32).to_ne_bytes());
        assert_eq!(acknowledged(&answer), Some(17));
        assert_eq!(acknowledged(&answer[..10]), None);
        assert_eq!(acknowledged(&[0; 36]), None);
    }
}
