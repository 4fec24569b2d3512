//! The image's file tree in memory: names and metadata of all layers applied so far, by the OCI layer rules.
//!
//! The tree never touches the host's file system, so a hostile path has nothing to escape to; paths are resolved inside
//! the tree, symlinks included (as `umoci` and `containerd` do with a root they must not leave). File contents live
//! elsewhere: a file node holds a [`Content`] that says where. Source: OCI image spec 1.1, `layer.md`.

use std::collections::{BTreeMap, VecDeque};

use crate::Limits;
use crate::erofs::Content;
use crate::tar::{Device, Entry, EntryKind, Mtime, Xattr};

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
/// As many symlinks in one path as Linux follows.
const SYMLINKS_PER_PATH: usize = 40;
/// Linux's PATH_MAX without the closing NUL.
const SYMLINK_TARGET_MAX: usize = 4095;

/// Why one entry of a layer is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// A `..` in the entry's own path or a hard link's target.
    #[error("the path contains `..`")]
    DotDot,
    /// A NUL byte in a name or a symlink's target.
    #[error("the name contains a NUL byte")]
    NulByte,
    /// A name over [`Limits::name_bytes`].
    #[error("a name is {found} bytes long; the limit is {limit}")]
    NameLength {
        /// Bytes found.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A path over [`Limits::path_bytes`].
    #[error("the path is {found} bytes long; the limit is {limit}")]
    PathLength {
        /// Bytes found.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A folder in the path is a file or a device.
    #[error("a parent of it is not a folder")]
    ParentNotFolder,
    /// Too many symlinks on the way to the entry.
    #[error("its parents are a loop of symlinks")]
    SymlinkLoop,
    /// A symlink without a target or with one too long.
    #[error("the symlink's target is empty or longer than 4095 bytes")]
    SymlinkTarget,
    /// A hard link to something that is not there.
    #[error("the hard link's target `{0}` does not exist")]
    LinkTarget(String),
    /// A hard link to a folder.
    #[error("the hard link's target `{0}` is a folder")]
    LinkToFolder(String),
    /// The image's root described as something else than a folder.
    #[error("the root is not a folder")]
    RootNotFolder,
    /// A whiteout of nothing, of the folder itself or of its parent.
    #[error("the whiteout names no entry")]
    WhiteoutName,
    /// A folder whose name is reserved for whiteouts.
    #[error("a folder in the path starts with the reserved `.wh.`")]
    ReservedName,
    /// An extended attribute without a name or with one over 255 bytes.
    #[error("an extended attribute's name is empty, too long or contains a NUL byte")]
    XattrName,
    /// Extended attributes over their limit.
    #[error("its extended attributes take {found} bytes; the limit is {limit}")]
    XattrSize {
        /// Bytes found.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// More entries than [`Limits::entries`].
    #[error("the image has more than {0} entries")]
    TooMany(u64),
    /// More names and attributes than [`Limits::metadata_bytes`].
    #[error("the image's names and attributes take more than {0} bytes")]
    MetadataSize(u64),
    /// More file bytes than [`Limits::unpacked_bytes`].
    #[error("the image's files take more than {0} bytes")]
    UnpackedSize(u64),
}

/// Index of a node in its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId(pub(crate) usize);

/// Owner, permission, time and attributes of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Permission bits with setuid, setgid and sticky; no type bits.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Mtime,
    /// Sorted by name, each name once.
    pub(crate) xattrs: Vec<Xattr>,
}

/// What a node is.
#[derive(Debug)]
pub(crate) enum Kind {
    Folder(Folder),
    File(Content),
    Symlink(Box<[u8]>),
    CharDevice(Device),
    BlockDevice(Device),
    Fifo,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) meta: Meta,
    pub(crate) kind: Kind,
}

#[derive(Debug, Default)]
pub(crate) struct Folder {
    pub(crate) entries: BTreeMap<Box<[u8]>, Name>,
    /// The last layer that named this folder or something below it.
    layer: u32,
}

/// A name in a folder. Several names of one node are hard links.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name {
    pub(crate) node: NodeId,
    /// The layer that wrote it.
    layer: u32,
}

/// Where an entry goes, decided before its data is read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The root itself.
    Root,
    /// The name in that folder.
    Name(NodeId, Box<[u8]>),
    /// The entry was a whiteout and is done.
    Done,
}

/// All files of the image. Nodes are never removed, only unlinked; [`Limits::entries`] bounds them.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    layer: u32,
    limits: Limits,
    entries: u64,
    metadata: u64,
    unpacked: u64,
}

impl Tree {
    pub(crate) const ROOT: NodeId = NodeId(0);

    pub(crate) fn new(limits: &Limits) -> Self {
        let root = Node { meta: Meta::implied(), kind: Kind::Folder(Folder::default()) };
        Self { nodes: vec![root], layer: 0, limits: limits.clone(), entries: 0, metadata: 0, unpacked: 0 }
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// How many nodes were ever made; every [`NodeId`] is below it.
    pub(crate) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// From here on entries belong to the next layer; whiteouts touch only what lies below it.
    pub(crate) fn begin_layer(&mut self) {
        self.layer += 1;
    }

    /// Checks an entry against the limits, finds its place, and carries out whiteouts.
    pub(crate) fn place(&mut self, entry: &Entry) -> Result<Place, EntryError> {
        self.charge(entry)?;
        let Some((parents, name)) = self.split(&entry.path)? else {
            return match entry.kind {
                EntryKind::Directory => Ok(Place::Root),
                _ => Err(EntryError::RootNotFolder),
            };
        };
        if parents.iter().any(|folder| folder.starts_with(WHITEOUT_PREFIX)) {
            return Err(EntryError::ReservedName);
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) {
            self.whiteout(&parents, name, hidden)?;
            return Ok(Place::Done);
        }
        let folder = self.make_folders(&parents)?;
        Ok(Place::Name(folder, name.into()))
    }

    /// Puts an entry at its place; `content` is where its data went, for files.
    pub(crate) fn insert(&mut self, place: Place, entry: Entry, content: Content) -> Result<(), EntryError> {
        let meta = Meta { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime, xattrs: entry.xattrs };
        let (folder, name) = match place {
            Place::Done => return Ok(()),
            Place::Root => {
                self.nodes[Self::ROOT.0].meta = meta;
                return Ok(());
            }
            Place::Name(folder, name) => (folder, name),
        };
        let existing = self.folder(folder).and_then(|folder| folder.entries.get(&name)).map(|name| name.node);
        let kind = match entry.kind {
            EntryKind::HardLink(target) => {
                let node = self.link_target(&target)?;
                self.link(folder, name, node);
                return Ok(());
            }
            EntryKind::Directory => match existing.filter(|id| self.folder(*id).is_some()) {
                // A folder over a folder keeps what is in it.
                Some(id) => {
                    self.nodes[id.0].meta = meta;
                    self.touch(id);
                    return Ok(());
                }
                None => Kind::Folder(Folder { entries: BTreeMap::new(), layer: self.layer }),
            },
            EntryKind::File => Kind::File(content),
            EntryKind::Symlink(target) => Kind::Symlink(target.into()),
            EntryKind::CharDevice(device) => Kind::CharDevice(device),
            EntryKind::BlockDevice(device) => Kind::BlockDevice(device),
            EntryKind::Fifo => Kind::Fifo,
        };
        let node = self.add(Node { meta, kind });
        self.link(folder, name, node);
        Ok(())
    }

    fn charge(&mut self, entry: &Entry) -> Result<(), EntryError> {
        let limits = &self.limits;
        let mut metadata = entry.path.len();
        if let EntryKind::Symlink(target) = &entry.kind {
            if target.is_empty() || target.len() > SYMLINK_TARGET_MAX {
                return Err(EntryError::SymlinkTarget);
            }
            if target.contains(&0) {
                return Err(EntryError::NulByte);
            }
            metadata += target.len();
        }
        let mut attributes = 0;
        for xattr in &entry.xattrs {
            if xattr.name.is_empty() || xattr.name.len() > 255 || xattr.name.contains(&0) {
                return Err(EntryError::XattrName);
            }
            if xattr.value.len() > limits.xattr_value_bytes {
                return Err(EntryError::XattrSize { found: xattr.value.len(), limit: limits.xattr_value_bytes });
            }
            attributes += xattr.name.len() + xattr.value.len();
        }
        if attributes > limits.xattr_bytes {
            return Err(EntryError::XattrSize { found: attributes, limit: limits.xattr_bytes });
        }
        self.metadata += (metadata + attributes) as u64;
        if self.metadata > limits.metadata_bytes {
            return Err(EntryError::MetadataSize(limits.metadata_bytes));
        }
        self.unpacked = self.unpacked.saturating_add(entry.size);
        if self.unpacked > limits.unpacked_bytes {
            return Err(EntryError::UnpackedSize(limits.unpacked_bytes));
        }
        self.count_entry()
    }

    fn count_entry(&mut self) -> Result<(), EntryError> {
        self.entries += 1;
        if self.entries > self.limits.entries { Err(EntryError::TooMany(self.limits.entries)) } else { Ok(()) }
    }

    /// Folders and last name of a path from the archive; `None` for the root. A leading `/` and `.` mean nothing.
    fn split<'a>(&self, path: &'a [u8]) -> Result<Option<SplitPath<'a>>, EntryError> {
        if path.len() > self.limits.path_bytes {
            return Err(EntryError::PathLength { found: path.len(), limit: self.limits.path_bytes });
        }
        if path.contains(&0) {
            return Err(EntryError::NulByte);
        }
        let mut names: Vec<_> = path.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b".")).collect();
        for name in &names {
            if *name == b".." {
                return Err(EntryError::DotDot);
            }
            if name.len() > self.limits.name_bytes {
                return Err(EntryError::NameLength { found: name.len(), limit: self.limits.name_bytes });
            }
        }
        Ok(names.pop().map(|last| (names, last)))
    }

    fn folder(&self, id: NodeId) -> Option<&Folder> {
        match &self.nodes[id.0].kind {
            Kind::Folder(folder) => Some(folder),
            _ => None,
        }
    }

    fn folder_mut(&mut self, id: NodeId) -> &mut Folder {
        match &mut self.nodes[id.0].kind {
            Kind::Folder(folder) => folder,
            _ => unreachable!("only folders are looked into"),
        }
    }

    fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        NodeId(self.nodes.len() - 1)
    }

    fn link(&mut self, folder: NodeId, name: Box<[u8]>, node: NodeId) {
        let layer = self.layer;
        self.folder_mut(folder).entries.insert(name, Name { node, layer });
    }

    fn touch(&mut self, folder: NodeId) {
        self.folder_mut(folder).layer = self.layer;
    }

    /// The folder at `path`, following symlinks inside the tree and making what is missing. Marks the folders on the way
    /// as part of the current layer.
    fn make_folders(&mut self, path: &[&[u8]]) -> Result<NodeId, EntryError> {
        let mut walk = Walk::new(path);
        while let Some(step) = walk.step(self)? {
            if let Step::Missing(name) = step {
                self.count_entry()?;
                let folder = Kind::Folder(Folder { entries: BTreeMap::new(), layer: self.layer });
                let node = self.add(Node { meta: Meta::implied(), kind: folder });
                self.link(walk.here(), name, node);
                walk.stack.push(node);
            }
        }
        for &folder in &walk.stack {
            self.touch(folder);
        }
        Ok(walk.here())
    }

    /// The folder at `path` if it is there; changes nothing.
    fn find_folder(&self, path: &[&[u8]]) -> Result<Option<NodeId>, EntryError> {
        let mut walk = Walk::new(path);
        while let Some(step) = walk.step(self)? {
            if let Step::Missing(_) = step {
                return Ok(None);
            }
        }
        Ok(Some(walk.here()))
    }

    fn link_target(&self, target: &[u8]) -> Result<NodeId, EntryError> {
        let shown = || target.escape_ascii().to_string();
        let (parents, name) = self.split(target)?.ok_or_else(|| EntryError::LinkToFolder(shown()))?;
        let folder = self.find_folder(&parents)?.and_then(|id| self.folder(id));
        let found =
            folder.and_then(|folder| folder.entries.get(name)).ok_or_else(|| EntryError::LinkTarget(shown()))?;
        if self.folder(found.node).is_some() { Err(EntryError::LinkToFolder(shown())) } else { Ok(found.node) }
    }

    fn whiteout(&mut self, parents: &[&[u8]], name: &[u8], hidden: &[u8]) -> Result<(), EntryError> {
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(EntryError::WhiteoutName);
        }
        let folder = match self.find_folder(parents) {
            Ok(Some(folder)) => folder,
            // Nothing there to hide.
            Ok(None) | Err(EntryError::ParentNotFolder) => return Ok(()),
            Err(error) => return Err(error),
        };
        if name == OPAQUE_MARKER {
            self.hide_below(folder);
            return Ok(());
        }
        let Some(found) = self.folder(folder).and_then(|folder| folder.entries.get(hidden)).copied() else {
            return Ok(());
        };
        if self.is_of_this_layer(found) {
            if self.folder(found.node).is_some() {
                self.hide_below(found.node);
            }
        } else {
            self.folder_mut(folder).entries.remove(hidden);
        }
        Ok(())
    }

    /// Removes what lower layers put into a folder, and keeps what this layer did, in whatever order it came.
    fn hide_below(&mut self, folder: NodeId) {
        let mut pending = vec![folder];
        while let Some(id) = pending.pop() {
            let entries = std::mem::take(&mut self.folder_mut(id).entries);
            let kept: BTreeMap<_, _> = entries.into_iter().filter(|(_, name)| self.is_of_this_layer(*name)).collect();
            pending.extend(kept.values().map(|name| name.node).filter(|id| self.folder(*id).is_some()));
            self.folder_mut(id).entries = kept;
        }
    }

    fn is_of_this_layer(&self, name: Name) -> bool {
        self.folder(name.node).map_or(name.layer, |folder| folder.layer) == self.layer
    }
}

impl Meta {
    /// What a folder gets that no layer describes: fixed, so that builds are reproducible.
    fn implied() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: Vec::new() }
    }
}

/// Folders and last name of a path.
type SplitPath<'a> = (Vec<&'a [u8]>, &'a [u8]);

/// A path being resolved: the folders entered and the names still ahead.
struct Walk {
    stack: Vec<NodeId>,
    ahead: VecDeque<Box<[u8]>>,
    symlinks: usize,
}

enum Step {
    Entered,
    /// The name is not there; the caller may make it and enter.
    Missing(Box<[u8]>),
}

impl Walk {
    fn new(path: &[&[u8]]) -> Self {
        let ahead = path.iter().map(|&name| name.into()).collect();
        Self { stack: vec![Tree::ROOT], ahead, symlinks: 0 }
    }

    fn here(&self) -> NodeId {
        *self.stack.last().expect("the root is never left")
    }

    /// Takes the next name. `None` when the path is used up.
    fn step(&mut self, tree: &Tree) -> Result<Option<Step>, EntryError> {
        let Some(name) = self.ahead.pop_front() else {
            return Ok(None);
        };
        match &*name {
            b"" | b"." => return Ok(Some(Step::Entered)),
            b".." => {
                // At the root `..` is the root, as in a chroot.
                self.stack.truncate((self.stack.len() - 1).max(1));
                return Ok(Some(Step::Entered));
            }
            _ => {}
        }
        if name.len() > tree.limits.name_bytes {
            return Err(EntryError::NameLength { found: name.len(), limit: tree.limits.name_bytes });
        }
        let folder = tree.folder(self.here()).expect("only folders are entered");
        let Some(found) = folder.entries.get(&name) else {
            return Ok(Some(Step::Missing(name)));
        };
        match &tree.node(found.node).kind {
            Kind::Folder(_) => self.stack.push(found.node),
            Kind::Symlink(target) => {
                self.symlinks += 1;
                if self.symlinks > SYMLINKS_PER_PATH {
                    return Err(EntryError::SymlinkLoop);
                }
                if target.starts_with(b"/") {
                    self.stack.truncate(1);
                }
                for name in target.rsplit(|&byte| byte == b'/') {
                    self.ahead.push_front(name.into());
                }
            }
            _ => return Err(EntryError::ParentNotFolder),
        }
        Ok(Some(Step::Entered))
    }
}
