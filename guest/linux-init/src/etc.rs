//! What the app finds in /etc about its own name and the network.

use holm_guest_control::Network;

/// `/etc/hosts`: loopback, and the host name on the guest's own addresses.
pub(crate) fn hosts(hostname: &str, network: Option<&Network>) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let v6 = network.and_then(|n| n.v6.as_ref()).map(|a| a.address.to_string());
    let v4 = network.and_then(|n| n.v4.as_ref()).map(|a| a.address.to_string());
    let mut own: Vec<String> = v6.into_iter().chain(v4).collect();
    if own.is_empty() {
        own.push("127.0.1.1".to_owned());
    }
    for address in own {
        text.push_str(&format!("{address}\t{hostname}\n"));
    }
    text
}

/// `/etc/resolv.conf`; `None` when no name server is given, so that the image keeps its own. The server of the app's own
/// names comes first: it refuses at once what it does not know.
pub(crate) fn resolv_conf(network: &Network) -> Option<String> {
    if network.dns.is_empty() && !network.names {
        return None;
    }
    let mut text = String::new();
    if !network.search.is_empty() {
        text.push_str(&format!("search {}\n", network.search.join(" ")));
    }
    let own = network.names.then(|| crate::names::SERVER.to_string());
    for server in own.iter().chain(&network.dns) {
        text.push_str(&format!("nameserver {server}\n"));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use holm_guest_control::{Ipv4Address, Ipv6Address};

    #[test]
    fn hosts_name_the_guest_on_its_own_addresses() {
        let network = Network {
            v6: Some(Ipv6Address { address: "fd00::7".parse().unwrap(), prefix: 128, gateway: None }),
            v4: Some(Ipv4Address { address: "10.0.2.15".parse().unwrap(), prefix: 24, gateway: None }),
            ..Network::default()
        };
        assert!(hosts("web-1", Some(&network)).ends_with("fd00::7\tweb-1\n10.0.2.15\tweb-1\n"));
        assert!(hosts("web-1", None).ends_with("127.0.1.1\tweb-1\n"));
    }

    #[test]
    fn resolv_conf_is_left_alone_without_name_servers() {
        let mut network = Network { search: vec!["a.internal".into(), "b".into()], ..Network::default() };
        assert_eq!(resolv_conf(&network), None);
        network.dns = vec!["fd00::53".into(), "10.0.2.3".into()];
        let text = resolv_conf(&network).unwrap();
        assert_eq!(text, "search a.internal b\nnameserver fd00::53\nnameserver 10.0.2.3\n");
        network.names = true;
        assert!(resolv_conf(&network).unwrap().contains("b\nnameserver ::1\nnameserver fd00::53\n"));
    }
}
