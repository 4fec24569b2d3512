//! What stays and what goes: leftovers of a killed agent, detach, the end of it all.

mod support;

use std::collections::BTreeSet;

use holm_network::{Error, HostTag};
use support::*;

fn live(keys: &[&str]) -> BTreeSet<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

#[test]
fn leftovers_of_a_killed_agent_go_and_live_instances_keep_their_network() {
    if skipped() {
        return;
    }
    let mut host = Host::new();
    let network = host.network("one");
    host.guest(&network, "web-1", 1, "web");
    let dead = host.guest(&network, "web-2", 2, "web").attachment.tap.clone();
    let broken = HostTag::of_host("one").tap(9).unwrap();
    host.namespace.inside(|| run("ip", &["tuntap", "add", "dev", &broken, "mode", "tap"]));

    // What a killed agent knew is gone with it; the next one starts from what the kernel has.
    let network = host.network("one");
    let synced = host.namespace.inside(|| network.sync(&live(&["web-1", "web-9"]))).unwrap();
    assert_eq!((synced.removed, synced.kept), (vec!["web-2".to_owned()], vec!["web-1".to_owned()]));
    let kept = &host.guests[0];
    let links = host.links();
    assert!(links.contains(&kept.attachment.tap));
    assert!(!links.contains(&dead) && !links.contains(&broken), "{links:?}");
    assert!(!host.ruleset().contains(&dead));

    let receiver = kept.udp();
    let from_host = host.namespace.udp([0; 16].into());
    from_host.send_to(b"still there", receiver.local_addr().unwrap()).unwrap();
    assert_eq!(first(&receiver).0, "still there");
}

#[test]
fn attach_and_detach_may_be_repeated() {
    if skipped() {
        return;
    }
    let host = Host::new();
    let network = host.network("one");
    host.namespace.inside(|| {
        let first = network.attach("web-1", 1, "web").unwrap();
        assert_eq!(network.attach("web-1", 1, "web").unwrap(), first);
        assert!(matches!(network.attach("web-2", 1, "web"), Err(Error::Taken { .. })));
        assert!(matches!(network.attach("web-1", 2, "web"), Err(Error::Taken { .. })));
        assert!(matches!(network.attach("web-1", 1, "db"), Err(Error::Taken { .. })));
        network.detach("web-1").unwrap();
        network.detach("web-1").unwrap();
        network.detach("never seen").unwrap();
        network.attach("web-2", 1, "web").unwrap();
    });
}

#[test]
fn detach_leaves_nothing_of_the_instance() {
    if skipped() {
        return;
    }
    let host = Host::new();
    let network = host.network("one");
    let attach = || network.attach("web-1", 1, "web").unwrap();
    let attached = host.namespace.inside(attach);
    let routes = || host.namespace.inside(|| run("ip", &["-6", "route"]));
    assert!(routes().contains(&attached.guest.to_string()));
    assert!(host.ruleset().contains(&attached.tap));
    host.namespace.inside(|| network.detach("web-1")).unwrap();
    assert!(!host.links().contains(&attached.tap));
    assert!(!routes().contains(&attached.guest.to_string()));
    assert!(!host.ruleset().contains(&attached.tap));
}

#[test]
fn nothing_is_left_after_everything_is_removed() {
    if skipped() {
        return;
    }
    let host = Host::new();
    assert_eq!(host.forwarding(), "0");
    let (links, ruleset) = (host.links(), host.ruleset());
    let network = host.network("one");
    assert_eq!(host.forwarding(), "1");
    host.namespace.inside(|| network.attach("web-1", 1, "web")).unwrap();
    assert_ne!(host.links(), links);
    for _ in 0..2 {
        host.namespace.inside(|| network.remove_all()).unwrap();
        assert_eq!((host.links(), host.ruleset()), (links.clone(), ruleset.clone()));
        assert_eq!(host.forwarding(), "0");
    }
}

#[test]
fn the_last_holm_host_to_leave_restores_forwarding() {
    if skipped() {
        return;
    }
    let host = Host::new();
    let (one, two) = (host.network("one"), host.network("two"));
    let attach = || two.attach("web-1", 1, "web").unwrap();
    let attached = host.namespace.inside(attach);
    host.namespace.inside(|| one.remove_all()).unwrap();
    assert_eq!(host.forwarding(), "1");
    assert!(host.links().contains(&attached.tap));
    assert!(host.ruleset().contains(&attached.tap));
    host.namespace.inside(|| two.remove_all()).unwrap();
    assert_eq!(host.forwarding(), "0");
}

#[test]
fn forwarding_that_was_on_stays_on() {
    if skipped() {
        return;
    }
    let host = Host::new();
    let on = "/proc/sys/net/ipv6/conf/all/forwarding";
    host.namespace.inside(|| std::fs::write(on, "1")).unwrap();
    let network = host.network("one");
    host.namespace.inside(|| network.remove_all()).unwrap();
    assert_eq!(host.forwarding(), "1");
}
