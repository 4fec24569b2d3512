//! A running ingress with small servers behind it, and waiting with a deadline.
#![allow(dead_code)] // each test binary uses its part
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use holm_ingress::{Backend, BackendState, Config, Ingress, IngressHandle, Listener, Route, RoutingTable, Stats};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const LOCALHOST: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
pub(crate) const ANY_PORT: SocketAddr = SocketAddr::new(LOCALHOST, 0);

pub(crate) fn start(config: Config) -> IngressHandle {
    Ingress::start(Config { workers: 2.try_into().ok(), ..config }).unwrap()
}

pub(crate) fn backend(id: &str, addr: SocketAddr) -> Backend {
    Backend { id: id.to_owned(), addr, state: BackendState::Healthy, proxy_protocol: false }
}

pub(crate) fn route(backends: impl IntoIterator<Item = Backend>) -> Route {
    Route { backends: backends.into_iter().collect(), ..Route::default() }
}

/// A table with one TCP listener on a free port and one route named `app`.
pub(crate) fn tcp_table(route: Route) -> RoutingTable {
    RoutingTable {
        listeners: BTreeMap::from([(ANY_PORT, Listener::Tcp { route: "app".into() })]),
        routes: BTreeMap::from([("app".into(), route)]),
        ..RoutingTable::default()
    }
}

/// Applies the table and answers where its listener on a free port is.
pub(crate) async fn apply(ingress: &IngressHandle, table: RoutingTable) -> SocketAddr {
    let report = ingress.apply(table).await.unwrap();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    ingress.local_addr(ANY_PORT).unwrap()
}

pub(crate) async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(ANY_PORT).await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// A server that says its name and then echoes until the client ends.
pub(crate) async fn echo_server(name: &'static str) -> SocketAddr {
    let (listener, addr) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = client.write_all(name.as_bytes()).await;
                let (mut reader, mut writer) = client.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        }
    });
    addr
}

/// An address nobody listens on.
pub(crate) async fn dead_addr() -> SocketAddr {
    listener().await.1
}

pub(crate) async fn connect(addr: SocketAddr) -> TcpStream {
    deadline(TcpStream::connect(addr)).await.unwrap()
}

/// Connects and reads the name the server says.
pub(crate) async fn greeting(addr: SocketAddr) -> (String, TcpStream) {
    let mut client = connect(addr).await;
    let mut name = [0; 1];
    deadline(client.read_exact(&mut name)).await.unwrap();
    (String::from_utf8(name.to_vec()).unwrap(), client)
}

/// The rest of the stream, or the error that ended it.
pub(crate) async fn rest(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    deadline(client.read_to_end(&mut bytes)).await?;
    Ok(bytes)
}

/// Connects and answers whether the connection was reset, then or later.
pub(crate) async fn is_reset(addr: SocketAddr) -> bool {
    match deadline(TcpStream::connect(addr)).await {
        Ok(mut client) => rest(&mut client).await.is_err(),
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// Fails the test instead of hanging it.
pub(crate) async fn deadline<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("answer before the deadline")
}

/// Waits until the counters satisfy the condition.
pub(crate) async fn until(ingress: &IngressHandle, condition: impl Fn(&Stats) -> bool) -> Stats {
    let start = Instant::now();
    loop {
        let stats = ingress.stats();
        if condition(&stats) {
            return stats;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "never so: {stats:#?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
