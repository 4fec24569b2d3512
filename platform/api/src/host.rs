//! A Holm elsewhere, as a client knows it: its address, how its certificate is trusted, and the token to show.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::tls::{self, TlsError};

/// The port of the remote interface where none is named.
pub const PORT: u16 = 7443;

/// An address that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Not of the form.
    #[error("a host is written `https://NAME[:PORT][#sha256:FINGERPRINT]`")]
    Form,
    /// The fingerprint, or the system's certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No token.
    #[error("no token is given: set HOLM_TOKEN")]
    NoToken,
    /// A token that cannot stand in a request.
    #[error("the token is not of the form `holm_ID_SECRET`")]
    Token,
}

/// A Holm elsewhere.
#[derive(Clone)]
pub struct RemoteHost {
    host: String,
    port: u16,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    token: String,
}

impl std::fmt::Debug for RemoteHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteHost").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

impl std::fmt::Display for RemoteHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "https://{}:{}", self.host, self.port)
    }
}

impl RemoteHost {
    /// Reads `https://NAME[:PORT][#sha256:FINGERPRINT]`. With a fingerprint exactly that certificate is trusted, else what
    /// the system trusts.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn new(address: &str, token: &str) -> Result<Self, HostError> {
        let (url, fingerprint) = match address.split_once('#') {
            Some((url, fingerprint)) => (url, Some(fingerprint)),
            None => (address, None),
        };
        let uri: http::Uri = url.parse().map_err(|_| HostError::Form)?;
        let authority = uri.authority().filter(|a| !a.as_str().contains('@')).ok_or(HostError::Form)?;
        if uri.scheme_str() != Some("https") || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(HostError::Form);
        }
        let port = match authority.port() {
            Some(_) => authority.port_u16().filter(|port| *port != 0).ok_or(HostError::Form)?,
            None => PORT,
        };
        let bare = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(bare).map_err(|_| HostError::Form)?;
        let tls = match fingerprint {
            Some(fingerprint) => tls::client_pinned(fingerprint.parse()?)?,
            None => tls::client_of_system()?,
        };
        if token.is_empty() {
            return Err(HostError::NoToken);
        }
        if !token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(HostError::Token);
        }
        Ok(Self { host: authority.host().to_owned(), port, name, tls, token: token.to_owned() })
    }

    /// What is shown to the host.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    pub(crate) async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, self.port)).await?;
        stream.set_nodelay(true)?;
        TlsConnector::from(Arc::clone(&self.tls)).connect(self.name.clone(), stream).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_or_refused() {
        let print = format!("sha256:{}", "0a".repeat(32));
        let read = |address: &str| RemoteHost::new(address, "holm_a_b").map(|host| host.to_string());
        assert_eq!(read(&format!("https://holm.example#{print}")).unwrap(), "https://holm.example:7443");
        assert_eq!(read(&format!("https://[::1]:99/#{print}")).unwrap(), "https://[::1]:99");
        assert_eq!(read(&format!("https://192.0.2.1#{print}")).unwrap(), "https://192.0.2.1:7443");
        for wrong in ["holm.example", "http://a", "https://a/x", "https://u@a", "https://a:0", "https://a#md5:0", ""] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let address = format!("https://a#{print}");
        assert!(matches!(RemoteHost::new(&address, ""), Err(HostError::NoToken)));
        assert!(matches!(RemoteHost::new(&address, "a\r\nb"), Err(HostError::Token)));
    }
}
