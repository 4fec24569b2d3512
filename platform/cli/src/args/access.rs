//! The arguments of `holm secrets` and `holm tokens`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use holm_model::access::{Permission, TokenId};
use holm_model::id::AppKey;
use holm_secrets::SecretName;

use super::{AppArgs, NamedApp};
use crate::exit::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum Secrets {
    /// Set one secret, from standard input or a file
    Set(SecretsSet),
    /// Remove secrets
    Unset(SecretsUnset),
    /// List the secrets of an app: names and versions, never values
    List(NamedApp),
    /// Set many secrets, from lines of NAME=value or a JSON object
    Import(SecretsImport),
    /// Compare a file with what is set, without showing values
    Diff(SecretsDiff),
    /// Give a secret that exists a new value, and replace every instance
    Rotate(SecretsRotate),
    /// Write the files an app would find, for use on this machine; needs no running Holm
    Render(SecretsRender),
}

/// How a change reaches the instances.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Rollout {
    /// Keep it for the next deployment or restart, and replace no instance now
    #[arg(long)]
    pub(crate) stage: bool,
    /// Return once the server has accepted it
    #[arg(long)]
    pub(crate) detach: bool,
}

/// What stands where a secret's name is expected. Checked later: an error of the command line's parser would repeat a value
/// that somebody wrote behind the name.
#[derive(Debug, Clone)]
pub(crate) struct NamedSecret(String);

impl From<String> for NamedSecret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl NamedSecret {
    /// The name; who wrote a value behind it is told where values go.
    pub(crate) fn name(&self) -> Result<SecretName, Failure> {
        if self.0.contains('=') {
            return Err(Failure::usage("only the secret's name stands on the command line")
                .hint("its value comes from standard input or `--file FILE`"));
        }
        SecretName::new(self.0.as_str()).map_err(|error| Failure::usage(error.to_string()))
    }
}

#[derive(Debug, Args)]
pub(crate) struct SecretsSet {
    /// The secret's name
    #[arg(value_name = "NAME")]
    pub(crate) name: NamedSecret,
    /// File with the value, byte for byte [default: standard input, without its last line break]
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) rollout: Rollout,
    #[command(flatten)]
    pub(crate) app: AppArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SecretsUnset {
    /// The secrets' names
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<SecretName>,
    #[command(flatten)]
    pub(crate) rollout: Rollout,
    #[command(flatten)]
    pub(crate) app: AppArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SecretsImport {
    /// The file; `-` is standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Remove every secret that is not in the file
    #[arg(long)]
    pub(crate) replace: bool,
    #[command(flatten)]
    pub(crate) rollout: Rollout,
    #[command(flatten)]
    pub(crate) app: AppArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SecretsDiff {
    /// The file; `-` is standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) app: AppArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SecretsRotate {
    /// The secret's name
    #[arg(value_name = "NAME")]
    pub(crate) name: NamedSecret,
    /// File with the value, byte for byte [default: standard input, without its last line break]
    #[arg(long, value_name = "FILE", conflicts_with = "generate")]
    pub(crate) file: Option<PathBuf>,
    /// Make a new value of so many random letters and digits, 16 to 1024
    #[arg(long, value_name = "LENGTH", num_args = 0..=1, default_missing_value = "43",
        value_parser = clap::value_parser!(u16).range(16..=1024))]
    pub(crate) generate: Option<u16>,
    #[command(flatten)]
    pub(crate) rollout: Rollout,
    #[command(flatten)]
    pub(crate) app: AppArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SecretsRender {
    /// The file; `-` is standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Folder to write to [default: the one file with all secrets, to standard output]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tokens {
    /// Make a token and show it, this once
    Create(TokensCreate),
    /// List the tokens: what they allow, never the tokens themselves
    List,
    /// Make a token worthless at once, also for what it has open
    Revoke {
        /// The token's id, its 12 digits after `holm_`
        #[arg(value_name = "ID")]
        id: TokenId,
    },
}

#[derive(Debug, Args)]
#[group(skip)]
#[command(group = ArgGroup::new("for").required(true).args(["apps", "all_apps"]))]
pub(crate) struct TokensCreate {
    /// What it is called; its commands are `token:NAME` in the events
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// App it is for, `APP` or `APP/ENV`; may be repeated
    #[arg(long = "app", value_name = "APP")]
    pub(crate) apps: Vec<AppKey>,
    /// It is for all apps, also later ones
    #[arg(long)]
    pub(crate) all_apps: bool,
    /// What it allows: read, logs, deploy, scale, route, secrets, exec, destroy, host
    #[arg(long, value_name = "WHAT", value_delimiter = ',', default_value = "read,deploy")]
    pub(crate) allow: Vec<Permission>,
    /// How long it is worth something, such as `90d` or `12h`, or `never`
    #[arg(long, value_name = "TIME", default_value = "90d")]
    pub(crate) expires: String,
}
