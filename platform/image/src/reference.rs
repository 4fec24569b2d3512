//! Image references: what a person writes to name an image, parsed once and printed back in full.
//!
//! A registry reference follows the distribution grammar (`distribution/reference`). Docker's shorthand is resolved
//! when it is parsed and shown in full from then on: `nginx` becomes `docker.io/library/nginx:latest`.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, DigestError};

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
const LAYOUT_SCHEME: &str = "oci:";
const REPOSITORY_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// Where an image comes from. `Display` prints a form that parses to the same value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ImageRef {
    /// `registry/repository[:tag][@digest]`.
    Registry(RegistryRef),
    /// `oci:/absolute/folder[:tag][@digest]`: an OCI image layout on this host.
    Layout(LayoutRef),
}

/// A name in a registry. Holds a tag, a digest, or both; never neither.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RegistryRef {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// An image in an OCI layout folder. Without tag and digest the layout must hold exactly one image.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LayoutRef {
    folder: PathBuf,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing was given.
    #[error("image reference is empty")]
    Empty,
    /// The registry host or port is malformed.
    #[error("registry `{0}` is not a host name or address with an optional port")]
    Registry(String),
    /// The repository does not follow the grammar.
    #[error(
        "repository `{0}` is not made of lower-case letters and digits, joined by `.`, `_`, `__` or `-` and split by `/`"
    )]
    Repository(String),
    /// The tag does not follow the grammar.
    #[error("tag `{0}` is not up to 128 letters, digits, `_`, `.` or `-`, starting with a letter, digit or `_`")]
    Tag(String),
    /// The digest is malformed.
    #[error("image reference has a bad digest")]
    Digest(#[from] DigestError),
    /// An `oci:` folder that is not an absolute, plain path.
    #[error(
        "layout folder `{0}` is not an absolute path without `..`, `@` or a `:` in its last name; write `oci:/absolute/folder[:tag]`"
    )]
    Folder(String),
}

impl ImageRef {
    /// The digest the reference is pinned to, if it is.
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::Registry(reference) => reference.digest,
            Self::Layout(reference) => reference.digest,
        }
    }

    /// The same source pinned to `digest`, keeping the tag for people to read.
    pub fn pinned(&self, digest: Digest) -> Self {
        let mut pinned = self.clone();
        match &mut pinned {
            Self::Registry(reference) => reference.digest = Some(digest),
            Self::Layout(reference) => reference.digest = Some(digest),
        }
        pinned
    }

    /// A reference to an OCI layout folder.
    pub fn layout(folder: &Path, tag: Option<&str>) -> Result<Self, ReferenceError> {
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        let folder = folder.to_str().ok_or_else(|| ReferenceError::Folder(folder.display().to_string()))?;
        Ok(Self::Layout(LayoutRef { folder: check_folder(folder)?, tag: tag.map(str::to_owned), digest: None }))
    }
}

impl RegistryRef {
    /// Host and optional port as written, for example `registry.example.com:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository's path, for example `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if one was given or implied.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// What to ask the registry for: the digest where there is one, else the tag.
    pub fn target(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }
}

impl LayoutRef {
    /// The layout's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The tag, if one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }
}

impl FromStr for ImageRef {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if let Some(rest) = text.strip_prefix(LAYOUT_SCHEME) {
            return parse_layout(rest).map(Self::Layout);
        }
        parse_registry(text).map(Self::Registry)
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tag, digest) = match self {
            Self::Registry(reference) => {
                write!(f, "{}/{}", reference.registry, reference.repository)?;
                (&reference.tag, &reference.digest)
            }
            Self::Layout(reference) => {
                write!(f, "{LAYOUT_SCHEME}{}", reference.folder.display())?;
                (&reference.tag, &reference.digest)
            }
        };
        if let Some(tag) = tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl Serialize for ImageRef {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ImageRef {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn parse_registry(text: &str) -> Result<RegistryRef, ReferenceError> {
    let (name, digest) = split_digest(text)?;
    let (name, tag) = split_tag(name)?;
    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if names_a_host(first) => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    check_registry(registry)?;
    let repository = match registry {
        DEFAULT_REGISTRY if !path.contains('/') => format!("library/{path}"),
        _ => path.to_owned(),
    };
    if !is_repository(&repository) {
        return Err(ReferenceError::Repository(path.to_owned()));
    }
    let tag = match (tag, digest) {
        (None, None) => Some(DEFAULT_TAG.to_owned()),
        (tag, _) => tag,
    };
    Ok(RegistryRef { registry: registry.to_owned(), repository, tag, digest })
}

fn parse_layout(text: &str) -> Result<LayoutRef, ReferenceError> {
    let (text, digest) = split_digest(text)?;
    let (folder, tag) = split_tag(text)?;
    Ok(LayoutRef { folder: check_folder(folder)?, tag, digest })
}

fn split_digest(text: &str) -> Result<(&str, Option<Digest>), ReferenceError> {
    match text.rsplit_once('@') {
        Some((name, digest)) => Ok((name, Some(digest.parse()?))),
        None => Ok((text, None)),
    }
}

/// A colon after the last slash starts the tag; one before it belongs to the registry's port.
fn split_tag(text: &str) -> Result<(&str, Option<String>), ReferenceError> {
    let last_part = text.rfind('/').map_or(0, |slash| slash + 1);
    match text[last_part..].find(':') {
        Some(colon) => {
            let (name, tag) = (&text[..last_part + colon], &text[last_part + colon + 1..]);
            check_tag(tag)?;
            Ok((name, Some(tag.to_owned())))
        }
        None => Ok((text, None)),
    }
}

fn names_a_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':', '['])
}

fn check_registry(registry: &str) -> Result<(), ReferenceError> {
    let wrong = || ReferenceError::Registry(registry.to_owned());
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or_else(wrong)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            (None, after.strip_prefix(':').or(if after.is_empty() { None } else { Some("") }))
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.is_some_and(|host| host.len() > 253 || !host.split('.').all(label)) {
        return Err(wrong());
    }
    let digits =
        |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p > 0);
    if port.is_some_and(|port| !digits(port)) {
        return Err(wrong());
    }
    Ok(())
}

fn is_repository(repository: &str) -> bool {
    repository.len() <= REPOSITORY_MAX && repository.split('/').all(is_repository_component)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_repository_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alphanumeric(first) || !alphanumeric(last) {
        return false;
    }
    bytes
        .split(|&byte| alphanumeric(byte))
        .filter(|separator| !separator.is_empty())
        .all(|separator| matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|&byte| byte == b'-'))
}

fn check_tag(tag: &str) -> Result<(), ReferenceError> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let well_formed = tag.len() <= TAG_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'));
    if well_formed { Ok(()) } else { Err(ReferenceError::Tag(tag.to_owned())) }
}

fn check_folder(folder: &str) -> Result<PathBuf, ReferenceError> {
    let path = Path::new(folder);
    let plain = path.is_absolute()
        && !folder.contains(['@', '\0', '\n'])
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    // A colon in the last name would be read back as the start of a tag.
    let ambiguous = path.file_name().is_some_and(|name| name.to_string_lossy().contains(':'));
    if !plain || ambiguous {
        return Err(ReferenceError::Folder(folder.to_owned()));
    }
    Ok(path.components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn shorthand_is_resolved_to_the_full_name() {
        for (written, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("team/app", "docker.io/team/app:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("[::1]:5000/a/b:v1", "[::1]:5000/a/b:v1"),
            ("ghcr.io/a/b__c/d-e.f", "ghcr.io/a/b__c/d-e.f:latest"),
            ("oci:/srv//images/app:v1", "oci:/srv/images/app:v1"),
            ("oci:/srv/images/app/", "oci:/srv/images/app"),
        ] {
            let reference: ImageRef = written.parse().unwrap();
            assert_eq!(reference.to_string(), full, "{written}");
            assert_eq!(full.parse::<ImageRef>().unwrap(), reference, "{written}");
        }
    }

    #[test]
    fn a_digest_needs_no_tag() {
        let reference: ImageRef = format!("ghcr.io/a/b@{DIGEST}").parse().unwrap();
        assert_eq!(reference.to_string(), format!("ghcr.io/a/b@{DIGEST}"));
        let both: ImageRef = format!("ghcr.io/a/b:v1@{DIGEST}").parse().unwrap();
        assert_eq!(both.to_string(), format!("ghcr.io/a/b:v1@{DIGEST}"));
        assert_eq!(both.digest().unwrap().to_string(), DIGEST);
    }

    #[test]
    fn malformed_references_are_refused() {
        for text in [
            "",
            "/",
            "a//b",
            "A/b",
            "UPPER",
            "a:",
            "a:-x",
            "a@",
            "a@sha256:12",
            "a@sha512:00",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "host.com:99999/a",
            "host.com:/a",
            "[::1/a",
            "[::1]x/a",
            "-bad.com/a",
            "oci:relative",
            "oci:/a/../b",
            "oci:",
            "a b",
            "a\n",
            "http://host/a",
            "ghcr.io/",
        ] {
            assert!(text.parse::<ImageRef>().is_err(), "{text:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_prints_a_form_that_parses_to_the_same(text in "(oci:/)?[a-zA-Z0-9:./@_\\[\\]-]{0,40}") {
            if let Ok(reference) = text.parse::<ImageRef>() {
                prop_assert_eq!(reference.to_string().parse::<ImageRef>(), Ok(reference));
            }
        }
    }
}
