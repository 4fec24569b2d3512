//! The second half of an image: numbers and places inodes, writes folders, inodes and the superblock.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};

use super::data::{Content, DataWriter};
use super::folder::{self, Dirent};
use super::format::{
    BLOCK, COMPACT_INODE, EXTENDED_INODE, Layout, RawInode, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, SLOT,
    Superblock, dirent_type, encode_device,
};
use super::xattr;
use crate::tar::Mtime;
use crate::tree::{Folder, Kind, NodeId, Tree};

/// Blocks of inodes kept open for small ones that still fit.
const OPEN_BLOCKS: usize = 8;
/// Bytes left free at the start of the inodes: no inode may have number 0, which C libraries take for a deleted entry.
const RESERVED: usize = 2 * SLOT;

/// What tells one image from another.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) uuid: [u8; 16],
    /// At most 15 bytes, padded with zeros.
    pub(crate) volume: [u8; 16],
}

/// A node with its place in the image.
struct Planned {
    node: NodeId,
    nid: u64,
    compact: bool,
    raw: RawInode,
}

/// Where everything goes, before anything is written.
struct Plan {
    /// In the order of their first name, folder by folder.
    inodes: Vec<Planned>,
    /// Position in `inodes` of each node.
    position: Vec<Option<usize>>,
    parent: BTreeMap<NodeId, NodeId>,
    common: Mtime,
    metadata_block: u32,
    blocks: u32,
}

/// Completes the image of `tree` behind the data in `data` and gives the file back, all written but not yet synced.
pub(crate) fn finish(tree: &Tree, data: DataWriter, identity: &Identity) -> io::Result<File> {
    let (image, tails, data_end) = data.finish()?;
    let plan = Plan::new(tree, data_end)?;
    clear_dead_blocks(tree, &plan, &image, data_end)?;
    let mut out =
        Appender { image: &image, buffer: Vec::with_capacity(1 << 20), offset: u64::from(data_end) * BLOCK as u64 };
    let mut inodes = Vec::new();
    for inode in &plan.inodes {
        if let Some(bytes) = plan.bytes_of(tree, inode)? {
            let outside = match inode.raw.layout {
                Layout::Plain => bytes.len(),
                Layout::Inline => bytes.len() - bytes.len() % BLOCK,
            };
            out.append(&bytes[..outside])?;
            out.fill_to(out.offset().next_multiple_of(BLOCK as u64))?;
        }
        inodes.push((inode.nid, inode));
    }
    inodes.sort_by_key(|(nid, _)| *nid);
    let metadata_start = u64::from(plan.metadata_block) * BLOCK as u64;
    for (nid, inode) in inodes {
        out.fill_to(metadata_start + nid * SLOT as u64)?;
        let mut bytes = Vec::new();
        inode.raw.encode(inode.compact, &mut bytes);
        bytes.extend(xattr::encode(&tree.node(inode.node).meta.xattrs));
        if inode.raw.layout == Layout::Inline {
            match &tree.node(inode.node).kind {
                Kind::File(content) => {
                    let old = bytes.len();
                    bytes.resize(old + content.tail_length(), 0);
                    tails.read_exact_at(&mut bytes[old..], content.tail.unwrap_or_default())?;
                }
                _ => {
                    let content = plan.bytes_of(tree, inode)?.unwrap_or_default();
                    bytes.extend(&content[content.len() - content.len() % BLOCK..]);
                }
            }
        }
        out.append(&bytes)?;
    }
    out.fill_to(u64::from(plan.blocks) * BLOCK as u64)?;
    out.flush()?;
    let root = plan.nid(Tree::ROOT);
    let superblock = Superblock {
        root: u16::try_from(root).expect("the root is placed first"),
        inodes: plan.inodes.len() as u64,
        time: plan.common,
        blocks: plan.blocks,
        metadata_block: plan.metadata_block,
        uuid: identity.uuid,
        volume: identity.volume,
    };
    image.write_all_at(&superblock.encode(), 0)?;
    Ok(image)
}

impl Plan {
    fn new(tree: &Tree, data_end: u32) -> io::Result<Self> {
        let (order, parent, links) = survey(tree);
        let common = most_common_time(tree, &order);
        let mut plan = Self {
            inodes: Vec::with_capacity(order.len()),
            position: vec![None; tree.node_count()],
            parent,
            common,
            metadata_block: 0,
            blocks: 0,
        };
        let mut places = Places::default();
        let mut next_block = u64::from(data_end);
        for (index, node) in order.into_iter().enumerate() {
            let xattr_length = xattr::encoded_length(&tree.node(node).meta.xattrs);
            let mut raw = raw_inode(tree, node, links[node.0], index);
            raw.xattr_units = xattr::units(xattr_length);
            let compact = raw.is_compact(common);
            let header = xattr_length + if compact { COMPACT_INODE } else { EXTENDED_INODE };
            let tail = usize::try_from(raw.size % BLOCK as u64).expect("below a block");
            match &tree.node(node).kind {
                Kind::File(content) if content.tail.is_some() => raw.layout = Layout::Inline,
                Kind::Folder(_) | Kind::Symlink(_) => {
                    if tail > 0 && header + tail <= BLOCK {
                        raw.layout = Layout::Inline;
                    }
                    raw.start = u32::try_from(next_block).map_err(|_| io::ErrorKind::FileTooLarge)?;
                    next_block += match raw.layout {
                        Layout::Plain => raw.size.div_ceil(BLOCK as u64),
                        Layout::Inline => raw.size / BLOCK as u64,
                    };
                }
                _ => {}
            }
            let inline = if raw.layout == Layout::Inline { tail } else { 0 };
            let nid = places.take(header + inline);
            plan.position[node.0] = Some(plan.inodes.len());
            plan.inodes.push(Planned { node, nid, compact, raw });
        }
        let blocks = next_block + places.blocks;
        plan.metadata_block = u32::try_from(next_block).map_err(|_| io::ErrorKind::FileTooLarge)?;
        plan.blocks = u32::try_from(blocks).map_err(|_| io::ErrorKind::FileTooLarge)?;
        Ok(plan)
    }

    fn nid(&self, node: NodeId) -> u64 {
        self.planned(node).nid
    }

    fn planned(&self, node: NodeId) -> &Planned {
        &self.inodes[self.position[node.0].expect("every node with a name is planned")]
    }

    /// The bytes of a folder or symlink; `None` for everything whose bytes are elsewhere.
    fn bytes_of(&self, tree: &Tree, inode: &Planned) -> io::Result<Option<Vec<u8>>> {
        Ok(match &tree.node(inode.node).kind {
            Kind::Folder(folder) => {
                let parent = self.parent.get(&inode.node).copied().unwrap_or(Tree::ROOT);
                let entries: Vec<_> = names(folder, inode.node, parent)
                    .map(|(name, node)| {
                        let planned = self.planned(node);
                        Dirent { name, nid: planned.nid, kind: dirent_type(planned.raw.mode) }
                    })
                    .collect();
                Some(folder::encode(&entries))
            }
            Kind::Symlink(target) => Some(target.to_vec()),
            _ => None,
        })
    }
}

/// All nodes that have a name: a folder, then its other entries, then the folders in it; with parents and link counts.
fn survey(tree: &Tree) -> (Vec<NodeId>, BTreeMap<NodeId, NodeId>, Vec<u32>) {
    let mut links = vec![0_u32; tree.node_count()];
    let (mut order, mut parent, mut pending) = (Vec::new(), BTreeMap::new(), vec![Tree::ROOT]);
    while let Some(id) = pending.pop() {
        order.push(id);
        links[id.0] += 2;
        let Kind::Folder(folder) = &tree.node(id).kind else {
            continue;
        };
        let mut folders = Vec::new();
        for name in folder.entries.values() {
            if matches!(tree.node(name.node).kind, Kind::Folder(_)) {
                links[id.0] += 1;
                parent.insert(name.node, id);
                folders.push(name.node);
            } else {
                links[name.node.0] += 1;
                if links[name.node.0] == 1 {
                    order.push(name.node);
                }
            }
        }
        pending.extend(folders.into_iter().rev());
    }
    (order, parent, links)
}

/// A folder's names with `.` and `..`, sorted by bytes.
fn names(folder: &Folder, this: NodeId, parent: NodeId) -> impl Iterator<Item = (&[u8], NodeId)> {
    let mut names: Vec<_> = folder.entries.iter().map(|(name, entry)| (&**name, entry.node)).collect();
    names.extend([(&b"."[..], this), (&b".."[..], parent)]);
    names.sort_unstable_by_key(|(name, _)| *name);
    names.into_iter()
}

fn raw_inode(tree: &Tree, node: NodeId, links: u32, index: usize) -> RawInode {
    let meta = &tree.node(node).meta;
    let (kind, size, start) = match &tree.node(node).kind {
        Kind::Folder(folder) => (S_IFDIR, folder::length(names(folder, node, node).map(|(name, _)| name)), 0),
        Kind::File(content) => (S_IFREG, content.size, content.start),
        Kind::Symlink(target) => (S_IFLNK, target.len() as u64, 0),
        Kind::CharDevice(device) => (S_IFCHR, 0, encode_device(*device)),
        Kind::BlockDevice(device) => (S_IFBLK, 0, encode_device(*device)),
        Kind::Fifo => (S_IFIFO, 0, 0),
    };
    RawInode {
        layout: Layout::Plain,
        xattr_units: 0,
        mode: kind | meta.mode,
        links,
        size,
        start,
        number: u32::try_from(index + 1).expect("the limit on entries is far below"),
        uid: meta.uid,
        gid: meta.gid,
        mtime: meta.mtime,
    }
}

/// The time compact inodes share; the earliest of the most common ones.
fn most_common_time(tree: &Tree, order: &[NodeId]) -> Mtime {
    let mut counts = BTreeMap::<Mtime, usize>::new();
    for node in order {
        *counts.entry(tree.node(*node).meta.mtime).or_default() += 1;
    }
    let best = counts.into_iter().max_by_key(|(time, count)| (*count, std::cmp::Reverse(*time)));
    best.map(|(time, _)| time).unwrap_or_default()
}

/// Hands out places for inodes so that an inode with its inline data never crosses a block.
#[derive(Default)]
struct Places {
    blocks: u64,
    /// Block and bytes used in it.
    open: Vec<(u64, usize)>,
}

impl Places {
    /// The number of an inode that takes `length` bytes.
    fn take(&mut self, length: usize) -> u64 {
        if self.blocks == 0 {
            self.blocks = 1;
            self.open.push((0, RESERVED));
        }
        let length = length.next_multiple_of(SLOT);
        let nid = |block: u64, used: usize| (block * BLOCK as u64 + used as u64) / SLOT as u64;
        if let Some((block, used)) = self.open.iter_mut().find(|(_, used)| used + length <= BLOCK) {
            *used += length;
            return nid(*block, *used - length);
        }
        let block = self.blocks;
        self.blocks += length.div_ceil(BLOCK) as u64;
        if length < BLOCK {
            self.open.push((block, length));
        }
        if self.open.len() > OPEN_BLOCKS {
            let fullest = (0..self.open.len()).max_by_key(|&index| self.open[index].1).expect("not empty");
            self.open.remove(fullest);
        }
        nid(block, 0)
    }
}

/// Makes holes of the blocks of files that later layers replaced or removed.
fn clear_dead_blocks(tree: &Tree, plan: &Plan, image: &File, data_end: u32) -> io::Result<()> {
    let content = |inode: &Planned| match &tree.node(inode.node).kind {
        Kind::File(content) if content.blocks() > 0 => Some(*content),
        _ => None,
    };
    let mut live: Vec<Content> = plan.inodes.iter().filter_map(content).collect();
    live.sort_by_key(|content| content.start);
    let end = Content { size: 0, start: data_end, tail: None };
    let mut free = 1_u64;
    for content in live.into_iter().chain([end]) {
        let start = u64::from(content.start);
        if start > free {
            clear(image, free * BLOCK as u64, (start - free) * BLOCK as u64)?;
        }
        free = start + content.blocks();
    }
    Ok(())
}

fn clear(image: &File, offset: u64, length: u64) -> io::Result<()> {
    match fallocate(image, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            let zeros = vec![0; 1 << 16];
            let (mut offset, end) = (offset, offset + length);
            while offset < end {
                let count = usize::try_from((end - offset).min(zeros.len() as u64)).expect("at most the buffer");
                image.write_all_at(&zeros[..count], offset)?;
                offset += count as u64;
            }
            Ok(())
        }
        other => Ok(other?),
    }
}

/// Writes forward through a buffer.
struct Appender<'a> {
    image: &'a File,
    buffer: Vec<u8>,
    /// Offset in the image of the buffer's first byte.
    offset: u64,
}

impl Appender<'_> {
    fn offset(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.write_all(bytes)?;
        if self.buffer.len() >= 1 << 20 { self.flush() } else { Ok(()) }
    }

    fn fill_to(&mut self, offset: u64) -> io::Result<()> {
        let gap = usize::try_from(offset - self.offset()).expect("gaps are shorter than a few blocks");
        self.buffer.resize(self.buffer.len() + gap, 0);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.image.write_all_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
