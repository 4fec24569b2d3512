//! Listeners come, stay and go with the table; shutdown drains.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use holm_ingress::{Config, Listener, ListenerStatus, RoutingTable, TableError};
use support::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

fn table(server: SocketAddr, listeners: &[SocketAddr]) -> RoutingTable {
    let listener = || Listener::Tcp { route: "app".into() };
    RoutingTable {
        listeners: listeners.iter().map(|addr| (*addr, listener())).collect(),
        routes: BTreeMap::from([("app".into(), route([backend("a", server)]))]),
        ..RoutingTable::default()
    }
}

#[tokio::test]
async fn removing_a_listener_keeps_its_connections_and_frees_its_address() {
    let ingress = start(Config::default());
    let server = echo_server("a").await;
    let addr = apply(&ingress, table(server, &[ANY_PORT])).await;
    let (_, mut client) = greeting(addr).await;

    let other: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    let report = ingress.apply(table(server, &[other])).await.unwrap();
    assert_eq!((report.opened, report.closed), (vec![other], vec![ANY_PORT]));
    let refused = deadline(TcpStream::connect(addr)).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(greeting(ingress.local_addr(other).unwrap()).await.0, "a");

    client.write_all(b"still here").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await.unwrap(), b"still here");

    let report = ingress.apply(table(server, &[addr, other])).await.unwrap();
    assert_eq!((report.opened, report.closed), (vec![addr], vec![]));
    assert_eq!(greeting(addr).await.0, "a");
}

#[tokio::test]
async fn the_same_table_again_changes_nothing() {
    let ingress = start(Config::default());
    let server = echo_server("a").await;
    let addr = apply(&ingress, table(server, &[ANY_PORT])).await;
    let report = ingress.apply(table(server, &[ANY_PORT])).await.unwrap();
    assert_eq!(report, Default::default());
    assert_eq!(ingress.local_addr(ANY_PORT), Some(addr));
}

#[tokio::test]
async fn an_address_in_use_is_reported_and_taken_once_it_is_free() {
    let server = echo_server("a").await;
    let holder = start(Config::default());
    let taken = apply(&holder, table(server, &[ANY_PORT])).await;
    let ingress = start(Config { rebind_every: Duration::from_millis(5), ..Config::default() });
    let report = ingress.apply(table(server, &[ANY_PORT, taken])).await.unwrap();
    assert_eq!(report.opened, [ANY_PORT]);
    assert!(report.failed[&taken].contains("in use"), "{:?}", report.failed);
    assert!(matches!(ingress.stats().listeners[&taken], ListenerStatus::Failed(_)));

    holder.apply(RoutingTable::default()).await.unwrap();
    until(&ingress, |stats| stats.listeners[&taken] == ListenerStatus::Open(taken)).await;
    assert_eq!(greeting(taken).await.0, "a");
}

#[tokio::test]
async fn an_ipv6_listener_takes_ipv4_only_when_told_to() {
    let any: SocketAddr = (Ipv6Addr::UNSPECIFIED, 0).into();
    let server = echo_server("a").await;
    for ipv6_only in [true, false] {
        let ingress = start(Config { ipv6_only, ..Config::default() });
        ingress.apply(table(server, &[any])).await.unwrap();
        let port = ingress.local_addr(any).unwrap().port();
        assert_eq!(greeting((LOCALHOST, port).into()).await.0, "a");
        let v4 = deadline(TcpStream::connect((Ipv4Addr::LOCALHOST, port))).await;
        assert_eq!(v4.is_err(), ipv6_only);
    }
}

#[tokio::test]
async fn a_bad_table_leaves_the_old_one_in_force() {
    let ingress = start(Config::default());
    let addr = apply(&ingress, table(echo_server("a").await, &[ANY_PORT])).await;
    let mut bad = table(dead_addr().await, &[]);
    bad.listeners.insert(ANY_PORT, Listener::Tcp { route: "nowhere".into() });
    assert!(matches!(ingress.apply(bad).await, Err(TableError::UnknownRoute { .. })));
    assert_eq!(greeting(addr).await.0, "a");
}

#[tokio::test]
async fn shutdown_waits_for_connections_and_cuts_those_that_stay() {
    let server = echo_server("a").await;
    let ingress = start(Config::default());
    let addr = apply(&ingress, table(server, &[ANY_PORT])).await;
    let (_, mut client) = greeting(addr).await;
    let stopping = tokio::spawn({
        let ingress = ingress.clone();
        async move { ingress.shutdown(Duration::from_secs(60)).await }
    });
    until(&ingress, |stats| stats.listeners.is_empty()).await;
    client.write_all(b"last words").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await.unwrap(), b"last words");
    assert_eq!(deadline(stopping).await.unwrap().cut, 0);
    assert_eq!(ingress.apply(table(server, &[])).await, Err(TableError::ShutDown));

    let ingress = start(Config::default());
    let addr = apply(&ingress, table(server, &[ANY_PORT])).await;
    let (_, mut client) = greeting(addr).await;
    assert_eq!(deadline(ingress.shutdown(Duration::from_millis(1))).await.cut, 1);
    assert!(rest(&mut client).await.is_err());
}

#[tokio::test]
async fn dropping_the_last_handle_stops_everything() {
    let ingress = start(Config::default());
    let addr = apply(&ingress, table(echo_server("a").await, &[ANY_PORT])).await;
    let (_, mut client) = greeting(addr).await;
    drop(ingress);
    assert!(rest(&mut client).await.is_err(), "a cut connection must not look complete");
    let retry = async {
        while TcpStream::connect(addr).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    deadline(retry).await;
}
