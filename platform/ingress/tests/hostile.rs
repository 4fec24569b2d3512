//! Hostile clients: whatever they do to one app, others of the same ingress are served. How fast is measured by
//! `cargo xtask bench platform ingress`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use holm_ingress::{
    AppLimits, Backend, BackendState, Config, IngressHandle, Listener, Rate, Refusal, Route, RoutingTable, ServerName,
};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const VICTIM: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A client of its own source: an address of the loopback block.
async fn connect_from(host: u8, addr: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 0, 1, host), 0).into())?;
    deadline(socket.connect(addr)).await
}

/// The beginning of a ClientHello for `name`, record by record, all but its last byte.
fn hello(name: &str) -> Vec<u8> {
    let name = name.as_bytes();
    let length = |bytes: usize| u16::try_from(bytes).unwrap().to_be_bytes();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(length(name.len() + 9));
    body.extend([0, 0]);
    body.extend(length(name.len() + 5));
    body.extend(length(name.len() + 3));
    body.push(0);
    body.extend(length(name.len()));
    body.extend(name);
    let mut message = vec![1, 0];
    message.extend(length(body.len()));
    message.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend(length(message.len()));
    record.extend(message);
    record
}

/// Two apps, each with a host name on the shared port; the first has a port of its own too.
struct TwoApps {
    ingress: IngressHandle,
    names: SocketAddr,
    port: SocketAddr,
}

async fn two_apps(config: Config, limits: AppLimits) -> TwoApps {
    let (flooded, other) = (echo_server("a").await, echo_server("b").await);
    let ingress = start(config);
    let name = |name: &str, app: &str| (ServerName::parse(name.as_bytes()).unwrap(), app.to_owned());
    let names = BTreeMap::from([name("flooded.example", "flooded"), name("other.example", "other")]);
    let of_app = |app: &str, server| Route { app: Some(app.to_owned()), ..route([backend(app, server)]) };
    let table = RoutingTable {
        listeners: [(VICTIM, Listener::Sni { names }), (ANY_PORT, Listener::Tcp { route: "flooded".into() })].into(),
        routes: [("flooded".into(), of_app("flooded", flooded)), ("other".into(), of_app("other", other))].into(),
        apps: [("flooded".into(), limits)].into(),
        ..RoutingTable::default()
    };
    let port = apply(&ingress, table).await;
    let names = ingress.local_addr(VICTIM).unwrap();
    TwoApps { ingress, names, port }
}

/// Asks the other app as often as told, each time on a new connection; every one must be served.
async fn other_app_serves(apps: &TwoApps, times: usize) {
    for _ in 0..times {
        let mut client = connect_from(250, apps.names).await.unwrap();
        let hello = hello("other.example");
        client.write_all(&hello).await.unwrap();
        let mut said = vec![0; 1 + hello.len()];
        deadline(client.read_exact(&mut said)).await.unwrap();
        assert!(said[0] == b'b' && said[1..] == hello);
    }
}

#[tokio::test]
async fn slow_endless_and_random_hellos_leave_others_served() {
    // A deadline that a slow machine does not reach: nobody may leave before the caps are met.
    let hello_timeout = Duration::from_secs(600);
    let config = Config { max_half_open: 300, max_half_open_per_source: 40, hello_timeout, ..Config::default() };
    let apps = two_apps(config, AppLimits::default()).await;
    // Ten sources hold as many half-open connections as they may: more than there is room for in all.
    let mut held = Vec::new();
    for host in 1..=10 {
        for _ in 0..45 {
            if let Ok(mut client) = connect_from(host, apps.names).await {
                // Part of a hello, part of a record header, or nothing.
                let bytes = &hello("flooded.example")[..[0, 3, 40][host as usize % 3]];
                let _ = client.write_all(bytes).await;
                held.push(client);
            }
        }
    }
    until(&apps.ingress, |stats| {
        let refused = |reason| stats.refused.get(&reason).copied().unwrap_or(0);
        refused(Refusal::HalfOpenLimit) >= 100 && refused(Refusal::HalfOpenSourceLimit) >= 50
    })
    .await;
    other_app_serves(&apps, 20).await;

    // Hellos that never end are cut at the size limit, whatever they claim.
    let mut endless = connect_from(20, apps.names).await.unwrap();
    let record = [&[22, 3, 1, 0x10, 0, 1, 0, 0x3f, 0xff][..], &[3; 0x1000 - 4]].concat();
    let continued = [&[22, 3, 1, 0x10, 0][..], &[3; 0x1000]].concat();
    let flood = async {
        endless.write_all(&record).await?;
        loop {
            endless.write_all(&continued).await?;
        }
    };
    let ended: std::io::Result<()> = deadline(flood).await;
    assert!(ended.is_err());
    // Random bytes; a source that is ahead of the ingress meets its cap on half-open connections.
    let mut state = 1_u64;
    for _ in 0..200 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if let Ok(mut client) = connect_from(21, apps.names).await {
            let _ = client.write_all(&state.to_le_bytes().repeat(4)).await;
        }
    }
    other_app_serves(&apps, 20).await;
    until(&apps.ingress, |stats| stats.refused.contains_key(&Refusal::HelloTooLarge)).await;
    drop(held);
    until(&apps.ingress, |stats| stats.active == 0).await;
}

/// The backend that was there when the hello began is drained, and seen to have no connection, before it is whole.
#[tokio::test]
async fn slow_hello_goes_to_who_serves_when_it_is_whole() {
    let ingress = start(Config::default());
    let (old, new) = (echo_server("a").await, echo_server("b").await);
    let names = BTreeMap::from([(ServerName::parse(b"app.example").unwrap(), "app".to_owned())]);
    let table = |backends: [Backend; 2]| RoutingTable {
        listeners: [(ANY_PORT, Listener::Sni { names: names.clone() })].into(),
        routes: [("app".into(), route(backends))].into(),
        ..RoutingTable::default()
    };
    let not_yet = Backend { state: BackendState::Unhealthy, ..backend("new", new) };
    let addr = apply(&ingress, table([backend("old", old), not_yet])).await;
    let hello = hello("app.example");
    let mut client = connect(addr).await;
    client.write_all(&hello[..40]).await.unwrap();
    until(&ingress, |stats| stats.active == 1).await;
    let drained = Backend { state: BackendState::Draining, ..backend("old", old) };
    apply(&ingress, table([drained, backend("new", new)])).await;
    deadline(ingress.connections("old").wait_for(|open| *open == 0)).await.unwrap();
    client.write_all(&hello[40..]).await.unwrap();
    let mut name = [0; 1];
    deadline(client.read_exact(&mut name)).await.unwrap();
    assert_eq!(name, *b"b");
}

#[tokio::test]
async fn a_flood_at_one_app_is_held_to_its_caps_and_others_are_served() {
    let limits = AppLimits {
        max_connections: Some(30),
        max_per_source: Some(20),
        connects: Some(Rate { per_second: 1, burst: 40 }),
    };
    let apps = two_apps(Config::default(), limits).await;
    let mut held = Vec::new();
    // By name from one source, then over the other port from another: the caps count both.
    for _ in 0..25 {
        let mut client = connect_from(1, apps.names).await.unwrap();
        client.write_all(&hello("flooded.example")).await.unwrap();
        held.push(client);
    }
    let flooded = |reason, least| {
        let apps = &apps;
        async move {
            let of_route = move |stats: &holm_ingress::Stats| {
                stats.routes["flooded"].refused.get(&reason).is_some_and(|count| *count >= least)
            };
            until(&apps.ingress, of_route).await
        }
    };
    flooded(Refusal::AppSourceLimit, 5).await;
    // A refused one may be reset before the client has seen that it is connected.
    for _ in 0..15 {
        held.extend(deadline(TcpStream::connect(apps.port)).await);
    }
    let stats = flooded(Refusal::AppLimit, 5).await;
    assert_eq!(stats.routes["flooded"].active, 30);
    other_app_serves(&apps, 20).await;

    // Those that end make room, but not faster than the rate.
    drop(held);
    until(&apps.ingress, |stats| stats.routes["flooded"].active == 0).await;
    for _ in 0..20 {
        drop(deadline(TcpStream::connect(apps.port)).await);
    }
    flooded(Refusal::AppRate, 5).await;
    other_app_serves(&apps, 20).await;
}

#[tokio::test]
async fn a_source_that_connects_too_fast_is_refused_and_others_are_not() {
    let config = Config { source_connects: Some(Rate { per_second: 1, burst: 50 }), ..Config::default() };
    let apps = two_apps(config, AppLimits::default()).await;
    for _ in 0..100 {
        drop(connect_from(1, apps.names).await);
    }
    until(&apps.ingress, |stats| stats.refused.get(&Refusal::SourceRate).is_some_and(|count| *count >= 40)).await;
    other_app_serves(&apps, 20).await;
}
