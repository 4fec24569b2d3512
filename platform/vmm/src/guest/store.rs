//! The folder of guest bundles: list them, find one, put one in, choose the default.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::debian::PackageError;
use super::modules::ModuleError;

/// What went wrong with guest bundles.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// A file of the store could not be read or written.
    #[error("cannot {what} {}", path.display())]
    Store {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A bundle's description cannot be read.
    #[error("cannot read the guest bundle {}", path.display())]
    Description {
        /// Which file.
        path: PathBuf,
        /// Where it is wrong.
        source: serde_json::Error,
    },
    /// A kernel package is not usable.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The kernel's modules cannot be put together.
    #[error(transparent)]
    Modules(#[from] ModuleError),
    /// The program given as PID 1 would not run in a guest, where there is nothing but itself.
    #[error("{} cannot be PID 1: it is not a statically linked x86-64 program", .0.display())]
    NotStatic(PathBuf),
    /// The file called kernel is not one.
    #[error("the package's kernel `{0}` is not a bzImage")]
    NotAKernel(String),
    /// No bundle with this id.
    #[error("no guest bundle `{0}`; `holm guest list` shows what there is")]
    NotFound(String),
}

/// One bundle: a kernel and an initial ramdisk that belong together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestBundle {
    /// Short hash of the contents: 16 hexadecimal digits.
    pub id: String,
    /// The kernel's version, such as `6.12.117+deb12-cloud-amd64`.
    pub kernel_version: String,
    /// The kernel modules in the initial ramdisk, in load order, without folder and suffix.
    pub modules: Vec<String>,
    /// Where the kernel lies.
    #[serde(skip)]
    pub kernel: PathBuf,
    /// Where the initial ramdisk lies.
    #[serde(skip)]
    pub initrd: PathBuf,
}

/// The folder `<state>/guests`.
#[derive(Debug, Clone)]
pub struct GuestStore {
    pub(super) root: PathBuf,
}

impl GuestStore {
    /// Name of the kernel file in a bundle's folder.
    pub const KERNEL: &str = "vmlinuz";
    /// Name of the initial ramdisk in a bundle's folder.
    pub const INITRD: &str = "initrd";
    /// Name of the description in a bundle's folder.
    pub const DESCRIPTION: &str = "bundle.json";
    /// Name of the file that holds the id of the default bundle.
    pub(super) const DEFAULT: &str = "default";

    /// The store in this folder, made if missing.
    ///
    /// # Errors
    /// [`GuestError::Store`].
    pub fn open(root: &Path) -> Result<Self, GuestError> {
        std::fs::create_dir_all(root).map_err(|source| GuestError::Store {
            what: "make the guest store",
            path: root.to_owned(),
            source,
        })?;
        Ok(Self { root: root.to_owned() })
    }

    /// The bundle with this id.
    ///
    /// # Errors
    /// See [`GuestError`].
    pub fn get(&self, id: &str) -> Result<GuestBundle, GuestError> {
        if id.len() != 16 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(GuestError::NotFound(id.to_owned()));
        }
        let folder = self.root.join(id);
        let path = folder.join(Self::DESCRIPTION);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(GuestError::NotFound(id.to_owned()));
            }
            Err(source) => {
                return Err(GuestError::Store { what: "read", path, source });
            }
            Ok(text) => text,
        };
        let mut bundle: GuestBundle =
            serde_json::from_slice(&text).map_err(|source| GuestError::Description { path, source })?;
        bundle.kernel = folder.join(Self::KERNEL);
        bundle.initrd = folder.join(Self::INITRD);
        Ok(bundle)
    }

    /// All bundles, by id.
    ///
    /// # Errors
    /// See [`GuestError`].
    pub fn list(&self) -> Result<Vec<GuestBundle>, GuestError> {
        let unreadable = |source| GuestError::Store { what: "read", path: self.root.clone(), source };
        let mut bundles = Vec::new();
        for entry in std::fs::read_dir(&self.root).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name();
            match name.to_str().map(|id| self.get(id)) {
                Some(Ok(bundle)) => bundles.push(bundle),
                // Not a bundle's folder.
                None | Some(Err(GuestError::NotFound(_))) => {}
                Some(Err(error)) => return Err(error),
            }
        }
        bundles.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(bundles)
    }

    /// The bundle VMs boot from: the one imported last; `None` when there is none.
    ///
    /// # Errors
    /// See [`GuestError`].
    pub fn default_bundle(&self) -> Result<Option<GuestBundle>, GuestError> {
        let path = self.root.join(Self::DEFAULT);
        match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(GuestError::Store { what: "read", path, source }),
            Ok(id) => self.get(id.trim()).map(Some),
        }
    }
}
