//! Reading Debian packages: the kernel and all its modules out of the `data.tar` in each `.deb`.
//!
//! Nothing is written while reading, so paths in a hostile package lead nowhere; sizes are limited.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use super::modules::{self, ModuleFile};
use super::packed::{Packing, UnpackError, read_up_to};

/// Largest kernel accepted, in bytes.
const MAX_KERNEL: u64 = 128 << 20;
/// Most bytes of modules kept, over all packages.
const MAX_MODULES: u64 = 512 << 20;
/// Most bytes a package may unpack to; Debian's largest kernel package has 0.4 GiB.
const MAX_UNPACKED: u64 = 2 << 30;
/// Largest list of built-in modules accepted, in bytes.
const MAX_LIST: u64 = 1 << 20;

/// Why a package was refused.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// The file cannot be read, or its tar archive is damaged or cut off.
    #[error("cannot read the package {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a Debian package, or one this cannot read.
    #[error("{} is not a Debian package: {why}", path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A file in the package is too large or damaged.
    #[error("`{file}` in {} cannot be unpacked", path.display())]
    Entry {
        /// Which package.
        path: PathBuf,
        /// Which file in it.
        file: String,
        /// Why.
        source: UnpackError,
    },
    /// The packages hold no kernel.
    #[error("no package given holds a kernel (`boot/vmlinuz-…`)")]
    NoKernel,
    /// The packages belong to different kernels.
    #[error("the packages hold kernels `{0}` and `{1}`; give those of one kernel")]
    TwoKernels(String, String),
}

/// What the packages of one kernel hold.
#[derive(Debug)]
pub(crate) struct KernelFiles {
    /// The kernel's version as its file name says.
    pub(crate) version: String,
    pub(crate) kernel: Vec<u8>,
    pub(crate) modules: BTreeMap<String, ModuleFile>,
    pub(crate) builtin: BTreeSet<String>,
}

#[derive(Default)]
struct Collected {
    kernel: Option<(String, Vec<u8>)>,
    modules: BTreeMap<String, ModuleFile>,
    builtin: BTreeSet<String>,
    module_bytes: u64,
}

/// Reads the packages of one kernel; newer Debian releases split it into several.
pub(crate) fn read_packages(paths: &[PathBuf]) -> Result<KernelFiles, PackageError> {
    let mut collected = Collected::default();
    for path in paths {
        let file = File::open(path).map_err(|source| PackageError::Read { path: path.clone(), source })?;
        read_package(BufReader::new(file), path, &mut collected)?;
    }
    let (version, kernel) = collected.kernel.ok_or(PackageError::NoKernel)?;
    Ok(KernelFiles { version, kernel, modules: collected.modules, builtin: collected.builtin })
}

/// Reads one package from any reader; for tests and fuzzing with arbitrary bytes.
#[cfg(test)]
pub(crate) fn read_bytes(bytes: &[u8]) -> Result<(), PackageError> {
    read_package(bytes, Path::new("bytes"), &mut Collected::default())
}

fn read_package(mut package: impl Read, path: &Path, collected: &mut Collected) -> Result<(), PackageError> {
    let wrong = |why: String| PackageError::Format { path: path.to_owned(), why };
    let unreadable = |source| PackageError::Read { path: path.to_owned(), source };
    let mut magic = [0; 8];
    package.read_exact(&mut magic).map_err(|_| wrong("it is too short".to_owned()))?;
    if &magic != b"!<arch>\n" {
        return Err(wrong("it does not start with `!<arch>`".to_owned()));
    }
    loop {
        let member = next_member(&mut package).map_err(unreadable)?;
        let Some((name, size)) = member else {
            return Err(wrong("it has no `data.tar`".to_owned()));
        };
        let packing = match name.as_str() {
            "data.tar" => Packing::None,
            "data.tar.gz" => Packing::Gzip,
            "data.tar.xz" => Packing::Xz,
            "data.tar.zst" => Packing::Zstd,
            other if other.starts_with("data.tar") => {
                return Err(wrong(format!("`{other}` is packed in an unknown way")));
            }
            _ => {
                let padded = size + size % 2;
                let skipped = io::copy(&mut package.by_ref().take(padded), &mut io::sink()).map_err(unreadable)?;
                if skipped < padded {
                    return Err(wrong("it is cut off".to_owned()));
                }
                continue;
            }
        };
        let data = packing.reader(package.by_ref().take(size)).map_err(unreadable)?;
        return collected.read_tar(data, path);
    }
}

/// Name and size of the next member of an `ar` archive.
fn next_member(package: &mut impl Read) -> io::Result<Option<(String, u64)>> {
    let mut header = Vec::new();
    package.by_ref().take(60).read_to_end(&mut header)?;
    if header.is_empty() {
        return Ok(None);
    }
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "its archive header is damaged");
    if header.len() < 60 || &header[58..] != b"`\n" {
        return Err(damaged());
    }
    let text =
        |range: std::ops::Range<usize>| std::str::from_utf8(&header[range]).map(str::trim).map_err(|_| damaged());
    let size: u32 = text(48..58)?.parse().map_err(|_| damaged())?;
    Ok(Some((text(0..16)?.trim_end_matches('/').to_owned(), u64::from(size))))
}

impl Collected {
    fn read_tar(&mut self, data: impl Read, path: &Path) -> Result<(), PackageError> {
        let unreadable = |source| PackageError::Read { path: path.to_owned(), source };
        let mut archive = tar::Archive::new(data.take(MAX_UNPACKED));
        for entry in archive.entries().map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            if entry.header().entry_type() != tar::EntryType::Regular {
                continue;
            }
            let Ok(name) = String::from_utf8(entry.path_bytes().into_owned()) else {
                continue;
            };
            let damaged = |source| PackageError::Entry { path: path.to_owned(), file: name.clone(), source };
            let inner = name.trim_start_matches("./");
            let file = inner.rsplit('/').next().unwrap_or_default();
            if let Some(version) = inner.strip_prefix("boot/vmlinuz-") {
                let kernel = read_up_to(entry, MAX_KERNEL).map_err(damaged)?;
                if let Some((other, _)) = &self.kernel {
                    return Err(PackageError::TwoKernels(other.clone(), version.to_owned()));
                }
                self.kernel = Some((version.to_owned(), kernel));
            } else if !inner.contains("lib/modules/") {
                continue;
            } else if file == "modules.builtin" {
                let list = read_up_to(entry, MAX_LIST).map_err(damaged)?;
                self.builtin.extend(modules::builtin_names(&String::from_utf8_lossy(&list)));
            } else if let Some((module, packing)) = modules::name_of(file) {
                let bytes = read_up_to(entry, MAX_MODULES - self.module_bytes).map_err(damaged)?;
                self.module_bytes += bytes.len() as u64;
                self.modules.insert(module, ModuleFile { packing, bytes });
            }
        }
        Ok(())
    }
}
