//! Secrets on a host: their values in memory, the files people import them from, and the vault that keeps them sealed.
//!
//! This crate owns the bytes of secrets outside a guest. Values are wiped from memory when they are dropped and show only
//! their length in debug output. It decides nothing about versions or rollouts and speaks to nobody: the control plane
//! names the set that counts, the agent opens it for a guest.

#![forbid(unsafe_code)]

mod dotenv;
mod generate;
mod value;
mod vault;

pub use dotenv::{ImportError, MAX_IMPORT, parse_import};
pub use generate::generate;
pub use holm_manifest::{SecretName, SecretNameError};
pub use value::{MAX_SECRETS, MAX_SET, MAX_VALUE, SecretValue, Secrets, SecretsError};
pub use vault::{Vault, VaultError};
