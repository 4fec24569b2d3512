//! The PROXY protocol through the ingress: what backends are told, and whom the ingress believes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use holm_ingress::proxy::{self, Header};
use holm_ingress::{Backend, Config, Refusal, RoutingTable};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A backend that wants to know who comes.
fn told(id: &str, addr: std::net::SocketAddr) -> Backend {
    Backend { proxy_protocol: true, ..backend(id, addr) }
}

/// The header at the start of the stream, as a backend reads it.
async fn read_header(stream: &mut TcpStream) -> Header {
    let mut header = vec![0; proxy::FIXED];
    deadline(stream.read_exact(&mut header)).await.unwrap();
    let more = proxy::variable_length(header.first_chunk().unwrap()).unwrap();
    header.resize(proxy::FIXED + more, 0);
    deadline(stream.read_exact(&mut header[proxy::FIXED..])).await.unwrap();
    proxy::parse(&header).unwrap()
}

/// A table whose listener has proxies in front on the loopback address.
fn behind(table: RoutingTable) -> RoutingTable {
    RoutingTable { proxies: [(ANY_PORT, vec!["::1/128".parse().unwrap()])].into(), ..table }
}

#[tokio::test]
async fn a_backend_that_asks_is_told_who_connected_and_then_gets_the_bytes() {
    let (server, server_addr) = listener().await;
    let ingress = start(Config::default());
    let addr = apply(&ingress, tcp_table(route([told("a", server_addr)]))).await;
    let mut client = connect(addr).await;
    client.write_all(b"hello").await.unwrap();
    let (mut served, _) = deadline(server.accept()).await.unwrap();
    let header = read_header(&mut served).await;
    assert_eq!(header.addresses, Some((client.local_addr().unwrap(), addr)));
    assert_eq!(header.authority, None);
    assert_eq!(header.unique_id.unwrap().len(), 36);
    let mut said = [0; 5];
    deadline(served.read_exact(&mut said)).await.unwrap();
    assert_eq!(&said, b"hello");
    drop((client, served));
    let stats = until(&ingress, |stats| stats.routes["app"].active == 0).await;
    assert_eq!(stats.routes["app"].bytes_in, 5, "the header is not the client's");
}

#[tokio::test]
async fn what_a_trusted_proxy_says_is_passed_on_and_counts_as_the_source() {
    let (server, server_addr) = listener().await;
    let config = Config { max_per_source: 1, ..Config::default() };
    let ingress = start(config);
    let addr = apply(&ingress, behind(tcp_table(route([told("a", server_addr)])))).await;
    let from = |client: &str| Header {
        addresses: Some((client.parse().unwrap(), "[2001:db8::80]:443".parse().unwrap())),
        authority: Some(b"shop.example".to_vec()),
        unique_id: Some(b"id-of-the-proxy".to_vec()),
    };
    let mut held = Vec::new();
    for client in ["[2001:db8:1::1]:1000", "[2001:db8:2::1]:1000"] {
        let mut stream = connect(addr).await;
        stream.write_all(&proxy::write(&from(client))).await.unwrap();
        let (mut served, _) = deadline(server.accept()).await.unwrap();
        assert_eq!(read_header(&mut served).await, from(client));
        held.push((stream, served));
    }
    let mut stream = connect(addr).await;
    stream.write_all(&proxy::write(&from("[2001:db8:1::2]:1"))).await.unwrap();
    assert!(rest(&mut stream).await.is_err());
    assert_eq!(ingress.stats().refused[&Refusal::SourceLimit], 1);
}

#[tokio::test]
async fn a_trusted_proxy_must_send_a_whole_header_and_others_have_none() {
    let server = echo_server("a").await;
    let hello_timeout = std::time::Duration::from_millis(100);
    let ingress = start(Config { hello_timeout, ..Config::default() });
    let addr = apply(&ingress, behind(tcp_table(route([backend("a", server)])))).await;
    for bytes in [&b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"[..], &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..]] {
        let mut stream = connect(addr).await;
        stream.write_all(bytes).await.unwrap();
        assert!(rest(&mut stream).await.is_err());
    }
    let mut slow = connect(addr).await;
    slow.write_all(&proxy::write(&Header::default())[..15]).await.unwrap();
    assert!(rest(&mut slow).await.is_err());
    let mut cut = connect(addr).await;
    cut.write_all(b"\r\n").await.unwrap();
    cut.shutdown().await.unwrap();
    assert!(rest(&mut cut).await.is_err());
    let stats = ingress.stats();
    assert_eq!(stats.refused[&Refusal::ProxyHeaderMalformed], 2);
    assert_eq!(stats.refused[&Refusal::ProxyHeaderTimeout], 1);
    assert_eq!(stats.refused[&Refusal::ProxyHeaderCut], 1);

    // A health check of the proxy itself comes through as the proxy's own connection.
    let mut local = connect(addr).await;
    local.write_all(&proxy::write(&Header::default())).await.unwrap();
    assert_eq!(deadline(local.read_u8()).await.unwrap(), b'a');

    // Somebody else may say what they like: it is the client's own bytes.
    let elsewhere = [(ANY_PORT, vec!["192.0.2.0/24".parse().unwrap()])].into();
    let table = RoutingTable { proxies: elsewhere, ..tcp_table(route([backend("a", server)])) };
    let addr = apply(&ingress, table).await;
    let (_, mut client) = greeting(addr).await;
    let forged = proxy::write(&Header::default());
    client.write_all(&forged).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await.unwrap(), forged);
}
