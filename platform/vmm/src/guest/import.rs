//! Making a bundle out of kernel packages and PID 1, and putting it into the store in one step.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use super::cpio::Archive;
use super::debian;
use super::elf::Elf;
use super::modules::{self, Module};
use super::store::{GuestBundle, GuestError, GuestStore};

/// Prefix of folders under construction.
const UNFINISHED: &str = ".importing-";

/// Name of the file that is locked while importing.
const LOCK: &str = "lock";

impl GuestStore {
    /// Makes a bundle from the Debian packages of one kernel and a static program to be PID 1, and makes it the default.
    /// The same input gives the same bundle. Blocks for a second or two, also while another import runs.
    ///
    /// In the initial ramdisk PID 1 is `/init`; the modules are `/modules/NN-<name>.ko`, to be loaded in the order of their
    /// names.
    ///
    /// # Errors
    /// See [`GuestError`]. When this fails, nothing has changed.
    pub fn import_debian(&self, packages: &[PathBuf], init: &Path) -> Result<GuestBundle, GuestError> {
        let program = std::fs::read(init).map_err(failed("read", init))?;
        if !Elf::new(&program).is_some_and(|elf| elf.is_static_program()) {
            return Err(GuestError::NotStatic(init.to_owned()));
        }
        let files = debian::read_packages(packages)?;
        if files.kernel.get(0x202..0x206) != Some(b"HdrS") {
            return Err(GuestError::NotAKernel(files.version));
        }
        let modules = modules::in_load_order(&modules::NEEDED, &files.modules, |name| files.builtin.contains(name))?;
        let initrd = ramdisk(&program, &modules);
        self.put(files.version, &files.kernel, &initrd, modules.into_iter().map(|module| module.name).collect())
    }

    fn put(
        &self,
        kernel_version: String,
        kernel: &[u8],
        initrd: &[u8],
        modules: Vec<String>,
    ) -> Result<GuestBundle, GuestError> {
        let lock_path = self.root.join(LOCK);
        let lock = File::create(&lock_path).map_err(failed("make", &lock_path))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|e| failed("lock", &lock_path)(e.into()))?;
        self.sweep()?;

        let mut hash = Sha256::new();
        hash.update((kernel.len() as u64).to_le_bytes());
        hash.update(kernel);
        hash.update(initrd);
        let id = hex::encode(&hash.finalize()[..8]);
        let mut bundle = GuestBundle { id, kernel_version, modules, kernel: PathBuf::new(), initrd: PathBuf::new() };
        let folder = self.root.join(&bundle.id);
        if !folder.exists() {
            let unfinished = tempfile::Builder::new()
                .prefix(UNFINISHED)
                .tempdir_in(&self.root)
                .map_err(failed("make a folder in", &self.root))?;
            let description = serde_json::to_vec_pretty(&bundle)
                .map_err(|source| GuestError::Description { path: folder.clone(), source })?;
            for (name, bytes) in
                [(Self::KERNEL, kernel), (Self::INITRD, initrd), (Self::DESCRIPTION, description.as_slice())]
            {
                write_durably(&unfinished.path().join(name), bytes)?;
            }
            std::fs::rename(unfinished.path(), &folder).map_err(failed("make", &folder))?;
            // What it names is no longer there; nothing is left to remove.
            let _ = unfinished.keep();
        }
        self.make_default(&bundle.id)?;
        bundle.kernel = folder.join(Self::KERNEL);
        bundle.initrd = folder.join(Self::INITRD);
        Ok(bundle)
    }

    /// Removes what imports left that were killed half-way. The lock is held.
    fn sweep(&self) -> Result<(), GuestError> {
        let unreadable = failed("read", &self.root);
        let entries = std::fs::read_dir(&self.root).map_err(unreadable)?;
        for entry in entries {
            let entry = entry.map_err(failed("read", &self.root))?;
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                let path = entry.path();
                let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
                removed.map_err(failed("remove", &path))?;
            }
        }
        Ok(())
    }

    fn make_default(&self, id: &str) -> Result<(), GuestError> {
        let path = self.root.join(format!("{UNFINISHED}default"));
        write_durably(&path, id.as_bytes())?;
        let target = self.root.join(Self::DEFAULT);
        std::fs::rename(&path, &target).map_err(failed("replace", &target))?;
        let root = File::open(&self.root).map_err(failed("open", &self.root))?;
        root.sync_all().map_err(failed("sync", &self.root))
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> GuestError + use<> {
    let path = path.to_owned();
    move |source| GuestError::Store { what, path, source }
}

fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), GuestError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        // QEMU may run as another user, whatever this process's mask for new files is.
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.sync_all()
    };
    write().map_err(failed("write", path))
}

/// The initial ramdisk. Not compressed: unpacking costs a translated guest more than reading the larger file.
fn ramdisk(init: &[u8], modules: &[Module]) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.folder("dev");
    archive.character_device("dev/console", 5, 1);
    archive.character_device("dev/null", 1, 3);
    archive.folder("modules");
    for (index, module) in modules.iter().enumerate() {
        archive.file(&format!("modules/{index:02}-{}.ko", module.name), false, &module.bytes);
    }
    archive.file("init", true, init);
    archive.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::guest::debian::{PackageError, read_bytes};
    use crate::guest::modules::NEEDED;
    use crate::guest::modules::tests::module;
    use crate::guest::packed::Packing;
    use crate::guest::packed::tests::pack;

    /// An ELF header and one segment, without an interpreter.
    fn static_program() -> Vec<u8> {
        let mut bytes = vec![0; 120];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[16] = 2;
        bytes[18] = 62;
        bytes[0x20] = 64;
        bytes[0x36] = 56;
        bytes[0x38] = 1;
        bytes[64] = 1;
        bytes
    }

    fn kernel() -> Vec<u8> {
        let mut bytes = vec![0; 0x1000];
        bytes[0x202..0x206].copy_from_slice(b"HdrS");
        bytes
    }

    fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, bytes.as_slice()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn deb(data_name: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"!<arch>\n".to_vec();
        for (name, contents) in [("debian-binary", b"2.0\n".as_slice()), ("control.tar.xz", b"odd"), (data_name, data)]
        {
            bytes.extend_from_slice(
                format!("{name:<16}0           0     0     100644  {:<10}`\n", contents.len()).as_bytes(),
            );
            bytes.extend_from_slice(contents);
            if contents.len() % 2 == 1 {
                bytes.push(b'\n');
            }
        }
        bytes
    }

    /// The files of a kernel whose modules are packed like this; `virtio_console` is built in.
    fn kernel_files(packing: Packing, suffix: &str) -> Vec<(String, Vec<u8>)> {
        let mut files = vec![("boot/vmlinuz-9.9-cloud".to_owned(), kernel())];
        let base = "usr/lib/modules/9.9-cloud";
        let builtin = b"kernel/drivers/char/virtio_console.ko\n".to_vec();
        files.push((format!("{base}/modules.builtin"), builtin));
        for name in NEEDED.iter().filter(|name| **name != "virtio_console").chain(&["virtio", "unneeded"]) {
            let depends = if name.starts_with("virtio_") { "virtio" } else { "" };
            let path = format!("{base}/kernel/x/{}.ko{suffix}", name.replace('_', "-"));
            files.push((path, pack(packing, &module(depends))));
        }
        files
    }

    struct Bench {
        dir: tempfile::TempDir,
        store: GuestStore,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = GuestStore::open(&dir.path().join("guests")).unwrap();
            std::fs::write(dir.path().join("init"), static_program()).unwrap();
            Self { dir, store }
        }

        fn import(&self, packages: &[Vec<u8>]) -> Result<GuestBundle, GuestError> {
            let paths: Vec<PathBuf> = (0..packages.len()).map(|i| self.dir.path().join(format!("{i}.deb"))).collect();
            for (path, bytes) in paths.iter().zip(packages) {
                std::fs::write(path, bytes).unwrap();
            }
            self.store.import_debian(&paths, &self.dir.path().join("init"))
        }

        fn names(&self) -> BTreeSet<String> {
            std::fs::read_dir(self.dir.path().join("guests"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect()
        }
    }

    #[test]
    fn every_packing_gives_the_same_bundle_which_becomes_the_default() {
        let bench = Bench::new();
        let mut ids = BTreeSet::new();
        for (packing, module_suffix, data_name) in [
            (Packing::None, "", "data.tar"),
            (Packing::Xz, ".xz", "data.tar.xz"),
            (Packing::Zstd, ".zst", "data.tar.zst"),
            (Packing::Gzip, ".gz", "data.tar.gz"),
        ] {
            let data = tar(&kernel_files(packing, module_suffix));
            let bundle = bench.import(&[deb(data_name, &pack(packing, &data))]).unwrap();
            assert_eq!(bundle.kernel_version, "9.9-cloud");
            let order = ["virtio", "virtio_mmio", "virtio_blk", "virtio_net", "virtio_rng", "erofs", "overlay", "ext4"];
            assert_eq!(bundle.modules, order);
            assert_eq!(std::fs::read(&bundle.kernel).unwrap(), kernel());
            assert_eq!(bench.store.get(&bundle.id).unwrap(), bundle);
            ids.insert(bundle.id);
        }
        assert_eq!(ids.len(), 1);
        let id = ids.pop_first().unwrap();
        assert_eq!(bench.store.default_bundle().unwrap().unwrap().id, id);
        assert_eq!(bench.store.list().unwrap().len(), 1);
        assert_eq!(bench.names(), BTreeSet::from([id, "default".to_owned(), LOCK.to_owned()]));
    }

    #[test]
    fn a_kernel_split_over_packages_is_put_together() {
        let bench = Bench::new();
        let mut files = kernel_files(Packing::Xz, ".xz");
        let modules = files.split_off(1);
        let (image, modules) = (deb("data.tar", &tar(&files)), deb("data.tar", &tar(&modules)));
        let error = bench.import(std::slice::from_ref(&image)).unwrap_err();
        assert!(matches!(error, GuestError::Modules(_)), "{error}");
        let error = bench.import(std::slice::from_ref(&modules)).unwrap_err();
        assert!(matches!(error, GuestError::Package(PackageError::NoKernel)), "{error}");
        let error = bench.import(&[image.clone(), image.clone()]).unwrap_err();
        assert!(matches!(error, GuestError::Package(PackageError::TwoKernels(..))), "{error}");
        bench.import(&[image, modules]).unwrap();
    }

    #[test]
    fn damaged_and_foreign_packages_are_refused_and_leave_nothing() {
        let bench = Bench::new();
        let data = pack(Packing::Xz, &tar(&kernel_files(Packing::Xz, ".xz")));
        let good = deb("data.tar.xz", &data);
        let mut flipped = good.clone();
        let middle = flipped.len() - data.len() / 2;
        flipped[middle] ^= 0xff;
        let no_data: Vec<u8> = good[..8 + 60 + 4].to_vec();
        for (what, bytes) in [
            ("empty", Vec::new()),
            ("text", b"this is not a package, whatever its name".to_vec()),
            ("cut off", good[..good.len() - data.len() / 2].to_vec()),
            ("cut off in a member", good[..8 + 60 + 2].to_vec()),
            ("without data", no_data),
            ("flipped byte", flipped),
            ("unknown packing", deb("data.tar.lzma", &data)),
            ("wrong packing", deb("data.tar.zst", &data)),
        ] {
            let error = bench.import(&[bytes]).unwrap_err();
            assert!(matches!(error, GuestError::Package(_)), "{what}: {error}");
            assert_eq!(bench.names(), BTreeSet::new(), "{what}");
        }
        let mut files = kernel_files(Packing::None, "");
        files[0].1 = vec![0; 0x1000];
        let error = bench.import(&[deb("data.tar", &tar(&files))]).unwrap_err();
        assert!(matches!(error, GuestError::NotAKernel(_)), "{error}");
        assert_eq!(bench.names(), BTreeSet::new());
    }

    #[test]
    fn a_program_that_is_not_static_cannot_be_pid_1() {
        let bench = Bench::new();
        std::fs::copy(std::env::current_exe().unwrap(), bench.dir.path().join("init")).unwrap();
        let error = bench.import(&[deb("data.tar", &tar(&kernel_files(Packing::None, "")))]).unwrap_err();
        assert!(matches!(error, GuestError::NotStatic(_)), "{error}");
    }

    #[test]
    fn what_a_killed_import_left_is_removed_by_the_next() {
        let bench = Bench::new();
        std::fs::create_dir(bench.dir.path().join("guests/.importing-abc")).unwrap();
        bench.import(&[deb("data.tar", &tar(&kernel_files(Packing::None, "")))]).unwrap();
        assert_eq!(bench.names().iter().filter(|name| name.starts_with('.')).count(), 0);
    }

    proptest! {
        #[test]
        fn arbitrary_packages_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), magic in any::<bool>()) {
            let bytes = if magic { deb("data.tar", &bytes) } else { bytes };
            let _ = read_bytes(&bytes);
        }
    }
}
