//! The OCI and Docker documents: index, manifest and configuration, decoded into what the platform uses.
//!
//! Sources: OCI image spec 1.1 (`image-index.md`, `manifest.md`, `config.md`); Docker image manifest v2 schema 2.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Limits;
use crate::digest::Digest;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What to ask a registry for, as an `Accept` header.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

/// Why a document is not an image this platform can run.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not of the shape the spec gives.
    #[error("{what} is not valid")]
    Json {
        /// Which document.
        what: &'static str,
        /// What the decoder says.
        #[source]
        source: serde_json::Error,
    },
    /// A media type that is neither an image nor an index, such as an artifact or Docker's schema 1.
    #[error("media type `{0}` is not a container image")]
    MediaType(String),
    /// A layer's media type is unknown.
    #[error("layer {index} has the unsupported media type `{media_type}`")]
    LayerType {
        /// Counted from 0, lowest first.
        index: usize,
        /// As written in the manifest.
        media_type: String,
    },
    /// A layer that must be fetched from elsewhere.
    #[error("layer {0} is foreign (non-distributable): it must come from outside the registry, which is not supported")]
    ForeignLayer(usize),
    /// The index has no image for this host.
    #[error("the index has no image for linux/{wanted}; it has: {found}")]
    Platform {
        /// Architecture in Go's spelling.
        wanted: &'static str,
        /// What there is, comma separated.
        found: String,
    },
    /// The image is made for another kind of host.
    #[error("the image is for {found}; this host runs linux/{wanted}")]
    ConfigPlatform {
        /// Architecture in Go's spelling.
        wanted: &'static str,
        /// What the image's configuration says.
        found: String,
    },
    /// More than one limit of [`Limits`] concerns documents; this names the one passed.
    #[error("{what} is {found}; the limit is {limit}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// How much there is.
        found: u64,
        /// How much is allowed.
        limit: u64,
    },
    /// The configuration names another number of layers than the manifest.
    #[error("the manifest has {layers} layers but the configuration names {diff_ids}")]
    LayerCount {
        /// Layers in the manifest.
        layers: usize,
        /// Digests in the configuration.
        diff_ids: usize,
    },
    /// An index inside an index inside an index.
    #[error("the index is nested too deeply")]
    Nesting,
}

/// A reference to a blob by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the blob.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Free-form notes; a layout's tag is one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The platform an index entry is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// Operating system and architecture, in Go's spelling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// For example `linux`.
    pub os: String,
    /// For example `amd64`.
    pub architecture: String,
}

/// An image index, or the `index.json` of a layout.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    #[serde(default)]
    pub(crate) manifests: Vec<Descriptor>,
}

/// An image manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// A manifest or an index, told apart by media type or, where that is missing, by shape.
#[derive(Debug, Clone)]
pub(crate) enum Document {
    Index(Index),
    Manifest(Manifest),
}

/// How an image wants to be run (OCI `config.md`). Names of users are resolved inside the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Program and leading arguments.
    pub entrypoint: Vec<String>,
    /// Arguments, or the program where there is no entrypoint.
    pub cmd: Vec<String>,
    /// `NAME=value` pairs.
    pub env: Vec<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`, as written; empty is root.
    pub user: String,
    /// Working directory; empty is `/`.
    pub working_dir: String,
    /// Signal name or number that asks the app to stop, as written.
    pub stop_signal: Option<String>,
    /// Ports as written, such as `8080/tcp`, sorted.
    pub exposed_ports: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// What the build needs from a configuration document.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) image: ImageConfig,
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    config: Option<RawRunConfig>,
    rootfs: RawRootFs,
}

#[derive(Deserialize)]
struct RawRootFs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawRunConfig {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    labels: Option<BTreeMap<String, String>>,
}

/// This host's architecture in Go's spelling.
pub(crate) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Document {
    /// Decodes `bytes`; `media_type` is what the sender called it.
    pub(crate) fn parse(bytes: &[u8], media_type: Option<&str>) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Probe {
            media_type: Option<String>,
            manifests: Option<serde::de::IgnoredAny>,
        }
        let json = |what| move |source| ManifestError::Json { what, source };
        let probe: Probe = serde_json::from_slice(bytes).map_err(json("manifest"))?;
        let sent = media_type.map(|full| full.split(';').next().unwrap_or(full).trim());
        let known = |name: &&str| [OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST].contains(name);
        let kind = probe.media_type.as_deref().or(sent.filter(known));
        let is_index = match kind {
            Some(OCI_INDEX | DOCKER_INDEX) => true,
            Some(OCI_MANIFEST | DOCKER_MANIFEST) => false,
            Some(other) => return Err(ManifestError::MediaType(other.to_owned())),
            None => probe.manifests.is_some(),
        };
        if is_index {
            serde_json::from_slice(bytes).map(Self::Index).map_err(json("image index"))
        } else {
            serde_json::from_slice(bytes).map(Self::Manifest).map_err(json("image manifest"))
        }
    }
}

impl Index {
    /// The entry for this host. An entry without a platform stands for any.
    pub(crate) fn select(&self) -> Result<&Descriptor, ManifestError> {
        let wanted = host_architecture();
        let fits = |descriptor: &&Descriptor| {
            let image = is_image_type(&descriptor.media_type);
            image && descriptor.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == wanted)
        };
        let unmarked =
            |descriptor: &&Descriptor| is_image_type(&descriptor.media_type) && descriptor.platform.is_none();
        let chosen = self.manifests.iter().find(fits).or_else(|| self.manifests.iter().find(unmarked));
        chosen.ok_or_else(|| {
            let names = self.manifests.iter().take(16).filter_map(|descriptor| descriptor.platform.as_ref());
            let names: Vec<_> = names.map(|platform| format!("{}/{}", platform.os, platform.architecture)).collect();
            let found = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
            ManifestError::Platform { wanted, found }
        })
    }
}

/// Whether a descriptor names an image or an index of images.
pub(crate) fn is_image_type(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_INDEX | OCI_MANIFEST | DOCKER_MANIFEST)
}

impl Manifest {
    /// Refuses what cannot be built, before anything is fetched.
    pub(crate) fn check(&self, limits: &Limits) -> Result<(), ManifestError> {
        limit("number of layers", self.layers.len() as u64, limits.layers as u64)?;
        limit("image configuration's size", self.config.size, limits.config_bytes)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let media_type = layer.media_type.as_str();
            if media_type.contains("nondistributable") || media_type.contains(".foreign.") {
                return Err(ManifestError::ForeignLayer(index));
            }
            let suffix = media_type
                .strip_prefix("application/vnd.oci.image.layer.v1.tar")
                .or_else(|| media_type.strip_prefix("application/vnd.docker.image.rootfs.diff.tar"));
            if !matches!(suffix, Some("" | "+gzip" | "+zstd" | ".gzip" | ".zstd")) {
                return Err(ManifestError::LayerType { index, media_type: media_type.to_owned() });
            }
            limit("layer's compressed size", layer.size, limits.layer_bytes)?;
        }
        Ok(())
    }
}

impl Config {
    /// Decodes a configuration and checks it against the manifest's layers.
    pub(crate) fn parse(bytes: &[u8], layers: usize) -> Result<Self, ManifestError> {
        let raw: RawConfig = serde_json::from_slice(bytes)
            .map_err(|source| ManifestError::Json { what: "image configuration", source })?;
        let wanted = host_architecture();
        let fits = |value: &str, wanted: &str| value.is_empty() || value == wanted;
        if !fits(&raw.os, "linux") || !fits(&raw.architecture, wanted) {
            return Err(ManifestError::ConfigPlatform { wanted, found: format!("{}/{}", raw.os, raw.architecture) });
        }
        let diff_ids = raw.rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() != layers {
            return Err(ManifestError::LayerCount { layers, diff_ids: diff_ids.len() });
        }
        let run = raw.config.unwrap_or_default();
        let image = ImageConfig {
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            env: run.env.unwrap_or_default(),
            user: run.user.unwrap_or_default(),
            working_dir: run.working_dir.unwrap_or_default(),
            stop_signal: run.stop_signal.filter(|signal| !signal.is_empty()),
            exposed_ports: run.exposed_ports.unwrap_or_default().into_keys().collect(),
            labels: run.labels.unwrap_or_default(),
        };
        Ok(Self { image, diff_ids })
    }
}

fn limit(what: &'static str, found: u64, limit: u64) -> Result<(), ManifestError> {
    if found > limit { Err(ManifestError::Limit { what, found, limit }) } else { Ok(()) }
}
