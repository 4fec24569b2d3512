//! Kernel modules: unpacking them, reading what they need, and the order in which to load them.

use std::collections::BTreeMap;

use super::elf::Elf;
use super::packed::{Packing, UnpackError};

/// Largest module accepted, unpacked, in bytes.
const MAX_MODULE: u64 = 32 << 20;

/// What a Holm guest needs: devices on virtio-mmio (block, network, control port, random numbers), the two file systems of
/// its root and the one of its volumes. Each may be built into the kernel instead.
pub(crate) const NEEDED: [&str; 8] =
    ["virtio_mmio", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "erofs", "overlay", "ext4"];

/// Why modules could not be put together.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModuleError {
    /// A module that is neither in the packages nor built in.
    #[error("the kernel has no module `{0}`, nor is it built in; give all packages of the kernel")]
    Missing(String),
    /// A module that cannot be unpacked.
    #[error("module `{name}` cannot be unpacked")]
    Unpack {
        /// Which.
        name: String,
        /// Why.
        source: UnpackError,
    },
    /// Not a kernel module.
    #[error("module `{0}` is damaged: it has no `.modinfo` section")]
    Damaged(String),
    /// Modules that need each other.
    #[error("module `{0}` needs itself")]
    Cycle(String),
}

/// A module ready to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// A module's file as a package holds it.
#[derive(Debug, Clone)]
pub(crate) struct ModuleFile {
    pub(crate) packing: Packing,
    pub(crate) bytes: Vec<u8>,
}

/// The name of a module and how it is packed, from its file name: `virtio-rng.ko.xz` is `virtio_rng`.
pub(crate) fn name_of(file: &str) -> Option<(String, Packing)> {
    let (stem, suffix) = file.split_once(".ko")?;
    let packing = match suffix {
        "" => Packing::None,
        ".xz" => Packing::Xz,
        ".zst" => Packing::Zstd,
        ".gz" => Packing::Gzip,
        _ => return None,
    };
    Some((normal(stem), packing))
}

/// `-` and `_` are the same in module names.
pub(crate) fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// The needed modules and, before each, those it needs. Those built in are left out.
///
/// Soft dependencies are not followed: the only one in the set, `crc32c` for `libcrc32c` and `ext4`, is built into Debian's
/// kernels.
pub(crate) fn in_load_order(
    needed: &[&str],
    files: &BTreeMap<String, ModuleFile>,
    builtin: impl Fn(&str) -> bool,
) -> Result<Vec<Module>, ModuleError> {
    let mut loader = Loader { files, builtin: &builtin, order: Vec::new(), open: Vec::new() };
    for name in needed {
        loader.add(name)?;
    }
    Ok(loader.order)
}

struct Loader<'a> {
    files: &'a BTreeMap<String, ModuleFile>,
    builtin: &'a dyn Fn(&str) -> bool,
    order: Vec<Module>,
    /// Modules whose needs are being added.
    open: Vec<String>,
}

impl Loader<'_> {
    fn add(&mut self, name: &str) -> Result<(), ModuleError> {
        if self.order.iter().any(|module| module.name == name) {
            return Ok(());
        }
        if self.open.iter().any(|open| open == name) {
            return Err(ModuleError::Cycle(name.to_owned()));
        }
        let Some(file) = self.files.get(name) else {
            let known = (self.builtin)(name);
            return if known { Ok(()) } else { Err(ModuleError::Missing(name.to_owned())) };
        };
        let mut bytes = file
            .packing
            .unpack(&file.bytes, MAX_MODULE)
            .map_err(|source| ModuleError::Unpack { name: name.to_owned(), source })?;
        let needs = needs_of(&bytes).ok_or_else(|| ModuleError::Damaged(name.to_owned()))?;
        self.open.push(name.to_owned());
        for need in needs {
            self.add(&need)?;
        }
        self.open.pop();
        strip_signature(&mut bytes);
        self.order.push(Module { name: name.to_owned(), bytes });
        Ok(())
    }
}

/// The `depends=` of a module; `None` when it is not one.
fn needs_of(module: &[u8]) -> Option<Vec<String>> {
    let info = Elf::new(module)?.section(".modinfo")?;
    let depends = info.split(|&b| b == 0).find_map(|field| field.strip_prefix(b"depends="))?;
    let depends = std::str::from_utf8(depends).ok()?;
    Some(depends.split(',').filter(|name| !name.is_empty()).map(normal).collect())
}

/// Removes the signature Debian appends. Nothing checks it in a guest but the guest's own kernel, which spends more time on
/// the checks than on the rest of loading when its instructions are translated.
fn strip_signature(module: &mut Vec<u8>) {
    const MAGIC: &[u8] = b"~Module signature appended~\n";
    const TRAILER: usize = 12;
    let Some(before) = module.strip_suffix(MAGIC) else {
        return;
    };
    let signed = || {
        let length = before.last_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes))?;
        before.len().checked_sub(TRAILER)?.checked_sub(usize::try_from(length).ok()?)
    };
    if let Some(length) = signed() {
        module.truncate(length);
    }
}

/// The modules in a list as `modules.builtin` has it: one path per line.
pub(crate) fn builtin_names(list: &str) -> impl Iterator<Item = String> + '_ {
    list.lines().filter_map(|line| name_of(line.trim().rsplit('/').next()?)).map(|(name, _)| name)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An ELF file with nothing but a `.modinfo` section.
    pub(crate) fn module(depends: &str) -> Vec<u8> {
        let info = format!("license=GPL\0depends={depends}\0name=x\0");
        let names = b"\0.modinfo\0.shstrtab\0";
        let info_at = 64;
        let names_at = info_at + info.len();
        let headers_at = names_at + names.len();
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[16..18].copy_from_slice(&1_u16.to_le_bytes());
        bytes[18..20].copy_from_slice(&62_u16.to_le_bytes());
        bytes[0x28..0x30].copy_from_slice(&(headers_at as u64).to_le_bytes());
        for (at, value) in [(0x3a, 64_u16), (0x3c, 3), (0x3e, 2)] {
            bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        bytes.extend_from_slice(info.as_bytes());
        bytes.extend_from_slice(names);
        for (name, at, size) in [(0_u32, 0, 0), (1, info_at, info.len()), (10, names_at, names.len())] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(at as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
            bytes.extend_from_slice(&header);
        }
        bytes
    }

    fn files(list: &[(&str, &str)]) -> BTreeMap<String, ModuleFile> {
        list.iter()
            .map(|(name, depends)| ((*name).to_owned(), ModuleFile { packing: Packing::None, bytes: module(depends) }))
            .collect()
    }

    fn order(needed: &[&str], list: &[(&str, &str)]) -> Result<Vec<String>, ModuleError> {
        let modules = in_load_order(needed, &files(list), |name| name == "built_in")?;
        Ok(modules.into_iter().map(|module| module.name).collect())
    }

    #[test]
    fn what_a_module_needs_comes_before_it_and_once() {
        let list =
            [("net", "net-fail,ring"), ("net_fail", "fail"), ("fail", ""), ("ring", "built_in"), ("blk", "ring")];
        let expected = ["fail", "net_fail", "ring", "net", "blk"];
        assert_eq!(order(&["net", "blk", "built_in"], &list).unwrap(), expected);
    }

    #[test]
    fn modules_that_cannot_be_put_together_are_refused() {
        assert_eq!(order(&["a"], &[]), Err(ModuleError::Missing("a".into())));
        assert_eq!(order(&["a"], &[("a", "b")]), Err(ModuleError::Missing("b".into())));
        assert_eq!(order(&["a"], &[("a", "b"), ("b", "a")]), Err(ModuleError::Cycle("a".into())));
        let broken = BTreeMap::from([("a".to_owned(), ModuleFile { packing: Packing::None, bytes: vec![0; 100] })]);
        assert_eq!(in_load_order(&["a"], &broken, |_| false), Err(ModuleError::Damaged("a".into())));
    }

    #[test]
    fn names_are_read_from_file_names() {
        assert_eq!(name_of("virtio-rng.ko.xz"), Some(("virtio_rng".into(), Packing::Xz)));
        assert_eq!(name_of("erofs.ko"), Some(("erofs".into(), Packing::None)));
        assert_eq!(name_of("erofs.ko.lz"), None);
        assert_eq!(name_of("modules.order"), None);
        let list = "kernel/drivers/char/virtio-console.ko\nkernel/fs/ext4.ko\n\n";
        assert_eq!(builtin_names(list).collect::<Vec<_>>(), ["virtio_console", "ext4"]);
    }

    #[test]
    fn a_signature_is_cut_off_and_a_wrong_one_left_alone() {
        let sign = |length: u32| {
            let mut bytes = [b"code".as_slice(), &[7; 20], &[0; 8], &length.to_be_bytes()].concat();
            bytes.extend_from_slice(b"~Module signature appended~\n");
            bytes
        };
        let mut signed = sign(20);
        strip_signature(&mut signed);
        assert_eq!(signed, b"code");
        let mut wrong = sign(2000);
        strip_signature(&mut wrong);
        assert_eq!(wrong, sign(2000));
    }

    proptest! {
        #[test]
        fn arbitrary_modules_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            needs_of(&bytes);
            strip_signature(&mut bytes.clone());
        }
    }
}
