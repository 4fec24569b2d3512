//! The tree of grants: who got a capability from whom, and whether it still holds.
//!
//! Every capability is a grant; one that was derived, lent or cloned from another is its child. A grant holds while it and
//! all its ancestors (at most 32) hold, so revoking is one store whatever hangs below. A grant knows its children of two
//! kinds: derivations live on when the capability they came from is closed, loans end with it. Each list is in order of
//! birth, newest first, and each child remembers how often its parent's children had been revoked when it was born: those
//! that an earlier revocation ended are the last ones of the list, where the sweeper takes them from.

use holm_abi::{Error, Rights, TransferFlags, TransferMode};

use crate::arena::{Arena, Full, Id};
use crate::object::Object;
use crate::unit::UnitId;

/// Names a grant.
pub type GrantId = Id<Grant>;

/// Derivations on top of each other at most.
pub(crate) const MAX_DEPTH: u8 = holm_abi::limits::MAX_DERIVATION_DEPTH as u8;

/// Who has the capability of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// A unit, under this handle.
    Unit(UnitId, holm_abi::Handle),
    /// A queued message.
    Message,
    /// Nobody any more; the grant stays for its children, its mappings, or the sweeper.
    Nobody,
}

/// How a grant hangs on its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It lives on when the parent's capability is closed.
    Derived = 0,
    /// It ends with the parent's capability, or with the call that it was lent for.
    Lent = 1,
}

#[derive(Debug, Clone, Copy, Default)]
struct List {
    newest: Option<GrantId>,
    oldest: Option<GrantId>,
}

/// One capability, or the memory of one that has descendants.
#[derive(Debug)]
pub struct Grant {
    /// The object.
    pub(crate) object: Object,
    /// The rights of the capability.
    pub(crate) rights: Rights,
    /// How it may travel.
    pub(crate) transfer: TransferFlags,
    /// What receivers see of messages sent through it.
    pub(crate) badge: u64,
    /// Who has it.
    pub(crate) holder: Holder,
    /// Whose kernel quota its memory is charged to.
    pub(crate) payer: UnitId,
    /// The next capability of the same queued message.
    pub(crate) next_in_message: Option<GrantId>,
    /// How it travels in that message.
    pub(crate) mode: TransferMode,
    /// Mappings made through it.
    pub(crate) mappings: u32,
    /// Whether it still counts as a reference of its object.
    pub(crate) counted: bool,
    parent: Option<GrantId>,
    kind: Kind,
    depth: u8,
    dead: bool,
    /// The parent's `revocations` when this was born.
    born: u32,
    /// How often the children were revoked.
    revocations: u32,
    children: [List; 2],
    newer: Option<GrantId>,
    older: Option<GrantId>,
    /// Whether it is in the sweeper's queue, and what follows there.
    queued: bool,
    next_queued: Option<GrantId>,
}

impl Grant {
    /// Bytes of kernel memory that a grant is charged with.
    pub(crate) const BYTES: u64 = size_of::<Self>() as u64 + 8;

    /// Derivations between the first capability of the object and this one.
    pub(crate) const fn depth(&self) -> u8 {
        self.depth
    }

    /// Whether it is a loan.
    pub(crate) const fn is_lent(&self) -> bool {
        matches!(self.kind, Kind::Lent)
    }

    const fn childless(&self) -> bool {
        self.children[0].newest.is_none() && self.children[1].newest.is_none()
    }

    /// Nothing needs it any more.
    fn removable(&self) -> bool {
        self.holder == Holder::Nobody && self.mappings == 0 && !self.queued && self.childless()
    }
}

/// A new grant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewGrant {
    pub(crate) object: Object,
    pub(crate) rights: Rights,
    pub(crate) transfer: TransferFlags,
    pub(crate) badge: u64,
    pub(crate) holder: Holder,
    pub(crate) payer: UnitId,
    /// What it comes from, and how.
    pub(crate) parent: Option<(GrantId, Kind)>,
}

/// All grants, and those that the sweeper is to look at.
#[derive(Debug)]
pub(crate) struct Grants {
    nodes: Arena<Grant>,
    /// Counts revocations: a capability found alive in this epoch is alive. Starts at 1.
    pub(crate) epoch: u64,
    /// How many are in the queue.
    pub(crate) queued: u32,
    first_queued: Option<GrantId>,
    last_queued: Option<GrantId>,
}

impl Default for Grants {
    fn default() -> Self {
        Self { nodes: Arena::default(), epoch: 1, queued: 0, first_queued: None, last_queued: None }
    }
}

/// What was removed: to be refunded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Removed {
    /// Who paid, for how many grants that were removed one after the other.
    pub(crate) payers: [Option<UnitId>; MAX_DEPTH as usize + 1],
}

impl Grants {
    /// The grant of an id.
    pub(crate) fn get(&self, id: GrantId) -> Option<&Grant> {
        self.nodes.get(id)
    }

    /// The grant of an id, to change.
    pub(crate) fn get_mut(&mut self, id: GrantId) -> Option<&mut Grant> {
        self.nodes.get_mut(id)
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) const fn len(&self) -> u32 {
        self.nodes.len()
    }

    /// All of them. Not bounded: for tests and checks.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (GrantId, &Grant)> {
        self.nodes.iter()
    }

    /// Whether a child of `parent` can be made.
    ///
    /// # Errors
    /// [`Error::TooDeep`], and [`Error::BadHandle`] when there is no such grant.
    pub(crate) fn may_have_child(&self, parent: GrantId) -> Result<(), Error> {
        let parent = self.nodes.get(parent).ok_or(Error::BadHandle)?;
        if parent.depth >= MAX_DEPTH { Err(Error::TooDeep) } else { Ok(()) }
    }

    /// Makes a grant.
    ///
    /// # Errors
    /// [`Error::TooDeep`] and [`Error::NoMemory`]; nothing was made then.
    pub(crate) fn insert(&mut self, new: NewGrant) -> Result<GrantId, Error> {
        let (mut depth, mut born, mut kind) = (0, 0, Kind::Derived);
        if let Some((parent, as_kind)) = new.parent {
            self.may_have_child(parent)?;
            let parent = self.nodes.get(parent).ok_or(Error::BadHandle)?;
            (depth, born, kind) = (parent.depth + 1, parent.revocations, as_kind);
        }
        let id = self
            .nodes
            .insert(Grant {
                object: new.object,
                rights: new.rights,
                transfer: new.transfer,
                badge: new.badge,
                holder: new.holder,
                payer: new.payer,
                next_in_message: None,
                mode: TransferMode::Move,
                mappings: 0,
                counted: true,
                parent: new.parent.map(|(parent, _)| parent),
                kind,
                depth,
                dead: false,
                born,
                revocations: 0,
                children: [List::default(); 2],
                newer: None,
                older: None,
                queued: false,
                next_queued: None,
            })
            .map_err(|Full| Error::NoMemory)?;
        if let Some((parent, _)) = new.parent {
            self.link(parent, id, kind);
        }
        Ok(id)
    }

    fn link(&mut self, parent: GrantId, child: GrantId, kind: Kind) {
        let Some(node) = self.nodes.get_mut(parent) else { return };
        let list = &mut node.children[kind as usize];
        let older = list.newest.replace(child);
        if older.is_none() {
            list.oldest = Some(child);
        }
        if let Some(older) = older.and_then(|older| self.nodes.get_mut(older)) {
            older.newer = Some(child);
        }
        if let Some(child) = self.nodes.get_mut(child) {
            child.older = older;
        }
    }

    fn unlink(&mut self, child: GrantId) -> Option<GrantId> {
        let node = self.nodes.get_mut(child)?;
        let (parent, kind) = (node.parent.take()?, node.kind);
        let (newer, older) = (node.newer.take(), node.older.take());
        if let Some(newer) = newer.and_then(|newer| self.nodes.get_mut(newer)) {
            newer.older = older;
        }
        if let Some(older) = older.and_then(|older| self.nodes.get_mut(older)) {
            older.newer = newer;
        }
        let list = &mut self.nodes.get_mut(parent)?.children[kind as usize];
        if newer.is_none() {
            list.newest = older;
        }
        if older.is_none() {
            list.oldest = newer;
        }
        Some(parent)
    }

    /// Whether the grant and all its ancestors hold: at most 33 steps.
    pub(crate) fn alive(&self, id: GrantId) -> bool {
        let Some(mut node) = self.nodes.get(id) else { return false };
        loop {
            if node.dead {
                return false;
            }
            let Some(parent) = node.parent else { return true };
            let Some(above) = self.nodes.get(parent) else { return false };
            if node.born != above.revocations || (node.is_lent() && above.holder == Holder::Nobody) {
                return false;
            }
            node = above;
        }
    }

    /// Ends a grant and all that came from it, at once; the sweeper follows.
    pub(crate) fn revoke(&mut self, id: GrantId) {
        self.epoch += 1;
        if let Some(node) = self.nodes.get_mut(id) {
            node.dead = true;
            self.queue(id);
        }
    }

    /// Ends all that came from a grant, at once; the sweeper follows.
    pub(crate) fn revoke_children(&mut self, id: GrantId) {
        self.epoch += 1;
        if let Some(node) = self.nodes.get_mut(id) {
            // A child born 2^32 revocations ago that the sweeper has not met yet is not possible: it runs at every entry.
            node.revocations = node.revocations.wrapping_add(1);
            if !node.childless() {
                self.queue(id);
            }
        }
    }

    /// The capability of a grant is given up: loans made from it end, derivations stay. Removes what nothing needs.
    pub(crate) fn close(&mut self, id: GrantId) -> Removed {
        if let Some(node) = self.nodes.get_mut(id) {
            node.holder = Holder::Nobody;
            if node.children[Kind::Lent as usize].newest.is_some() {
                self.epoch += 1;
                self.queue(id);
            }
        }
        self.remove_unneeded(id)
    }

    /// Removes a grant that nothing needs, and its ancestors that were kept for it alone: at most 33.
    pub(crate) fn remove_unneeded(&mut self, id: GrantId) -> Removed {
        let mut removed = Removed { payers: [None; MAX_DEPTH as usize + 1] };
        let mut next = Some(id);
        for payer in &mut removed.payers {
            let Some(id) = next else { break };
            if !self.nodes.get(id).is_some_and(Grant::removable) {
                break;
            }
            next = self.unlink(id);
            *payer = self.nodes.remove(id).map(|node| node.payer);
        }
        removed
    }

    /// Cuts a dead grant off from its parent, so that the parent can go; it stays dead.
    pub(crate) fn cut(&mut self, id: GrantId) -> Removed {
        if let Some(node) = self.nodes.get_mut(id) {
            node.dead = true;
        }
        match self.unlink(id) {
            Some(parent) => self.remove_unneeded(parent),
            None => Removed { payers: [None; MAX_DEPTH as usize + 1] },
        }
    }

    fn queue(&mut self, id: GrantId) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        if node.queued {
            return;
        }
        node.queued = true;
        self.queued += 1;
        match self.last_queued.replace(id).and_then(|last| self.nodes.get_mut(last)) {
            Some(last) => last.next_queued = Some(id),
            None => self.first_queued = Some(id),
        }
    }

    /// Whether the sweeper is still to look at a grant.
    pub(crate) fn is_queued(&self, id: GrantId) -> bool {
        self.nodes.get(id).is_some_and(|node| node.queued)
    }

    /// The grant whose revoked part the sweeper is at.
    pub(crate) const fn sweeping(&self) -> Option<GrantId> {
        self.first_queued
    }

    /// The sweeper is done with the grant it was at.
    pub(crate) fn swept(&mut self) {
        let Some(id) = self.first_queued else { return };
        let Some(node) = self.nodes.get_mut(id) else { return };
        node.queued = false;
        self.queued -= 1;
        self.first_queued = node.next_queued.take();
        if self.first_queued.is_none() {
            self.last_queued = None;
        }
    }

    /// A dead grant without children at or below `id`, to be swept next: at most 33 steps. `None`: nothing below `id` is
    /// dead, and neither is `id`.
    pub(crate) fn dead_leaf(&self, id: GrantId) -> Option<GrantId> {
        let node = self.nodes.get(id)?;
        let dead = node.dead || !self.alive(id);
        let below = |node: &Grant, all: bool| {
            [Kind::Derived, Kind::Lent].into_iter().find_map(|kind| {
                let oldest = node.children[kind as usize].oldest?;
                let child = self.nodes.get(oldest)?;
                let ended = child.born != node.revocations || (child.is_lent() && node.holder == Holder::Nobody);
                (all || ended).then_some(oldest)
            })
        };
        let mut leaf = match below(node, dead) {
            Some(child) => child,
            None => return dead.then_some(id),
        };
        while let Some(child) = self.nodes.get(leaf).and_then(|node| below(node, true)) {
            leaf = child;
        }
        Some(leaf)
    }
}
