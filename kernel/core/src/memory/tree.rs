//! The pages of a region: a radix tree that two regions can share until one of them changes it.
//!
//! A node has 64 places; the height is fixed by the region's size, so a region of terabytes costs nodes only where it has
//! pages. A snapshot takes the same root: whoever changes a shared node first copies the nodes on the way to its page, and
//! every place of a copied node then counts one more sharer. So a snapshot takes constant time, and the first write after
//! it at most one copied node for each level.

use alloc::vec::Vec;

use super::frames::{Exhausted, Frames};
use crate::machine::{FrameNumber, Machine};

/// Places of a node.
pub const FAN: usize = 64;
const BITS: u32 = 6;
/// Nodes that are made at once.
const CHUNK: usize = 32;
/// The highest tree: 2^36 pages.
const MAX_LEVELS: usize = 6;

/// A node: its place in [`Nodes`].
type NodeIndex = u32;

/// What a node costs its unit, in bytes of kernel memory.
pub const NODE_BYTES: u64 = size_of::<Node>() as u64;

#[derive(Debug, Clone)]
struct Node {
    /// A frame, or a node below, and one; 0 when there is nothing.
    places: [u32; FAN],
    /// Places that hold something.
    used: u32,
    /// Trees and nodes beyond the first that lead here. In a free node: the next free one, and one.
    sharers: u32,
}

/// The nodes of all trees.
#[derive(Debug, Default)]
pub struct Nodes {
    chunks: Vec<Vec<Node>>,
    free: u32,
    live: u64,
}

impl Nodes {
    /// How many nodes are in use.
    #[must_use]
    pub const fn live(&self) -> u64 {
        self.live
    }

    #[inline]
    fn get(&self, node: NodeIndex) -> Option<&Node> {
        self.chunks.get(node as usize / CHUNK)?.get(node as usize % CHUNK)
    }

    #[inline]
    fn get_mut(&mut self, node: NodeIndex) -> Option<&mut Node> {
        self.chunks.get_mut(node as usize / CHUNK)?.get_mut(node as usize % CHUNK)
    }

    fn make(&mut self) -> Result<NodeIndex, Exhausted> {
        if self.free == 0 {
            let first = u32::try_from(self.chunks.len() * CHUNK).map_err(|_| Exhausted)?;
            let mut chunk = Vec::new();
            chunk.try_reserve_exact(CHUNK).map_err(|_| Exhausted)?;
            self.chunks.try_reserve(1).map_err(|_| Exhausted)?;
            for offset in 1..=CHUNK as u32 {
                let next = if offset == CHUNK as u32 { 0 } else { first + offset + 1 };
                chunk.push(Node { places: [0; FAN], used: 0, sharers: next });
            }
            self.chunks.push(chunk);
            self.free = first + 1;
        }
        let index = self.free.checked_sub(1).ok_or(Exhausted)?;
        let node = self.get_mut(index).ok_or(Exhausted)?;
        let next = core::mem::take(&mut node.sharers);
        self.free = next;
        self.live += 1;
        Ok(index)
    }

    /// Frees an empty node without sharers.
    fn free(&mut self, index: NodeIndex) {
        let next = self.free;
        if let Some(node) = self.get_mut(index) {
            debug_assert!(node.sharers == 0 && node.used == 0, "a node in use is freed");
            node.sharers = next;
            self.free = index + 1;
            self.live -= 1;
        }
    }

    fn place(&self, node: NodeIndex, slot: usize) -> u32 {
        self.get(node).and_then(|node| node.places.get(slot)).copied().unwrap_or(0)
    }

    fn set(&mut self, node: NodeIndex, slot: usize, value: u32) {
        let Some(node) = self.get_mut(node) else { return };
        let Some(place) = node.places.get_mut(slot) else { return };
        match (*place, value) {
            (0, 1..) => node.used += 1,
            (1.., 0) => node.used -= 1,
            _ => {}
        }
        *place = value;
    }
}

/// The pages of one region.
#[derive(Debug)]
pub struct Tree {
    root: Option<NodeIndex>,
    levels: u32,
    /// Pages that are there, shared or not.
    pages: u64,
    /// Nodes that lead to them, shared or not.
    nodes: u64,
}

/// A place of a tree that only this tree leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    node: NodeIndex,
    slot: usize,
    /// The frame that is there.
    pub frame: Option<FrameNumber>,
}

impl Tree {
    /// An empty tree for `pages` pages, at most 2^36.
    #[must_use]
    pub const fn new(pages: u64) -> Self {
        let mut levels = 1;
        while levels < MAX_LEVELS as u32 && pages > 1 << (BITS * levels) {
            levels += 1;
        }
        Self { root: None, levels, pages: 0, nodes: 0 }
    }

    /// How many pages are there, shared or not.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// How many nodes lead to them, shared or not.
    #[must_use]
    pub const fn nodes(&self) -> u64 {
        self.nodes
    }

    const fn slot(page: u64, level: u32) -> usize {
        (page >> (BITS * level)) as usize % FAN
    }

    /// The frame of a page.
    #[must_use]
    #[inline]
    pub fn find(&self, nodes: &Nodes, page: u64) -> Option<FrameNumber> {
        let mut node = self.root?;
        let mut level = self.levels - 1;
        loop {
            let below = nodes.place(node, Self::slot(page, level)).checked_sub(1)?;
            if level == 0 {
                return Some(FrameNumber(below));
            }
            node = below;
            level -= 1;
        }
    }

    /// [`Tree::find`] and [`Tree::shared`] on one way.
    #[must_use]
    pub fn look(&self, nodes: &Nodes, frames: &Frames, page: u64) -> Option<(FrameNumber, bool)> {
        let mut node = self.root?;
        let mut level = self.levels - 1;
        let mut shared = false;
        loop {
            let entry = nodes.get(node)?;
            shared |= entry.sharers > 0;
            let below = entry.places.get(Self::slot(page, level)).copied()?.checked_sub(1)?;
            if level == 0 {
                let frame = FrameNumber(below);
                return Some((frame, shared || frames.sharers(frame) > 0));
            }
            node = below;
            level -= 1;
        }
    }

    /// Whether the page's frame, or a node on the way to it, is shared with another tree.
    #[must_use]
    pub fn shared(&self, nodes: &Nodes, frames: &Frames, page: u64) -> bool {
        let Some(mut node) = self.root else { return false };
        let mut level = self.levels - 1;
        loop {
            let Some(entry) = nodes.get(node) else { return false };
            if entry.sharers > 0 {
                return true;
            }
            let Some(below) = nodes.place(node, Self::slot(page, level)).checked_sub(1) else { return false };
            if level == 0 {
                return frames.sharers(FrameNumber(below)) > 0;
            }
            node = below;
            level -= 1;
        }
    }

    /// The first page at `from` or later that is there, before `end`. Looks at no more than two nodes for each level.
    #[must_use]
    pub fn next(&self, nodes: &Nodes, from: u64, end: u64) -> Option<(u64, FrameNumber)> {
        let root = self.root?;
        if from >= end || from >> (BITS * self.levels) != 0 {
            return None;
        }
        self.next_below(nodes, root, self.levels - 1, 0, from).filter(|(page, _)| *page < end)
    }

    fn next_below(
        &self,
        nodes: &Nodes,
        node: NodeIndex,
        level: u32,
        base: u64,
        from: u64,
    ) -> Option<(u64, FrameNumber)> {
        let entry = nodes.get(node)?;
        let first = if from > base { Self::slot(from, level) } else { 0 };
        for (slot, below) in entry.places.iter().enumerate().skip(first) {
            let Some(below) = below.checked_sub(1) else { continue };
            let start = base + ((slot as u64) << (BITS * level));
            if level == 0 {
                return Some((start, FrameNumber(below)));
            }
            // Every node below leads to a page; only the first may lead to pages before `from` alone.
            if let Some(found) = self.next_below(nodes, below, level - 1, start, from.max(start)) {
                return Some(found);
            }
        }
        None
    }

    /// How many nodes [`Tree::place`] would add for `page`.
    #[must_use]
    pub fn missing(&self, nodes: &Nodes, page: u64) -> u64 {
        let Some(mut node) = self.root else { return u64::from(self.levels) };
        let mut level = self.levels - 1;
        while level > 0 {
            let Some(below) = nodes.place(node, Self::slot(page, level)).checked_sub(1) else {
                return u64::from(level);
            };
            node = below;
            level -= 1;
        }
        0
    }

    /// The place of `page`, with every node on the way made and its own. The caller has charged [`Tree::missing`] nodes and,
    /// when it does not fill the place in the end, [`Tree::clear`]s it.
    ///
    /// # Errors
    /// [`Exhausted`] when there is no kernel memory for a node or a count; what was made is kept for the next time only
    /// where it leads to pages.
    pub fn place(&mut self, nodes: &mut Nodes, frames: &mut Frames, page: u64) -> Result<Place, Exhausted> {
        let mut level = self.levels - 1;
        let mut node = match self.root {
            Some(root) => {
                let own = own(nodes, frames, root, level)?;
                self.root = Some(own);
                own
            }
            None => {
                let root = nodes.make()?;
                self.nodes += 1;
                self.root = Some(root);
                root
            }
        };
        while level > 0 {
            let slot = Self::slot(page, level);
            let below = match nodes.place(node, slot).checked_sub(1) {
                Some(below) => own(nodes, frames, below, level - 1),
                None => nodes.make().inspect(|_| self.nodes += 1),
            };
            match below {
                Ok(below) => {
                    nodes.set(node, slot, below + 1);
                    node = below;
                }
                Err(error) => {
                    self.prune(nodes, page);
                    return Err(error);
                }
            }
            level -= 1;
        }
        let slot = Self::slot(page, 0);
        Ok(Place { node, slot, frame: nodes.place(node, slot).checked_sub(1).map(FrameNumber) })
    }

    /// Puts a frame at a place that [`Tree::place`] gave, with no change in between.
    pub fn fill(&mut self, nodes: &mut Nodes, place: Place, frame: FrameNumber) {
        if place.frame.is_none() {
            self.pages += 1;
        }
        nodes.set(place.node, place.slot, frame.0 + 1);
    }

    /// Empties the place of `page` ([`Tree::place`] was called for it), and frees the nodes that lead to nothing then.
    pub fn clear(&mut self, nodes: &mut Nodes, page: u64, place: Place) {
        if place.frame.is_some() {
            self.pages -= 1;
        }
        nodes.set(place.node, place.slot, 0);
        self.prune(nodes, page);
    }

    /// Frees the empty nodes on the way to `page`.
    fn prune(&mut self, nodes: &mut Nodes, page: u64) {
        let Some(root) = self.root else { return };
        let mut way = [root; MAX_LEVELS];
        let mut depth = 1;
        for level in (1..self.levels).rev() {
            let Some(below) =
                way.get(depth - 1).and_then(|node| nodes.place(*node, Self::slot(page, level)).checked_sub(1))
            else {
                break;
            };
            let Some(step) = way.get_mut(depth) else { break };
            *step = below;
            depth += 1;
        }
        while depth > 0 {
            depth -= 1;
            let Some(&node) = way.get(depth) else { return };
            if nodes.get(node).is_none_or(|entry| entry.used > 0 || entry.sharers > 0) {
                return;
            }
            nodes.free(node);
            self.nodes -= 1;
            match depth.checked_sub(1).and_then(|above| way.get(above)) {
                Some(above) => nodes.set(*above, Self::slot(page, self.levels - depth as u32), 0),
                None => self.root = None,
            }
        }
    }

    /// Another tree with the same pages, in constant time.
    #[must_use]
    pub fn snapshot(&self, nodes: &mut Nodes) -> Self {
        if let Some(root) = self.root.and_then(|root| nodes.get_mut(root)) {
            root.sharers += 1;
        }
        Self { root: self.root, levels: self.levels, pages: self.pages, nodes: self.nodes }
    }

    /// Whether all pages are shared with another tree.
    #[must_use]
    pub fn root_shared(&self, nodes: &Nodes) -> bool {
        self.root.and_then(|root| nodes.get(root)).is_some_and(|root| root.sharers > 0)
    }

    /// Undoes a [`Tree::snapshot`] whose result was dropped.
    pub fn unsnapshot(&mut self, nodes: &mut Nodes) {
        if let Some(root) = self.root.and_then(|root| nodes.get_mut(root)) {
            root.sharers = root.sharers.saturating_sub(1);
        }
    }

    /// Takes the tree apart, one leaf at a time; true when nothing is left. [`Tree::pages`] and [`Tree::nodes`] keep what
    /// they were at the start, so that the caller can give it all back at the end.
    pub fn drop_step<M: Machine>(&mut self, nodes: &mut Nodes, frames: &mut Frames, machine: &mut M) -> bool {
        let Some(root) = self.root else { return true };
        let mut level = self.levels - 1;
        let mut above: Option<(NodeIndex, usize)> = None;
        let mut node = root;
        loop {
            let Some(entry) = nodes.get_mut(node) else { return true };
            if entry.sharers > 0 {
                entry.sharers -= 1;
                break;
            }
            if level == 0 {
                for slot in 0..FAN {
                    if let Some(frame) = nodes.place(node, slot).checked_sub(1) {
                        nodes.set(node, slot, 0);
                        frames.unshare(machine, FrameNumber(frame));
                    }
                }
                nodes.free(node);
                break;
            }
            let Some(slot) = entry.places.iter().position(|place| *place != 0) else {
                nodes.free(node);
                break;
            };
            above = Some((node, slot));
            node = nodes.place(node, slot).saturating_sub(1);
            level -= 1;
        }
        match above {
            Some((above, slot)) => {
                nodes.set(above, slot, 0);
                false
            }
            None => {
                self.root = None;
                true
            }
        }
    }
}

/// The node itself when only one way leads to it, or else a copy of it, which then counts as one more way to all below.
fn own(nodes: &mut Nodes, frames: &mut Frames, node: NodeIndex, level: u32) -> Result<NodeIndex, Exhausted> {
    let Some(entry) = nodes.get(node) else { return Err(Exhausted) };
    if entry.sharers == 0 {
        return Ok(node);
    }
    let entry = entry.clone();
    // First all that can fail.
    if level == 0 {
        for frame in entry.places.iter().filter_map(|place| place.checked_sub(1)) {
            frames.prepare_share(FrameNumber(frame))?;
        }
    }
    let copy = nodes.make()?;
    for below in entry.places.iter().filter_map(|place| place.checked_sub(1)) {
        if level == 0 {
            frames.share(FrameNumber(below));
        } else if let Some(below) = nodes.get_mut(below) {
            below.sharers += 1;
        }
    }
    if let Some(new) = nodes.get_mut(copy) {
        *new = Node { sharers: 0, ..entry };
    }
    if let Some(old) = nodes.get_mut(node) {
        old.sharers -= 1;
    }
    Ok(copy)
}
