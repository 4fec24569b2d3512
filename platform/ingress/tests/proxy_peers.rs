//! The PROXY protocol with real peers: Debian's nginx and HAProxy behind the ingress, HAProxy in front of it.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail, and say why it is skipped")]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use holm_ingress::{Backend, Config, Listener, RoutingTable, ServerName};
use rustls::pki_types::ServerName as TlsName;
use rustls::{ClientConfig, RootCertStore};
use support::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Whether `program` can be run. Where it cannot the test is skipped, but in CI nothing may be missing.
fn has(program: &str) -> bool {
    let found = Command::new(program).arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    let must = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(found || !must, "`{program}` is not in PATH");
    if !found {
        eprintln!("skipped: `{program}` is not in PATH; `cargo xtask test tests` brings it");
    }
    found
}

/// A server of a test, killed at its end.
struct Server {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is gone already if this fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts `program` and waits until it listens on `addr`.
    async fn start(mut program: Command, folder: tempfile::TempDir, addr: SocketAddr) -> Self {
        let child = program.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let mut server = Self { child, _folder: folder };
        deadline(async {
            while TcpStream::connect(addr).await.is_err() {
                assert!(server.child.try_wait().unwrap().is_none(), "the server ended");
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
        server
    }

    async fn haproxy(config: &str, addr: SocketAddr, extra: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        extra(folder.path());
        let file = folder.path().join("haproxy.cfg");
        let head = "global\n  log stderr format raw local0 err\ndefaults\n  mode http\n  timeout connect 20s\n  \
                    timeout client 20s\n  timeout server 20s\n";
        std::fs::write(&file, format!("{head}{config}")).unwrap();
        let mut program = Command::new("haproxy");
        program.current_dir(folder.path()).arg("-db").arg("-q").arg("-f").arg(&file);
        Self::start(program, folder, addr).await
    }

    async fn nginx(server: &str, addr: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let paths = paths.map(|name| format!("{name}_temp_path {name};")).join(" ");
        let config = format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr error; events {{}}\n\
             http {{ access_log off; {paths} server {{ {server} }} }}"
        );
        std::fs::write(folder.path().join("nginx.conf"), config).unwrap();
        let mut program = Command::new("nginx");
        program.arg("-p").arg(folder.path()).args(["-e", "stderr", "-c", "nginx.conf"]);
        Self::start(program, folder, addr).await
    }
}

/// What a server is asked to answer with.
const HAPROXY_SAYS: &str = "\"%[src] %[src_port] %[dst] %[dst_port] %[fc_pp_authority] %[fc_pp_unique_id]\"";
const NGINX_SAYS: &str =
    "'$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port'";

/// The words of the body of the answer to one request.
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> Vec<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    deadline(stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    body.split(' ').map(str::to_owned).collect()
}

fn told(id: &str, addr: SocketAddr) -> Backend {
    Backend { proxy_protocol: true, ..backend(id, addr) }
}

/// The words that name two endpoints.
fn words(client: SocketAddr, server: SocketAddr) -> Vec<String> {
    [client, server].iter().flat_map(|end| [end.ip().to_string(), end.port().to_string()]).collect()
}

#[tokio::test]
async fn nginx_takes_the_header_over_ipv6_and_ipv4() {
    if !has("nginx") {
        return;
    }
    let nginx = dead_addr().await;
    let _server =
        Server::nginx(&format!("listen {nginx} proxy_protocol; location / {{ return 200 {NGINX_SAYS}; }}"), nginx)
            .await;
    let ingress = start(Config::default());
    for listen in [ANY_PORT, "127.0.0.1:0".parse().unwrap()] {
        let table = RoutingTable {
            listeners: [(listen, Listener::Tcp { route: "app".into() })].into(),
            ..tcp_table(route([told("a", nginx)]))
        };
        ingress.apply(table).await.unwrap();
        let addr = ingress.local_addr(listen).unwrap();
        let client = connect(addr).await;
        let ends = words(client.local_addr().unwrap(), addr);
        assert_eq!(ask(client).await, ends);
    }
}

#[tokio::test]
async fn haproxy_takes_the_header_and_knows_the_host_name_and_the_connection() {
    if !has("haproxy") {
        return;
    }
    let certified = rcgen::generate_simple_self_signed(["shop.example".to_owned()]).unwrap();
    let pem = certified.cert.pem() + &certified.signing_key.serialize_pem();
    let mut roots = RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let haproxy = dead_addr().await;
    let config = format!(
        "listen s\n  bind [::1]:{} accept-proxy ssl crt shop.pem\n  \
         http-request return status 200 content-type text/plain lf-string {HAPROXY_SAYS}\n",
        haproxy.port()
    );
    let write_pem = |folder: &Path| std::fs::write(folder.join("shop.pem"), pem).unwrap();
    let _server = Server::haproxy(&config, haproxy, write_pem).await;

    let ingress = start(Config::default());
    let name = ServerName::parse(b"shop.example").unwrap();
    let table = RoutingTable {
        listeners: [(ANY_PORT, Listener::Sni { names: [(name, "app".to_owned())].into() })].into(),
        ..tcp_table(route([told("a", haproxy)]))
    };
    let addr = apply(&ingress, table).await;
    let client = connect(addr).await;
    let ends = words(client.local_addr().unwrap(), addr);
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = deadline(connector.connect(TlsName::try_from("shop.example").unwrap(), client)).await.unwrap();
    let said = ask(stream).await;
    assert_eq!(said[..4], ends);
    assert_eq!(said[4], "shop.example");
    assert_eq!(said[5].len(), 36, "{said:?}");
}

#[tokio::test]
async fn haproxy_in_front_is_believed_and_its_word_reaches_the_app() {
    if !has("haproxy") {
        return;
    }
    let (front, app) = (dead_addr().await, dead_addr().await);
    let ingress = start(Config::default());
    let table = tcp_table(route([told("a", app)]));
    let table = RoutingTable { proxies: [(ANY_PORT, vec!["::1/128".parse().unwrap()])].into(), ..table };
    let addr = apply(&ingress, table).await;
    let config = format!(
        "listen app\n  bind [::1]:{} accept-proxy\n  \
         http-request return status 200 content-type text/plain lf-string {HAPROXY_SAYS}\n\
         listen front\n  bind [::1]:{}\n  unique-id-format conn-%pid-%rt\n  \
         server s [::1]:{} send-proxy-v2 proxy-v2-options crc32c,unique-id check inter 50ms\n",
        app.port(),
        front.port(),
        addr.port()
    );
    let _servers = Server::haproxy(&config, front, |_| {}).await;
    let client = connect(front).await;
    let ends = words(client.local_addr().unwrap(), front);
    let said = ask(client).await;
    assert_eq!(said[..4], ends);
    assert!(said[5].starts_with("conn-"), "{said:?}");
    // Its health checks are connections of its own, and none of what it sent was refused.
    let stats = until(&ingress, |stats| stats.accepted > 2).await;
    assert!(!stats.refused.contains_key(&holm_ingress::Refusal::ProxyHeaderMalformed), "{stats:#?}");
}
