//! Owns images on a host: pulls them, checks every byte, and turns each into one read-only EROFS file. Runs nothing.
//!
//! ```text
//! ImageRef ──resolve──▶ Resolved (pinned to a digest) ──prepare──▶ PreparedImage (EROFS file and ImageConfig)
//!              registry or OCI layout → blobs/sha256/… → layers applied in a Tree → images/<digest>.erofs
//! ```
//!
//! [`ImageStore`] is the way in. It is cheap to clone and safe to use from many tasks: equal work is done once.

mod build;
mod digest;
pub mod erofs;
mod flight;
#[doc(hidden)]
pub mod fuzz;
mod layout;
mod limits;
mod manifest;
pub mod pack;
mod progress;
mod reference;
mod registry;
mod store;
mod tar;
mod tree;

pub use build::BuildError;
pub use digest::{Digest, DigestError};
pub use layout::LayoutError;
pub use limits::Limits;
pub use manifest::{Descriptor, ImageConfig, ManifestError, Platform};
pub use progress::{Phase, Progress};
pub use reference::{ImageRef, LayoutRef, ReferenceError, RegistryRef};
pub use registry::{RegistryError, RegistryOptions};
pub use store::{ImageRecord, ImageStore, LayerRecord, PreparedImage, Pruned, Resolved, StoreError, StoreOptions};
pub use tar::{Device, Mtime, TarError, Xattr};
pub use tree::EntryError;
