//! Raw TCP through the ingress: bytes, ends, failover, draining, limits.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use holm_ingress::{BackendState, Config, Refusal, Route, RouteLimits};
use rustix::net::sockopt::set_socket_linger;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes that differ at every offset a lost or doubled block could shift them by.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Spliced from the first byte, after a while, and copied to the end.
const SPLICE_AFTER: [u64; 3] = [0, 64 * 1024, u64::MAX];

#[tokio::test]
async fn large_transfers_arrive_whole_in_both_directions_at_once() {
    let server = echo_server("a").await;
    for splice_after in SPLICE_AFTER {
        let ingress = start(Config { splice_after, ..Config::default() });
        let addr = apply(&ingress, tcp_table(route([backend("a", server)]))).await;
        let (_, client) = greeting(addr).await;
        let sent = pattern(24 << 20);
        let expected = sent.clone();
        let (mut reader, mut writer) = client.into_split();
        let sender = tokio::spawn(async move {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        deadline(reader.read_to_end(&mut got)).await.unwrap();
        sender.await.unwrap();
        assert!(got == expected, "echo differs, {} of {} bytes", got.len(), expected.len());
        let stats = until(&ingress, |stats| stats.routes["app"].active == 0).await;
        let app = &stats.routes["app"];
        assert_eq!((app.bytes_in, app.bytes_out), (24 << 20, (24 << 20) + 1));
        assert_eq!((app.accepted, app.cut), (1, 0));
    }
}

#[tokio::test]
async fn a_slow_reader_holds_the_sender_back_and_loses_nothing() {
    let (server, server_addr) = listener().await;
    for splice_after in SPLICE_AFTER {
        let ingress = start(Config { splice_after, ..Config::default() });
        let addr = apply(&ingress, tcp_table(route([backend("a", server_addr)]))).await;
        let mut client = connect(addr).await;
        let (mut served, _) = deadline(server.accept()).await.unwrap();
        let sent = pattern(24 << 20);
        let expected = sent.clone();
        let sender = tokio::spawn(async move {
            served.write_all(&sent).await.unwrap();
            served.shutdown().await.unwrap();
            served
        });
        // Nothing is read until every buffer on the way is full.
        let out = || ingress.stats().routes["app"].bytes_out;
        let mut before = u64::MAX;
        while before != out() {
            before = out();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(before < 24 << 20, "the sender was not held back");
        // Odd sizes, so that pipes and sockets are left partly filled.
        let mut got = Vec::new();
        let mut piece = vec![0; 7919];
        loop {
            let bytes = deadline(client.read(&mut piece)).await.unwrap();
            if bytes == 0 {
                break;
            }
            got.extend_from_slice(&piece[..bytes]);
        }
        assert!(got == expected);
        drop(sender.await.unwrap());
    }
}

#[tokio::test]
async fn client_may_end_first_and_still_hear_the_answer() {
    let (server, server_addr) = listener().await;
    let ingress = start(Config::default());
    let addr = apply(&ingress, tcp_table(route([backend("a", server_addr)]))).await;
    for size in [1, 1 << 20] {
        let client = connect(addr).await;
        let (served, _) = deadline(server.accept()).await.unwrap();
        one_ends_and_hears_the_other(client, served, size).await;
    }
}

async fn one_ends_and_hears_the_other(mut one: TcpStream, mut other: TcpStream, size: usize) {
    let last_words = pattern(size);
    one.write_all(&last_words).await.unwrap();
    one.shutdown().await.unwrap();
    assert!(rest(&mut other).await.unwrap() == last_words);
    // The end has arrived; only now does the other speak.
    let answer = pattern(size * 2);
    other.write_all(&answer).await.unwrap();
    drop(other);
    assert!(rest(&mut one).await.unwrap() == answer);
}

#[tokio::test]
async fn server_may_end_first_and_still_hear_the_client() {
    let (server, server_addr) = listener().await;
    let ingress = start(Config::default());
    let addr = apply(&ingress, tcp_table(route([backend("a", server_addr)]))).await;
    for size in [1, 1 << 20] {
        let client = connect(addr).await;
        let (served, _) = deadline(server.accept()).await.unwrap();
        one_ends_and_hears_the_other(served, client, size).await;
    }
}

#[tokio::test]
async fn a_reset_of_either_side_resets_the_other() {
    let (server, server_addr) = listener().await;
    let ingress = start(Config::default());
    let addr = apply(&ingress, tcp_table(route([backend("a", server_addr)]))).await;
    for client_resets in [true, false] {
        let mut client = connect(addr).await;
        let (mut served, _) = deadline(server.accept()).await.unwrap();
        // Through by now: a backend that resets while it is being connected to counts as a failed connect.
        client.write_all(b"x").await.unwrap();
        served.read_u8().await.unwrap();
        let (resetting, mut other) = if client_resets { (client, served) } else { (served, client) };
        set_socket_linger(&resetting, Some(Duration::ZERO)).unwrap();
        drop(resetting);
        let error = rest(&mut other).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    until(&ingress, |stats| stats.active == 0 && stats.routes["app"].cut == 2).await;
}

#[tokio::test]
async fn connections_take_turns_over_healthy_backends_only() {
    let mut backends = Vec::new();
    for name in ["a", "b", "c", "d"] {
        backends.push(backend(name, echo_server(name).await));
    }
    backends[2].state = BackendState::Draining;
    backends[3].state = BackendState::Unhealthy;
    let ingress = start(Config::default());
    let addr = apply(&ingress, tcp_table(route(backends))).await;
    let mut names = Vec::new();
    for _ in 0..6 {
        names.push(greeting(addr).await.0);
    }
    names.sort();
    assert_eq!(names.concat(), "aaabbb");
}

#[tokio::test]
async fn a_backend_that_cannot_be_reached_is_passed_over_and_then_avoided() {
    let backends = [backend("dead", dead_addr().await), backend("b", echo_server("b").await)];
    let config = Config { suspect_for: Duration::from_secs(600), ..Config::default() };
    let ingress = start(config);
    let addr = apply(&ingress, tcp_table(route(backends.clone()))).await;
    for _ in 0..10 {
        assert_eq!(greeting(addr).await.0, "b");
    }
    assert_eq!(ingress.stats().routes["app"].connect_failures, 1);

    // A new table with the same backend keeps the suspicion.
    let addr = apply(&ingress, tcp_table(route(backends))).await;
    for _ in 0..10 {
        assert_eq!(greeting(addr).await.0, "b");
    }
    assert_eq!(ingress.stats().routes["app"].connect_failures, 1);
}

#[tokio::test]
async fn without_a_backend_the_connection_is_reset_and_counted() {
    let ingress = start(Config::default());
    let addr = apply(&ingress, tcp_table(route([]))).await;
    assert!(is_reset(addr).await);
    until(&ingress, |stats| stats.routes["app"].refused.get(&Refusal::NoBackend) == Some(&1)).await;

    let addr = apply(&ingress, tcp_table(route([backend("a", dead_addr().await)]))).await;
    assert!(is_reset(addr).await);
    let stats = until(&ingress, |stats| stats.routes["app"].refused.get(&Refusal::ConnectFailed) == Some(&1));
    assert_eq!(stats.await.routes["app"].connect_failures, 1);
}

#[tokio::test]
async fn a_draining_backend_keeps_its_connections_until_they_end_or_are_closed() {
    let (first, second) = (echo_server("a").await, echo_server("b").await);
    let ingress = start(Config::default());
    let addr = apply(&ingress, tcp_table(route([backend("a", first)]))).await;
    let (_, mut ends_itself) = greeting(addr).await;
    let (_, mut is_closed) = greeting(addr).await;
    let mut open = ingress.connections("a");
    assert_eq!(*open.borrow_and_update(), 2);

    let mut draining = backend("a", first);
    draining.state = BackendState::Draining;
    apply(&ingress, tcp_table(route([draining, backend("b", second)]))).await;
    assert_eq!(greeting(addr).await.0, "b");
    ends_itself.write_all(b"x").await.unwrap();
    ends_itself.shutdown().await.unwrap();
    assert_eq!(rest(&mut ends_itself).await.unwrap(), b"x");
    deadline(open.wait_for(|count| *count == 1)).await.unwrap();

    // Gone from the table, the backend can still be closed.
    apply(&ingress, tcp_table(route([backend("b", second)]))).await;
    assert_eq!(ingress.close_backend("a"), 1);
    deadline(open.wait_for(|count| *count == 0)).await.unwrap();
    let error = rest(&mut is_closed).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(ingress.close_backend("nobody"), 0);
}

#[tokio::test]
async fn a_closed_backend_serves_new_connections() {
    let ingress = start(Config::default());
    let addr = apply(&ingress, tcp_table(route([backend("a", echo_server("a").await)]))).await;
    let (_, _held) = greeting(addr).await;
    assert_eq!(ingress.close_backend("a"), 1);
    assert_eq!(greeting(addr).await.0, "a");
}

#[tokio::test]
async fn limits_refuse_with_their_reason_and_reopen() {
    let server = echo_server("a").await;
    let limited = |limit| Route {
        limits: RouteLimits { max_connections: limit, idle_timeout: None },
        ..route([backend("a", server)])
    };
    let unlimited = Config::default();
    let cases = [
        (Config { max_connections: 2, ..unlimited.clone() }, None, Refusal::TotalLimit),
        (Config { max_per_source: 2, ..unlimited.clone() }, None, Refusal::SourceLimit),
        (unlimited, Some(2), Refusal::RouteLimit),
    ];
    for (config, route_limit, reason) in cases {
        let ingress = start(config);
        let addr = apply(&ingress, tcp_table(limited(route_limit))).await;
        let (_, first) = greeting(addr).await;
        let (_, _second) = greeting(addr).await;
        assert!(is_reset(addr).await, "{reason:?}");
        let stats = until(&ingress, |stats| stats.active == 2).await;
        let refused = stats.refused.get(&reason).or_else(|| stats.routes["app"].refused.get(&reason));
        assert_eq!(refused, Some(&1), "{reason:?}");
        drop(first);
        until(&ingress, |stats| stats.active == 1).await;
        assert_eq!(greeting(addr).await.0, "a", "{reason:?}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_reset_when_its_route_says_so() {
    let idle_timeout = Some(Duration::from_millis(50));
    let limits = RouteLimits { idle_timeout, ..RouteLimits::default() };
    let route = Route { limits, ..route([backend("a", echo_server("a").await)]) };
    let ingress = start(Config::default());
    let addr = apply(&ingress, tcp_table(route)).await;
    let (_, mut client) = greeting(addr).await;
    let error = rest(&mut client).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    until(&ingress, |stats| stats.routes["app"].cut == 1).await;
}
