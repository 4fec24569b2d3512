//! Who lends its rank to whom: callers to the thread that serves them, along chains of calls.
//!
//! A caller that is served, or waits in the inbox of an end whose last receiver is known, is in that server's list. Chains
//! have no circles: a caller that would close one, or whose chain is longer than [`CHAIN`], does not lend.

use super::{Stage, ThreadCalls};
use crate::arena::Arena;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::thread::{Thread, ThreadId};

/// How far a rank travels.
const CHAIN: u32 = 16;

/// Callers that are looked at, at most.
const LOOK: u32 = 64;

/// Those who lend their rank to a thread: the newest 64 at most.
#[derive(Debug)]
pub(crate) struct Callers<'a> {
    threads: &'a Arena<Thread, 1>,
    next: Option<ThreadId>,
    left: u32,
}

impl Iterator for Callers<'_> {
    type Item = ThreadId;

    fn next(&mut self) -> Option<ThreadId> {
        while self.left > 0 {
            self.left -= 1;
            let caller = self.next?;
            let calls = &self.threads.get(caller)?.calls;
            self.next = calls.older;
            if calls.lends {
                return Some(caller);
            }
        }
        None
    }
}

impl ThreadCalls {
    /// The token of the thread's call.
    #[inline]
    pub(super) fn token(&self, thread: ThreadId) -> u64 {
        u64::from(self.serial) << 32 | u64::from(thread.index())
    }

    /// Whom the thread lends its rank to.
    fn lends_to(&self) -> Option<ThreadId> {
        self.lends_to.filter(|_| self.lends)
    }
}

impl<M: Machine> Kernel<M> {
    /// Those who lend their rank to `thread`.
    pub(crate) fn callers_of(&self, thread: ThreadId) -> Callers<'_> {
        let next = self.threads.get(thread).and_then(|thread| thread.calls.callers);
        Callers { threads: &self.threads, next, left: LOOK }
    }

    /// How long the chain is along which `thread` lends its rank: 16 at most.
    pub(crate) fn call_depth(&self, thread: ThreadId) -> u32 {
        let (mut at, mut depth) = (thread, 0);
        while depth < CHAIN
            && let Some(next) = self.threads.get(at).and_then(|thread| thread.calls.lends_to())
        {
            (at, depth) = (next, depth + 1);
        }
        depth
    }

    /// The rank of `thread` itself changed: those that it lends it to follow.
    pub(crate) fn calls_rank_changed(&mut self, thread: ThreadId) {
        if let Some(server) = self.threads.get(thread).and_then(|thread| thread.calls.lends_to()) {
            self.ranks_fall(server);
        }
    }

    /// Puts `caller` in the list of `server`, and lends its rank when `wanted`.
    pub(super) fn caller_link(&mut self, server: ThreadId, caller: ThreadId, wanted: bool) {
        let lends = wanted && !self.chain_meets(server, caller);
        self.caller_list(server, caller, lends);
        if lends {
            self.ranks_rise(server, caller);
        }
    }

    /// Puts `caller` in the list of `server`; no rank follows.
    pub(crate) fn caller_list(&mut self, server: ThreadId, caller: ThreadId, lends: bool) {
        let Some(entry) = self.threads.get_mut(server) else { return };
        let older = entry.calls.callers.replace(caller);
        if let Some(older) = older.and_then(|older| self.threads.get_mut(older)) {
            older.calls.newer = Some(caller);
        }
        if let Some(entry) = self.threads.get_mut(caller) {
            let calls = &mut entry.calls;
            (calls.lends_to, calls.lends, calls.newer, calls.older) = (Some(server), lends, None, older);
        }
    }

    /// Takes `caller` out of the list it is in, and its rank back.
    pub(super) fn caller_unlink(&mut self, caller: ThreadId) {
        let Some((server, lent)) = self.caller_cut(caller) else { return };
        if lent {
            self.ranks_fall(server);
        }
    }

    /// Takes `caller` out of the list it is in; says whose, and whether it lent its rank.
    pub(crate) fn caller_cut(&mut self, caller: ThreadId) -> Option<(ThreadId, bool)> {
        let calls = &mut self.threads.get_mut(caller)?.calls;
        let server = calls.lends_to.take()?;
        let (newer, older) = (calls.newer.take(), calls.older.take());
        let lent = core::mem::take(&mut calls.lends);
        if let Some(older) = older.and_then(|older| self.threads.get_mut(older)) {
            older.calls.newer = newer;
        }
        match newer.and_then(|newer| self.threads.get_mut(newer)) {
            Some(newer) => newer.calls.older = older,
            None => {
                if let Some(server) = self.threads.get_mut(server) {
                    server.calls.callers = older;
                }
            }
        }
        Some((server, lent))
    }

    /// Whether the chain of those whom `server` lends to meets `caller`, or is too long to know.
    fn chain_meets(&self, server: ThreadId, caller: ThreadId) -> bool {
        let mut at = server;
        for _ in 0..CHAIN {
            if at == caller {
                return true;
            }
            match self.threads.get(at).and_then(|thread| thread.calls.lends_to()) {
                Some(next) => at = next,
                None => return false,
            }
        }
        true
    }

    fn ranks_rise(&mut self, mut server: ThreadId, mut donor: ThreadId) {
        for _ in 0..CHAIN {
            if !self.sched_inherit(server, donor) {
                return;
            }
            let Some(next) = self.threads.get(server).and_then(|thread| thread.calls.lends_to()) else { return };
            (server, donor) = (next, server);
        }
    }

    pub(super) fn ranks_fall(&mut self, mut server: ThreadId) {
        for _ in 0..CHAIN {
            if !self.sched_disinherit(server) {
                return;
            }
            let Some(next) = self.threads.get(server).and_then(|thread| thread.calls.lends_to()) else { return };
            server = next;
        }
    }

    /// Whether a call of `caller` that `server` is to receive can never be answered: everyone who could is, at the end of a
    /// chain of calls, waiting for `caller`, in units of one thread each.
    pub(super) fn waits_for_ever(&self, server: ThreadId, caller: ThreadId) -> bool {
        let mut at = server;
        for _ in 0..CHAIN {
            let Some(thread) = self.threads.get(at) else { return false };
            if self.units.get(thread.unit).is_none_or(|unit| unit.threads.len() != 1) {
                return false;
            }
            if at == caller {
                return true;
            }
            match thread.calls.stage {
                Stage::Served(next) => at = next,
                _ => return false,
            }
        }
        false
    }
}
