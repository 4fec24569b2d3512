//! TLS of the remote interface: the host's certificate, its fingerprint, and clients that trust exactly it.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use sha2::{Digest, Sha256};

/// TLS that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file that does not hold what it should.
    #[error("{} holds no {what} in PEM form", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// The certificate and the key cannot be used.
    #[error("the certificate or its key cannot be used")]
    Use(#[from] rustls::Error),
    /// A fingerprint that is none.
    #[error("a fingerprint is `sha256:` and 64 hexadecimal digits")]
    Fingerprint,
}

/// The SHA-256 of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl std::str::FromStr for Fingerprint {
    type Err = TlsError;
    fn from_str(text: &str) -> Result<Self, TlsError> {
        let digits = text.strip_prefix("sha256:").ok_or(TlsError::Fingerprint)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| TlsError::Fingerprint)?;
        Ok(Self(bytes))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The server's side with a certificate and key that were given as PEM files.
///
/// # Errors
/// [`TlsError`].
pub fn server_from_files(certificate: &Path, key: &Path) -> Result<(Arc<ServerConfig>, Fingerprint), TlsError> {
    let pem = |path: &Path, what| TlsError::Pem { path: path.to_owned(), what };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|_| pem(certificate, "certificate"))?;
    let first = chain.first().ok_or_else(|| pem(certificate, "certificate"))?;
    let fingerprint = Fingerprint::of(first);
    let key = PrivateKeyDer::from_pem_file(key).map_err(|_| pem(key, "private key"))?;
    let config = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13])?;
    Ok((Arc::new(config.with_no_client_auth().with_single_cert(chain, key)?), fingerprint))
}

/// The server's side with the host's own certificate in `dir`, which is made when there is none: signed by itself, to be
/// trusted by its fingerprint.
///
/// # Errors
/// [`TlsError`].
pub fn server_of_host(dir: &Path) -> Result<(Arc<ServerConfig>, Fingerprint), TlsError> {
    let (certificate, key) = (dir.join("remote.crt"), dir.join("remote.key"));
    if !(certificate.exists() && key.exists()) {
        let made = rcgen::generate_simple_self_signed(["holm".to_owned()])?;
        write(&key, 0o600, &made.signing_key.serialize_pem())?;
        write(&certificate, 0o644, &made.cert.pem())?;
    }
    server_from_files(&certificate, &key)
}

fn write(path: &Path, mode: u32, text: &str) -> Result<(), TlsError> {
    let failed = |source| TlsError::File { action: "write", path: path.to_owned(), source };
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file = fs::File::options().write(true).create_new(true).mode(mode).open(&fresh).map_err(failed)?;
    io::Write::write_all(&mut file, text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&fresh, path).map_err(failed)
}

/// The client's side that trusts the one certificate with this fingerprint, whatever it says about itself.
///
/// # Errors
/// [`TlsError`].
pub fn client_pinned(fingerprint: Fingerprint) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let verifier = Pinned { fingerprint, provider: Arc::clone(&provider) };
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    Ok(Arc::new(config.with_no_client_auth()))
}

/// The client's side that trusts what the system trusts.
///
/// # Errors
/// [`TlsError`].
pub fn client_of_system() -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13])?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// Accepts one certificate. That the server has its key is still proven by the handshake's signature.
#[derive(Debug)]
struct Pinned {
    fingerprint: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if Fingerprint::of(end_entity) == self.fingerprint {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General("the host shows another certificate than the one with this fingerprint".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
