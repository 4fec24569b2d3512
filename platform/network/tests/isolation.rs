//! What packets pass: guests are network namespaces at the other ends of real taps.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use support::*;

/// Long enough for a packet that passes, short enough to wait for one that does not.
const SILENCE: Duration = Duration::from_millis(500);

fn send(from: &UdpSocket, to: &UdpSocket, text: &str) {
    from.send_to(text.as_bytes(), to.local_addr().unwrap()).unwrap();
}

#[test]
fn instances_of_one_app_reach_each_other_and_no_other_app() {
    if skipped() {
        return;
    }
    let mut host = Host::new();
    let network = host.network("one");
    host.guest(&network, "web-1", 1, "web");
    host.guest(&network, "web-2", 2, "web");
    host.guest(&network, "db-1", 3, "db");
    let [web_1, web_2, db] = &host.guests[..] else { unreachable!() };
    let (web_1, web_2, db) = (web_1.udp(), web_2.udp(), db.udp());

    for (from, same, other) in [(&web_1, &web_2, &db), (&web_2, &web_1, &db)] {
        // Both leave by the same tap: when the second has arrived, the fate of the first is decided.
        send(from, other, "from another app");
        send(from, same, "from the same app");
        let (text, sender) = first(same);
        assert_eq!((&*text, sender), ("from the same app", from.local_addr().unwrap()));
    }
    let from_host = host.namespace.udp([0; 16].into());
    send(&from_host, &db, "from the host");
    assert_eq!(first(&db).0, "from the host");
}

#[test]
fn a_guest_sends_from_its_own_address_only() {
    if skipped() {
        return;
    }
    let mut host = Host::new();
    let network = host.network("one");
    host.guest(&network, "web-1", 1, "web");
    host.guest(&network, "web-2", 2, "web");
    let [liar, victim] = &host.guests[..] else { unreachable!() };
    let receiver = victim.udp();
    for claimed in [network.prefix().instance(7), OUTSIDE] {
        let spoofing = liar.namespace.inside(|| {
            liar.add_address(claimed);
            UdpSocket::bind((claimed, 0)).unwrap()
        });
        send(&spoofing, &receiver, "spoofed");
        let honest = liar.udp();
        send(&honest, &receiver, "honest");
        assert_eq!(first(&receiver).0, "honest", "{claimed}");
    }
}

#[test]
fn the_outside_is_reached_by_the_hosts_address_and_cannot_reach_in() {
    if skipped() {
        return;
    }
    let mut host = Host::new();
    let network = host.network("one");
    host.outside();
    let guest_address = host.guest(&network, "web-1", 1, "web").attachment.guest;
    let guest = &host.guests[0];
    let outside = host.outside_namespace();

    let server = outside.udp(OUTSIDE);
    let client = guest.udp();
    send(&client, &server, "out");
    let (text, seen_from) = first(&server);
    assert_eq!((&*text, seen_from.ip()), ("out", HOST_OUTSIDE.into()));
    server.send_to(b"back", seen_from).unwrap();
    assert_eq!(first(&client).0, "back");

    // A neighbour that knows the way still gets no packet in.
    outside.inside(|| {
        let (prefix, via) = (network.prefix().to_string(), HOST_OUTSIDE.to_string());
        run("ip", &["-6", "route", "add", &prefix, "via", &via]);
    });
    let listener = guest.namespace.inside(|| TcpListener::bind((guest_address, 0)).unwrap());
    let addr = listener.local_addr().unwrap();
    let connect = || TcpStream::connect_timeout(&addr, SILENCE);
    assert!(outside.inside(connect).is_err());
    let from_host = || TcpStream::connect_timeout(&addr, DEADLINE);
    assert!(host.namespace.inside(from_host).is_ok());
}

#[test]
fn services_of_the_host_are_out_of_a_guests_reach() {
    if skipped() {
        return;
    }
    let mut host = Host::new();
    let network = host.network("one");
    host.outside();
    host.guest(&network, "web-1", 1, "web");
    let guest = &host.guests[0];
    let service = host.namespace.inside(|| TcpListener::bind("[::]:0").unwrap());
    let port = service.local_addr().unwrap().port();
    let addr = SocketAddr::from((HOST_OUTSIDE, port));
    let from_guest = guest.namespace.inside(|| TcpStream::connect_timeout(&addr, SILENCE));
    assert!(from_guest.is_err());
    let from_outside = host.outside_namespace().inside(|| TcpStream::connect_timeout(&addr, DEADLINE));
    assert!(from_outside.is_ok(), "the service works for others");
}

#[test]
fn guests_of_two_holm_hosts_on_one_machine_do_not_reach_each_other() {
    if skipped() {
        return;
    }
    let mut host = Host::new();
    let (one, two) = (host.network("one"), host.network("two"));
    host.guest(&one, "web-1", 1, "web");
    host.guest(&one, "web-2", 2, "web");
    host.guest(&two, "web-1", 1, "web");
    let [a, b, other] = &host.guests[..] else { unreachable!() };
    let (a, b, other) = (a.udp(), b.udp(), other.udp());
    send(&a, &other, "from the other Holm host");
    send(&a, &b, "from the same app");
    assert_eq!(first(&b).0, "from the same app");
    let from_host = host.namespace.udp([0; 16].into());
    send(&from_host, &other, "from the host");
    assert_eq!(first(&other).0, "from the host");
}
