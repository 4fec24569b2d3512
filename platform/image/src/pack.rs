//! Packs folders or entries in memory into an OCI image layout: how our examples and tests become images without Docker.
//!
//! The same input gives the same bytes: entries keep their order, folders are read sorted, owners are root and times are
//! zero unless an entry says otherwise.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::digest::Digest;
use crate::layout::TAG_ANNOTATION;
use crate::manifest::{Descriptor, ImageConfig, Index, Manifest, Platform, host_architecture};
use crate::tar::write::TarWriter;
use crate::tar::{Device, Entry, EntryKind, Mtime, Xattr};

/// How layers are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, as most registries hold them.
    Gzip,
    /// zstd.
    Zstd,
}

/// One layer being filled. Paths are relative to the image's root; parents need no entries of their own.
#[derive(Debug, Default, Clone)]
pub struct LayerBuilder {
    entries: Vec<(Entry, Vec<u8>)>,
}

/// Owner, permissions and attributes for the entry added last.
#[derive(Debug)]
pub struct EntryEditor<'a>(&'a mut Entry);

impl EntryEditor<'_> {
    /// Permission bits with setuid, setgid and sticky.
    pub fn mode(self, mode: u16) -> Self {
        self.0.mode = mode & 0o7777;
        self
    }

    /// Owner and group.
    pub fn owner(self, uid: u32, gid: u32) -> Self {
        (self.0.uid, self.0.gid) = (uid, gid);
        self
    }

    /// Time of the last change.
    pub fn mtime(self, mtime: Mtime) -> Self {
        self.0.mtime = mtime;
        self
    }

    /// One more extended attribute.
    pub fn xattr(self, name: &str, value: &[u8]) -> Self {
        self.0.xattrs.push(Xattr { name: name.as_bytes().to_vec(), value: value.to_vec() });
        self
    }
}

impl LayerBuilder {
    /// An empty layer.
    pub fn new() -> Self {
        Self::default()
    }

    /// A file with mode 0644.
    pub fn file(&mut self, path: impl AsRef<[u8]>, data: impl Into<Vec<u8>>) -> EntryEditor<'_> {
        self.add(path, EntryKind::File, data.into())
    }

    /// A folder with mode 0755.
    pub fn folder(&mut self, path: impl AsRef<[u8]>) -> EntryEditor<'_> {
        self.add(path, EntryKind::Directory, Vec::new())
    }

    /// A symlink.
    pub fn symlink(&mut self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> EntryEditor<'_> {
        self.add(path, EntryKind::Symlink(target.as_ref().to_vec()), Vec::new()).mode(0o777)
    }

    /// A second name for a file of this layer or one below.
    pub fn hard_link(&mut self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> EntryEditor<'_> {
        self.add(path, EntryKind::HardLink(target.as_ref().to_vec()), Vec::new())
    }

    /// A character device.
    pub fn char_device(&mut self, path: impl AsRef<[u8]>, device: Device) -> EntryEditor<'_> {
        self.add(path, EntryKind::CharDevice(device), Vec::new())
    }

    /// A block device.
    pub fn block_device(&mut self, path: impl AsRef<[u8]>, device: Device) -> EntryEditor<'_> {
        self.add(path, EntryKind::BlockDevice(device), Vec::new())
    }

    /// A named pipe.
    pub fn fifo(&mut self, path: impl AsRef<[u8]>) -> EntryEditor<'_> {
        self.add(path, EntryKind::Fifo, Vec::new())
    }

    /// Everything below `folder` on this host, put below `at` in the image: contents, permission bits, symlinks and
    /// hard links. Owners become root and times zero. Sockets and devices are left out.
    pub fn tree(&mut self, folder: &Path, at: &str) -> io::Result<()> {
        let mut links = BTreeMap::new();
        let mut pending = vec![(folder.to_path_buf(), at.trim_matches('/').as_bytes().to_vec())];
        while let Some((folder, at)) = pending.pop() {
            let mut names: Vec<_> = std::fs::read_dir(&folder)?.collect::<Result<_, _>>()?;
            names.sort_by_key(std::fs::DirEntry::file_name);
            let mut folders = Vec::new();
            for entry in names {
                let name = entry.file_name();
                let at =
                    if at.is_empty() { name.as_bytes().to_vec() } else { [&at[..], b"/", name.as_bytes()].concat() };
                let found = entry.metadata()?;
                let mode = u16::try_from(found.mode() & 0o7777).expect("twelve bits fit");
                if found.is_dir() {
                    self.folder(&at).mode(mode);
                    folders.push((entry.path(), at));
                } else if found.is_symlink() {
                    self.symlink(&at, std::fs::read_link(entry.path())?.into_os_string().into_vec());
                } else if found.is_file() {
                    let first = links.entry((found.dev(), found.ino())).or_insert_with(|| at.clone());
                    if *first == at {
                        self.file(&at, std::fs::read(entry.path())?).mode(mode);
                    } else {
                        let first = first.clone();
                        self.hard_link(&at, first);
                    }
                }
            }
            pending.extend(folders.into_iter().rev());
        }
        Ok(())
    }

    /// The layer as an uncompressed tar archive.
    pub fn to_tar(&self) -> Vec<u8> {
        let mut writer = TarWriter::new(Vec::new());
        for (entry, data) in &self.entries {
            writer.append(entry, data).expect("writing to memory does not fail");
        }
        writer.finish().expect("writing to memory does not fail")
    }

    fn add(&mut self, path: impl AsRef<[u8]>, kind: EntryKind, data: Vec<u8>) -> EntryEditor<'_> {
        let entry = Entry { path: path.as_ref().to_vec(), ..Entry::plain(kind) };
        self.entries.push((entry, data));
        EntryEditor(&mut self.entries.last_mut().expect("one was just added").0)
    }
}

/// Adds an image of `layers` (uncompressed tar archives, lowest first) to the layout in `folder`, making the layout if
/// needed and moving `tag` if it is taken. Returns the manifest's digest.
pub fn add_image(
    folder: &Path,
    tag: &str,
    layers: &[Vec<u8>],
    compression: Compression,
    config: &ImageConfig,
) -> io::Result<Digest> {
    std::fs::create_dir_all(folder.join("blobs/sha256"))?;
    std::fs::write(folder.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}")?;
    let suffix = match compression {
        Compression::None => "",
        Compression::Gzip => "+gzip",
        Compression::Zstd => "+zstd",
    };
    let mut descriptors = Vec::new();
    for layer in layers {
        let media_type = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
        descriptors.push(add_blob(folder, &media_type, &compress(layer, compression)?)?);
    }
    let config = config_document(config, layers);
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some("application/vnd.oci.image.manifest.v1+json".to_owned()),
        config: add_blob(folder, "application/vnd.oci.image.config.v1+json", &config)?,
        layers: descriptors,
    };
    let mut entry = add_blob(folder, "application/vnd.oci.image.manifest.v1+json", &serde_json::to_vec(&manifest)?)?;
    entry.annotations.insert(TAG_ANNOTATION.to_owned(), tag.to_owned());
    entry.platform = Some(Platform { os: "linux".to_owned(), architecture: host_architecture().to_owned() });
    let digest = entry.digest;
    let path = folder.join("index.json");
    let mut index = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Index { schema_version: 2, media_type: None, manifests: Vec::new() }
        }
        Err(error) => return Err(error),
    };
    index.manifests.retain(|other| other.annotations.get(TAG_ANNOTATION).is_none_or(|other| other != tag));
    index.manifests.push(entry);
    std::fs::write(path, serde_json::to_vec(&index)?)?;
    Ok(digest)
}

fn add_blob(folder: &Path, media_type: &str, bytes: &[u8]) -> io::Result<Descriptor> {
    let digest = Digest::of(bytes);
    std::fs::write(folder.join("blobs/sha256").join(digest.hex()), bytes)?;
    let (media_type, size) = (media_type.to_owned(), bytes.len() as u64);
    Ok(Descriptor { media_type, digest, size, annotations: BTreeMap::new(), platform: None })
}

fn compress(bytes: &[u8], compression: Compression) -> io::Result<Vec<u8>> {
    match compression {
        Compression::None => Ok(bytes.to_vec()),
        Compression::Gzip => {
            let mut encoder = flate2::GzBuilder::new().mtime(0).write(Vec::new(), flate2::Compression::default());
            encoder.write_all(bytes)?;
            encoder.finish()
        }
        Compression::Zstd => zstd::stream::encode_all(bytes, 3),
    }
}

fn config_document(config: &ImageConfig, layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let ports: BTreeMap<_, _> = config.exposed_ports.iter().map(|port| (port, serde_json::json!({}))).collect();
    let document = serde_json::json!({
        "os": "linux",
        "architecture": host_architecture(),
        "config": {
            "Entrypoint": config.entrypoint,
            "Cmd": config.cmd,
            "Env": config.env,
            "User": config.user,
            "WorkingDir": config.working_dir,
            "StopSignal": config.stop_signal.clone().unwrap_or_default(),
            "ExposedPorts": ports,
            "Labels": config.labels,
        },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    document.to_string().into_bytes()
}
