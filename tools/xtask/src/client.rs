//! The clients of the demo and the tests: HTTP in the clear, and HTTP over TLS that checks the server's certificate.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::images::Certificate;
use crate::site::loopback;

/// Longest wait for a connection and for each piece of an answer.
const PATIENCE: Duration = Duration::from_secs(30);

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("cannot connect to {to}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// `GET path` from `[::1]:port`; gives the body.
///
/// # Errors
/// When there is no answer, or it has another status than 200.
pub fn get(port: u16, path: &str) -> Result<String> {
    get_from(loopback(port), path)
}

/// `GET path` from `address`; gives the body.
///
/// # Errors
/// When there is no answer, or it has another status than 200.
pub fn get_from(address: SocketAddr, path: &str) -> Result<String> {
    request(&mut connect(address)?, path)
}

/// `GET /` over TLS from `[::1]:port` with the server name `name`; trusts `certificate` alone.
///
/// # Errors
/// When TLS fails (another certificate, an alert), there is no answer, or it has another status than 200.
pub fn get_tls(port: u16, name: &str, certificate: &Certificate) -> Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let session = ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned())?)?;
    request(&mut StreamOwned::new(session, connect(loopback(port))?), "/")
}

fn request(stream: &mut (impl Read + Write), path: &str) -> Result<String> {
    write!(stream, "GET {path} HTTP/1.0\r\nHost: holm\r\n\r\n")?;
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        // A server that closes TCP without ending TLS has still said everything when the body is there.
        if answer.is_empty() || error.kind() != std::io::ErrorKind::UnexpectedEof {
            return Err(error).context("no answer");
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("the connection was closed without an answer")?;
    let status = head.lines().next().unwrap_or_default();
    anyhow::ensure!(status.split(' ').nth(1) == Some("200"), "the answer is `{status}`: {body}");
    Ok(body.to_owned())
}
