//! Secrets on their way into a guest, and the one file that lists them all.
//!
//! In the guest they lie in [`FOLDER`], a file system in memory that is read-only once they are written: one file per
//! secret, named after it, and [`ALL_FILE`] with all of them:
//!
//! ```json
//! {"schema":"holm.secrets/1","version":3,"secrets":{"PASSWORD":"text","KEY":{"base64":"//8="}}}
//! ```
//! A value that is UTF-8 is a text; any other is an object with its base64. Names are in order; nothing else stands in it.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use base64::Engine as _;
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Serialize, Serializer};

use crate::ConfigError;
use crate::config::{from_base64, to_base64};

/// Folder of the secrets in the guest.
pub const FOLDER: &str = "/run/secrets";

/// Name of the file with all secrets. No secret has this name: theirs start with a letter or `_`.
pub const ALL_FILE: &str = ".all.json";

/// The secrets of an app, for one guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSecrets {
    /// Which version of the app's secrets these are.
    pub version: u64,
    /// The secrets by name.
    pub secrets: BTreeMap<String, GuestSecret>,
}

/// One secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSecret {
    /// Its bytes; base64 in JSON.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub value: Vec<u8>,
    /// Permission bits of its file, at most 0o777.
    pub mode: u32,
    /// Owner of its file, written as [`Config::user`](crate::Config::user); absent: the app's user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Whether it is an environment variable too.
    #[serde(default)]
    pub env: bool,
}

impl core::fmt::Debug for GuestSecret {
    /// Leaves the value out.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { value, mode, owner, env } = self;
        let mut out = f.debug_struct("GuestSecret");
        out.field("value", &format_args!("<{} bytes>", value.len())).field("mode", &format_args!("{mode:#o}"));
        out.field("owner", owner).field("env", env).finish()
    }
}

impl GuestSecrets {
    /// Checks what the guest relies on.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        for (name, secret) in &self.secrets {
            let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
            let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
            if !first || name.len() > 128 || !name.bytes().all(fits) {
                return Err(ConfigError::Range("a secret's name"));
            }
            if secret.mode > 0o777 {
                return Err(ConfigError::Range("a secret's mode"));
            }
            if secret.env && core::str::from_utf8(&secret.value).map_or(true, |text| text.contains('\0')) {
                return Err(ConfigError::ZeroByte("a secret that is to be an environment variable"));
            }
            if secret.owner.as_ref().is_some_and(|owner| owner.contains('\0')) {
                return Err(ConfigError::ZeroByte("a secret's owner"));
            }
        }
        Ok(())
    }

    /// The secrets that are environment variables.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.secrets.iter().filter(|(_, secret)| secret.env);
        all.filter_map(|(name, secret)| Some((name.as_str(), core::str::from_utf8(&secret.value).ok()?)))
    }

    /// The content of [`ALL_FILE`].
    pub fn render(&self) -> Vec<u8> {
        render_secrets(self.version, self.secrets.iter().map(|(name, secret)| (name.as_str(), secret.value.as_slice())))
    }
}

/// The content of the file with all secrets, ending with a line break. `version` is 0 where there is none.
pub fn render_secrets<'s>(version: u64, secrets: impl Iterator<Item = (&'s str, &'s [u8])>) -> Vec<u8> {
    #[derive(Serialize)]
    struct File<'s> {
        schema: &'static str,
        version: u64,
        secrets: Values<'s>,
    }
    struct Values<'s>(BTreeMap<&'s str, &'s [u8]>);
    #[derive(Serialize)]
    struct Binary {
        base64: String,
    }
    impl Serialize for Values<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(Some(self.0.len()))?;
            for (name, value) in &self.0 {
                match core::str::from_utf8(value) {
                    Ok(text) => map.serialize_entry(name, text)?,
                    Err(_) => {
                        let base64 = base64::engine::general_purpose::STANDARD.encode(value);
                        map.serialize_entry(name, &Binary { base64 })?;
                    }
                }
            }
            map.end()
        }
    }
    let file = File { schema: "holm.secrets/1", version, secrets: Values(secrets.collect()) };
    let mut bytes = serde_json::to_vec(&file).expect("names and texts have a JSON form");
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::borrow::ToOwned as _;
    use alloc::format;

    fn secret(value: &[u8], env: bool) -> GuestSecret {
        GuestSecret { value: value.to_vec(), mode: 0o400, owner: None, env }
    }

    fn secrets(all: &[(&str, GuestSecret)]) -> GuestSecrets {
        let secrets = all.iter().map(|(name, secret)| ((*name).to_owned(), secret.clone())).collect();
        GuestSecrets { version: 3, secrets }
    }

    #[test]
    fn the_file_has_texts_and_base64_in_order() {
        let set = secrets(&[("KEY", secret(&[0xff, 0xff], false)), ("A", secret(b"\"x\"\n", true))]);
        let wanted = concat!(
            r#"{"schema":"holm.secrets/1","version":3,"secrets":{"A":"\"x\"\n","KEY":{"base64":"//8="}}}"#,
            "\n"
        );
        assert_eq!(core::str::from_utf8(&set.render()).unwrap(), wanted);
        assert_eq!(set.variables().collect::<Vec<_>>(), [("A", "\"x\"\n")]);
    }

    #[test]
    fn debug_output_shows_no_value() {
        let shown = format!("{:?}", secrets(&[("A", secret(b"hunter2", true))]));
        assert!(shown.contains("<7 bytes>") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn names_that_leave_the_folder_and_values_that_are_no_variables_are_refused() {
        for name in ["", ".all.json", "../x", "a/b", "a\0"] {
            assert!(secrets(&[(name, secret(b"x", false))]).check().is_err(), "{name}");
        }
        for value in [&b"a\0b"[..], b"\xff"] {
            assert!(secrets(&[("A", secret(value, true))]).check().is_err());
            assert!(secrets(&[("A", secret(value, false))]).check().is_ok());
        }
    }
}
