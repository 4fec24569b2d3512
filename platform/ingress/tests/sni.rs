//! SNI routing in front of real rustls servers, as real rustls clients see it.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use holm_ingress::{Config, IngressHandle, Listener, Refusal, Route, RoutingTable, ServerName};
use rustls::pki_types::{PrivateKeyDer, ServerName as TlsName};
use rustls::{AlertDescription, ClientConfig, RootCertStore, ServerConfig};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A TLS server for one name that says its name and echoes, and the clients' trust in it.
async fn tls_server(name: &'static str, roots: &mut RootCertStore) -> SocketAddr {
    let certified = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let certificate = certified.cert.der().clone();
    roots.add(certificate.clone()).unwrap();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![certificate], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (listener, addr) = listener().await;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(client).await else {
                    return;
                };
                let _ = stream.write_all(name.as_bytes()).await;
                let (mut reader, mut writer) = tokio::io::split(stream);
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        }
    });
    addr
}

fn sni_table(names: &[(&str, SocketAddr)]) -> RoutingTable {
    let by_name = names.iter().map(|(name, _)| (server_name(name), (*name).to_owned())).collect();
    let routes = names.iter().map(|(name, addr)| ((*name).to_owned(), route([backend(name, *addr)])));
    RoutingTable {
        listeners: BTreeMap::from([(ANY_PORT, Listener::Sni { names: by_name })]),
        routes: routes.collect(),
        ..RoutingTable::default()
    }
}

fn server_name(name: &str) -> ServerName {
    ServerName::parse(name.as_bytes()).unwrap()
}

fn client_config(roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
}

struct Setup {
    ingress: IngressHandle,
    addr: SocketAddr,
    client: ClientConfig,
}

/// Two apps behind one SNI listener.
async fn two_apps(config: Config) -> Setup {
    let mut roots = RootCertStore::empty();
    let one = tls_server("one.example", &mut roots).await;
    let two = tls_server("two.example", &mut roots).await;
    let ingress = start(config);
    let addr = apply(&ingress, sni_table(&[("one.example", one), ("two.example", two)])).await;
    Setup { ingress, addr, client: client_config(roots) }
}

/// Talks TLS over the stream and answers what the server said.
async fn talk<S>(config: ClientConfig, name: &str, stream: S) -> std::io::Result<String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let connector = TlsConnector::from(Arc::new(config));
    let name = TlsName::try_from(name.to_owned()).unwrap();
    let mut stream = deadline(connector.connect(name, stream)).await?;
    stream.write_all(b"!").await?;
    stream.shutdown().await?;
    let mut said = String::new();
    deadline(stream.read_to_string(&mut said)).await?;
    Ok(said)
}

/// The TLS alert the client was sent.
fn alert(error: &std::io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

#[tokio::test]
async fn each_name_reaches_its_own_server_and_tls_passes_through() {
    let setup = two_apps(Config::default()).await;
    for name in ["one.example", "two.example", "ONE.example"] {
        let stream = connect(setup.addr).await;
        let said = talk(setup.client.clone(), name, stream).await.unwrap();
        assert_eq!(said, format!("{}!", name.to_lowercase()));
    }
    let stats = setup.ingress.stats();
    assert_eq!(stats.routes["one.example"].accepted, 2);
    assert_eq!(stats.routes["two.example"].accepted, 1);
}

#[tokio::test]
async fn a_hello_in_many_records_and_segments_is_understood() {
    let setup = two_apps(Config::default()).await;
    let mut config = setup.client.clone();
    config.max_fragment_size = Some(32);
    let stream = connect(setup.addr).await;
    stream.set_nodelay(true).unwrap();
    // Every write becomes segments of three bytes.
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::spawn(async move {
        let (mut from_client, mut to_client) = tokio::io::split(far);
        let (mut from_server, mut to_server) = stream.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        let mut piece = [0; 3];
        while let Ok(bytes @ 1..) = from_client.read(&mut piece).await {
            to_server.write_all(&piece[..bytes]).await.unwrap();
        }
    });
    assert_eq!(talk(config, "two.example", near).await.unwrap(), "two.example!");
}

#[tokio::test]
async fn unknown_and_missing_names_are_told_by_an_alert() {
    let setup = two_apps(Config::default()).await;
    let stream = connect(setup.addr).await;
    let error = talk(setup.client.clone(), "three.example", stream).await.unwrap_err();
    assert_eq!(alert(&error), Some(AlertDescription::UnrecognisedName));

    let mut config = setup.client.clone();
    config.enable_sni = false;
    let stream = connect(setup.addr).await;
    let error = talk(config, "one.example", stream).await.unwrap_err();
    assert_eq!(alert(&error), Some(AlertDescription::UnrecognisedName));

    let stats = setup.ingress.stats();
    assert_eq!(stats.refused[&Refusal::NameUnknown], 1);
    assert_eq!(stats.refused[&Refusal::NameMissing], 1);
}

#[tokio::test]
async fn a_name_without_a_backend_is_told_by_an_alert() {
    let setup = two_apps(Config::default()).await;
    let mut table = sni_table(&[("one.example", dead_addr().await)]);
    for (backends, reason) in
        [(table.routes["one.example"].backends.clone(), Refusal::ConnectFailed), (Vec::new(), Refusal::NoBackend)]
    {
        table.routes.insert("one.example".into(), Route { backends, ..Route::default() });
        let addr = apply(&setup.ingress, table.clone()).await;
        let stream = connect(addr).await;
        let error = talk(setup.client.clone(), "one.example", stream).await.unwrap_err();
        assert_eq!(alert(&error), Some(AlertDescription::InternalError));
        assert_eq!(setup.ingress.stats().routes["one.example"].refused[&reason], 1);
    }
}

#[tokio::test]
async fn bytes_that_are_no_hello_get_a_decode_error() {
    let setup = two_apps(Config::default()).await;
    let huge_record = [&[22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &[0; 0x4000]].concat();
    let cases = [(&b"GET / HTTP/1.1\r\n\r\n"[..], Refusal::HelloMalformed), (&huge_record[..], Refusal::HelloTooLarge)];
    for (bytes, reason) in cases {
        let mut stream = connect(setup.addr).await;
        stream.write_all(bytes).await.unwrap();
        let answer = rest(&mut stream).await.unwrap();
        assert_eq!(answer, [21, 3, 3, 0, 2, 2, 50]);
        assert_eq!(setup.ingress.stats().refused[&reason], 1);
    }
}

#[tokio::test]
async fn a_hello_that_never_ends_is_cut_at_the_deadline() {
    let config = Config { hello_timeout: Duration::from_millis(100), ..Config::default() };
    let setup = two_apps(config).await;
    let mut stream = connect(setup.addr).await;
    stream.set_nodelay(true).unwrap();
    // One byte at a time: progress does not buy time.
    let mut header: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let trickle = async {
        loop {
            if let Some((byte, more)) = header.split_first() {
                stream.write_all(&[*byte]).await?;
                header = more;
            }
            let pause = Duration::from_millis(20);
            if let Ok(ended) = tokio::time::timeout(pause, stream.read_u8()).await {
                return ended;
            }
        }
    };
    let error = deadline(trickle).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(setup.ingress.stats().refused[&Refusal::HelloTimeout], 1);
}

#[tokio::test]
async fn half_open_connections_are_capped_apart_from_established_ones() {
    let config = Config { max_half_open_per_source: 1, ..Config::default() };
    let setup = two_apps(config).await;
    // Established connections do not count as half-open.
    let connector = TlsConnector::from(Arc::new(setup.client.clone()));
    let name = TlsName::try_from("one.example").unwrap();
    let stream = connect(setup.addr).await;
    let _established = deadline(connector.connect(name, stream)).await.unwrap();

    let held = connect(setup.addr).await;
    until(&setup.ingress, |stats| stats.active == 2).await;
    assert!(is_reset(setup.addr).await);
    assert_eq!(setup.ingress.stats().refused[&Refusal::HalfOpenSourceLimit], 1);
    drop(held);
    until(&setup.ingress, |stats| stats.refused.get(&Refusal::HelloCut) == Some(&1)).await;
    until(&setup.ingress, |stats| stats.active == 1).await;
    let stream: TcpStream = connect(setup.addr).await;
    assert!(talk(setup.client.clone(), "one.example", stream).await.is_ok());
}
