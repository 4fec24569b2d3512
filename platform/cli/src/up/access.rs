//! Who may ask: tokens, the audit log, and the interface from afar.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use holm_api::Problem;
use holm_api::access::{NewToken, TokenWish, mint};
use holm_api::backend::{Audit, STRANGER};
use holm_api::tls::{self, Fingerprint};
use holm_control::{Control, Refused};
use holm_model::access::TokenId;
use holm_model::event::Event;
use jiff::{SignedDuration, Timestamp};
use rustls::ServerConfig;
use tokio::net::TcpListener;

use super::backend::refused;

/// Refusals of whoever is known that are recorded in one window; of the others only the number is.
const KNOWN: Allowance = Allowance { most: 60, window: SignedDuration::from_secs(60) };
/// The same for whoever showed no token that is worth something. Few, because anybody who reaches the port can cause them:
/// they must neither crowd out those of known users nor push older events out of the log.
const STRANGERS: Allowance = Allowance { most: 60, window: SignedDuration::from_hours(1) };
/// Most tokens: whoever can make them should not fill the state with them.
const MAX_TOKENS: usize = 200;
/// Longest text of a refusal that is recorded, in characters.
const MAX_WHY: usize = 300;

/// How the interface from afar is served.
#[derive(Debug, Clone)]
pub(crate) struct RemoteOptions {
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// The certificate and key that were given; `None`: the host's own.
    pub(crate) certificate: Option<(PathBuf, PathBuf)>,
}

/// The interface from afar, bound.
pub(crate) struct Remote {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Arc<ServerConfig>,
    pub(crate) address: SocketAddr,
    pub(crate) fingerprint: Fingerprint,
}

impl Remote {
    pub(crate) async fn bind(options: &RemoteOptions, state: &Path) -> Result<Self> {
        let (tls, fingerprint) = match &options.certificate {
            Some((certificate, key)) => tls::server_from_files(certificate, key),
            None => tls::server_of_host(state),
        }
        .context("cannot set up TLS for the remote interface")?;
        let listener = TcpListener::bind(options.listen).await;
        let listener = listener.with_context(|| format!("cannot listen on {}", options.listen))?;
        let address = listener.local_addr().context("cannot see where the remote interface listens")?;
        Ok(Self { listener, tls, address, fingerprint })
    }
}

/// How many refusals are recorded in how long a time.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    most: u32,
    window: SignedDuration,
}

/// How many refusals were recorded lately.
#[derive(Debug)]
struct Recent {
    allowance: Allowance,
    since: Timestamp,
    recorded: u32,
    left_out: u64,
}

impl Recent {
    const fn new(allowance: Allowance) -> Self {
        Self { allowance, since: Timestamp::UNIX_EPOCH, recorded: 0, left_out: 0 }
    }

    /// Whether a refusal at `now` is recorded, and how many before it were not.
    fn take(&mut self, now: Timestamp) -> Option<u64> {
        // Also when the clock was set back: better one record too many than none for hours.
        if now < self.since || now.duration_since(self.since) >= self.allowance.window {
            (self.since, self.recorded) = (now, 0);
        }
        if self.recorded >= self.allowance.most {
            self.left_out += 1;
            return None;
        }
        self.recorded += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// Tokens and the audit log.
#[derive(Debug)]
pub(crate) struct Desk {
    known: Mutex<Recent>,
    strangers: Mutex<Recent>,
    /// Where the interface from afar is reached, if it is.
    pub(crate) remote: Option<(SocketAddr, Fingerprint)>,
}

impl Desk {
    pub(crate) fn new(remote: Option<&Remote>) -> Self {
        Self {
            known: Mutex::new(Recent::new(KNOWN)),
            strangers: Mutex::new(Recent::new(STRANGERS)),
            remote: remote.map(|remote| (remote.address, remote.fingerprint)),
        }
    }

    pub(crate) async fn create(&self, control: &Control, actor: &str, wish: TokenWish) -> Result<NewToken, Problem> {
        let state = control.state();
        if state.site.tokens.len() >= MAX_TOKENS {
            return Err(Problem::refused(format!("there are {MAX_TOKENS} tokens already"))
                .hint("`holm tokens revoke` makes room"));
        }
        if state.site.tokens.values().any(|token| token.name == wish.name) {
            return Err(Problem::conflict(format!("there is a token `{}` already", wish.name))
                .hint("the audit log tells tokens apart by name: choose another, or revoke that one"));
        }
        let (id, token, hash) = mint().map_err(|error| Problem::failed("cannot make a token").because(error))?;
        let TokenWish { name, scope, expires_at } = wish;
        let event = Event::TokenCreated { id: id.clone(), name, hash, scope, expires_at };
        control.record_site(actor, vec![event]).await.map_err(refused)?;
        Ok(NewToken {
            id,
            token,
            fingerprint: self.remote.map(|(_, fingerprint)| fingerprint.to_string()),
            listen: self.remote.map(|(address, _)| address.to_string()),
        })
    }

    pub(crate) async fn revoke(&self, control: &Control, actor: &str, id: TokenId) -> Result<(), Problem> {
        if !control.state().site.tokens.contains_key(&id) {
            return Err(Problem::not_found(format!("there is no token {id}")).hint("`holm tokens list` lists them"));
        }
        control.record_site(actor, vec![Event::TokenRevoked { id }]).await.map_err(refused)
    }

    pub(crate) async fn audit(&self, control: &Control, audit: Audit) {
        let unrecorded = match &audit.refused {
            None => 0,
            Some(_) => {
                let recent = if audit.actor == STRANGER { &self.strangers } else { &self.known };
                let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(left_out) = recent.take(Timestamp::now()) else { return };
                left_out
            }
        };
        let Audit { actor, verb, about, refused } = audit;
        let refused = refused.map(|why| why.chars().take(MAX_WHY).collect());
        let event = Event::Asked { verb, about, refused, unrecorded };
        match control.record_site(&actor, vec![event]).await {
            Ok(()) | Err(Refused::Closed) => {}
            Err(error) => tracing::error!(%error, "the audit log was not written"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_counted_and_not_recorded() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut recent = Recent::new(KNOWN);
        let recorded = (0..1000).filter(|_| recent.take(at(1000)).is_some()).count();
        assert_eq!(recorded, KNOWN.most as usize);
        assert_eq!(recent.take(at(1059)), None);
        assert_eq!(recent.take(at(1060)), Some(1000 - u64::from(KNOWN.most) + 1));
        assert_eq!(recent.take(at(1060)), Some(0));
        assert_eq!(recent.take(at(5)), Some(0), "a clock that was set back does not silence the log");
    }
}
