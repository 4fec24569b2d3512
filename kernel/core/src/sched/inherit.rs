//! Priority inheritance: a thread that others wait for runs with the best of their ranks.
//!
//! An `RT_EDF` caller lends its reservation: the server runs by the caller's deadline and spends its budget. Bandwidth was
//! admitted on the caller's processor, so the server is moved there; where its affinity forbids that, it runs above all
//! `RT_FIXED` threads instead.

use crate::kernel::Kernel;
use crate::machine::{CpuId, Machine, Nanos};
use crate::sched::fair::Entry;
use crate::sched::{Class, PRIORITIES, Place, Rank};
use crate::thread::{ThreadId, ThreadState};

/// The most callers whose ranks are looked at when one is gone.
pub(crate) const LOOK_CALLERS: usize = 64;

/// A rank with whose reservation it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Effective {
    class: Class,
    priority: u8,
    due: Nanos,
    donor: Option<ThreadId>,
    home: Option<CpuId>,
}

impl Effective {
    fn rank(&self) -> Rank {
        Rank {
            class: self.class,
            within: match self.class {
                Class::Edf => u64::MAX - self.due.0,
                Class::Fixed => u64::from(self.priority),
                Class::BestEffort | Class::Background => 0,
            },
        }
    }
}

impl<M: Machine> Kernel<M> {
    /// `server` has a caller more: it runs with the caller's rank from now on when that is better than its own. Says
    /// whether anything changed; the rank then goes on to whoever `server` itself waits for.
    pub(crate) fn sched_inherit(&mut self, server: ThreadId, donor: ThreadId) -> bool {
        let (Some(lent), Some(own)) = (self.lent_by(server, donor), self.effective(server)) else { return false };
        if lent.rank() <= own.rank() {
            return false;
        }
        self.set_effective(server, lent);
        true
    }

    /// `server` has callers less: its rank is the best of its own and those that are left.
    pub(crate) fn sched_disinherit(&mut self, server: ThreadId) -> bool {
        let Some(before) = self.effective(server) else { return false };
        let mut best = self.own(server);
        for caller in self.callers_of(server).take(LOOK_CALLERS) {
            if let Some(lent) = self.lent_by(server, caller)
                && lent.rank() > best.rank()
            {
                best = lent;
            }
        }
        if best == before {
            return false;
        }
        self.set_effective(server, best);
        true
    }

    /// A thread's own parameters changed: its rank is the best of them and its callers'.
    pub(crate) fn renew_effective(&mut self, thread: ThreadId) {
        let mut best = self.own(thread);
        for caller in self.callers_of(thread).take(LOOK_CALLERS) {
            if let Some(lent) = self.lent_by(thread, caller)
                && lent.rank() > best.rank()
            {
                best = lent;
            }
        }
        if let Some(state) = self.threads.get_mut(thread) {
            let state = &mut state.sched;
            (state.class, state.priority, state.due, state.donor) = (best.class, best.priority, best.due, best.donor);
        }
    }

    fn own(&self, thread: ThreadId) -> Effective {
        match self.threads.get(thread).map(|thread| &thread.sched) {
            Some(own) => Effective {
                class: own.params.class,
                priority: own.params.priority,
                due: if own.params.class == Class::Edf { own.reservation.deadline } else { Nanos::NEVER },
                donor: None,
                home: None,
            },
            None => Effective { class: Class::Background, priority: 0, due: Nanos::NEVER, donor: None, home: None },
        }
    }

    fn effective(&self, thread: ThreadId) -> Option<Effective> {
        let state = &self.threads.get(thread)?.sched;
        Some(Effective {
            class: state.class,
            priority: state.priority,
            due: state.due,
            donor: state.donor,
            home: state.donor.map(|_| state.cpu),
        })
    }

    fn lent_by(&self, server: ThreadId, donor: ThreadId) -> Option<Effective> {
        let server = &self.threads.get(server)?.sched;
        let state = &self.threads.get(donor)?.sched;
        if state.class != Class::Edf {
            return Some(Effective {
                class: state.class,
                priority: state.priority,
                due: Nanos::NEVER,
                donor: None,
                home: None,
            });
        }
        // The reservation of the end of a chain of calls.
        let whose = state.donor.unwrap_or(donor);
        let home = self.threads.get(whose)?.sched.cpu;
        if server.allows(home) && (server.params.class != Class::Edf || server.cpu == home) {
            Some(Effective { class: Class::Edf, priority: 0, due: state.due, donor: Some(whose), home: Some(home) })
        } else {
            Some(Effective {
                class: Class::Fixed,
                priority: PRIORITIES as u8 - 1,
                due: Nanos::NEVER,
                donor: None,
                home: None,
            })
        }
    }

    fn set_effective(&mut self, thread: ThreadId, to: Effective) {
        let place = self.lift(thread);
        let home = to.home.filter(|_| place != Place::Running);
        if let Some(state) = self.threads.get_mut(thread) {
            let state = &mut state.sched;
            // A running server on another processor must not run by deadline there: it takes the lender's place when it
            // is queued next.
            let elsewhere = place == Place::Running && to.home.is_some_and(|home| home != state.cpu);
            if elsewhere {
                (state.class, state.priority, state.due, state.donor) =
                    (Class::Fixed, PRIORITIES as u8 - 1, Nanos::NEVER, None);
            } else {
                (state.class, state.priority, state.due, state.donor) = (to.class, to.priority, to.due, to.donor);
            }
        }
        if let Some(home) = home {
            self.rebase(thread, home);
        }
        self.put_back(thread, place);
    }

    /// Takes a thread out of the scheduler's structures so that its rank may change; time used so far is charged.
    pub(crate) fn lift(&mut self, thread: ThreadId) -> Place {
        let Some(state) = self.threads.get(thread) else { return Place::Nowhere };
        let (place, cpu, deadline) = (state.sched.place, state.sched.cpu, state.sched.deadline_place);
        match place {
            Place::Queued => self.dequeue(thread),
            Place::Throttled => self.clear_deadline(deadline),
            Place::Running => {
                let now = self.clock();
                self.charge_run(cpu, now);
            }
            Place::Handed => {
                if let Some(entry) = self.sched.cpu_mut(cpu) {
                    entry.handed = None;
                }
            }
            Place::Nowhere => {}
        }
        place
    }

    /// Puts a lifted thread back.
    pub(crate) fn put_back(&mut self, thread: ThreadId, place: Place) {
        let Some(state) = self.threads.get(thread) else { return };
        let cpu = state.sched.cpu;
        match place {
            Place::Nowhere => {}
            Place::Running => self.attend(cpu, crate::sched::attention::CHOOSE),
            Place::Queued | Place::Throttled | Place::Handed if state.state == ThreadState::Ready => {
                self.queue_ready(thread, Entry::Front);
                if self.threads.get(thread).is_some_and(|state| state.sched.place == Place::Queued) {
                    self.announce(thread);
                }
            }
            Place::Queued | Place::Throttled | Place::Handed => {}
        }
    }
}
