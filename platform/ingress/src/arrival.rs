//! Who a connection comes from: its peer, or what a trusted proxy in front says in a PROXY header.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::ServerName;
use crate::proxy::{self, FIXED, Header};
use crate::stats::Refusal;

/// What is known of where a connection comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The client.
    pub(crate) client: SocketAddr,
    /// The address it connected to, when a proxy in front said it; else that of the connection.
    server: Option<SocketAddr>,
    authority: Option<Vec<u8>>,
    unique_id: Option<Vec<u8>>,
}

impl Origin {
    /// The peer is the client.
    pub(crate) fn direct(peer: SocketAddr) -> Self {
        Self { client: peer, server: None, authority: None, unique_id: None }
    }

    /// Reads the header that a proxy in front sends first. Not a byte more than the header is taken from the stream.
    pub(crate) async fn told_by_proxy(stream: &mut TcpStream, peer: SocketAddr) -> Result<Self, Refusal> {
        let mut header = vec![0; FIXED];
        let cut = |_| Refusal::ProxyHeaderCut;
        stream.read_exact(&mut header).await.map_err(cut)?;
        let fixed = header.first_chunk().expect("as many bytes were read");
        let more = proxy::variable_length(fixed).map_err(|_| Refusal::ProxyHeaderMalformed)?;
        header.resize(FIXED + more, 0);
        stream.read_exact(&mut header[FIXED..]).await.map_err(cut)?;
        let Header { addresses, authority, unique_id } =
            proxy::parse(&header).map_err(|_| Refusal::ProxyHeaderMalformed)?;
        let (client, server) = addresses.map_or((peer, None), |(client, server)| (client, Some(server)));
        Ok(Self { client, server, authority, unique_id })
    }

    /// The header for an app: with the host name the client asked for, and a name of the connection for logs, which is the
    /// one of the proxy in front if it gave any.
    pub(crate) fn header(&self, stream: &TcpStream, name: Option<&ServerName>) -> std::io::Result<Vec<u8>> {
        let server = self.server.map_or_else(|| stream.local_addr(), Ok)?;
        let name = name.map(|name| name.as_str().as_bytes().to_vec());
        let unique_id = || uuid::Uuid::now_v7().to_string().into_bytes();
        Ok(proxy::write(&Header {
            addresses: Some((self.client, server)),
            authority: name.or_else(|| self.authority.clone()),
            unique_id: Some(self.unique_id.clone().unwrap_or_else(unique_id)),
        }))
    }
}

/// Whether `peer` is one of the trusted proxies.
pub(crate) fn is_trusted(proxies: &[IpNet], peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    proxies.iter().any(|network| network.contains(&peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_peer_is_trusted_by_its_ipv4_network() {
        let proxies = ["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let table = [
            ("192.0.2.9", true),
            ("::ffff:192.0.2.9", true),
            ("192.0.3.1", false),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
        ];
        for (peer, expected) in table {
            assert_eq!(is_trusted(&proxies, peer.parse().unwrap()), expected, "{peer}");
        }
        assert!(!is_trusted(&[], "::1".parse().unwrap()));
    }
}
