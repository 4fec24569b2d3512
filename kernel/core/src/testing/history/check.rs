//! What holds when all interrupts were taken and no work waits.

use super::*;
use crate::cap::table::Content;
use crate::thread::ThreadState;
use crate::unit::UnitState;

impl World {
    /// Compares the kernel with the model.
    pub(super) fn check(&mut self) {
        for cpu in (0..self.cpus).map(CpuId) {
            assert_eq!(self.kernel.broken_invariant(cpu), None, "on {cpu:?}");
        }
        let idle = self.kernel.sched.cpus.iter().any(|cpu| cpu.current.is_none());
        for (id, thread) in self.kernel.threads.iter() {
            assert!(!(idle && thread.state == ThreadState::Ready), "{id:?} is ready and a processor idles");
        }
        for unit in 0..UNITS {
            self.check_unit(unit);
        }
        for number in 0..CHANNELS {
            self.check_channel(number);
        }
    }

    fn check_unit(&self, unit: usize) {
        let id = self.units[unit];
        let state = self.kernel.units.get(id).map(|unit| unit.state);
        assert_eq!(state == Some(UnitState::Running), !self.dead[unit], "{id:?} is {state:?}");
        if self.dead[unit] {
            return;
        }
        let held = self.tree.0.iter().filter(|cap| cap.unit == unit && cap.lives()).count();
        let kernel = self.kernel.units.get(id).unwrap();
        let own = kernel.caps.handles().filter(|(_, slot)| !matches!(slot.object, Object::Channel(..)));
        let all = kernel.caps.handles().filter(|(_, slot)| matches!(slot.content, Content::Held(_)));
        assert_eq!(all.count(), held + own.count(), "handles of {id:?}");
    }

    fn check_channel(&self, number: usize) {
        let (channel, model) = (self.channels[number], &self.model[number]);
        let ends = |sends| {
            let of = Of { channel: number, sends };
            self.tree.0.iter().any(|cap| cap.of == of && cap.lives())
        };
        let Some(entry) = self.kernel.channels.get(channel) else {
            assert!(!ends(false) && !ends(true), "a channel is gone that somebody holds");
            return;
        };
        let mine = |call: &&UnderWay| self.tree.0[call.cap].of.channel == number;
        let calls = |call: &&UnderWay| matches!(call.what, What::Call(serial) if !model.received.contains(&serial));
        let calls = self.under_way.values().filter(mine).filter(calls).count();
        assert!(model.received.is_subset(&model.sent) || self.dead.contains(&true), "a message that nobody sent");
        let queued = entry.queued_at(End::A);
        if ends(false) && !self.dead.contains(&true) {
            let sent = model.sent.len() - model.received.len();
            // Calls are queued, or wait for room.
            assert!(
                (sent..=sent + calls).contains(&queued),
                "messages of {channel:?}: {queued}, not {sent} and {calls}"
            );
        }
        for UnderWay { cap, what, .. } in self.under_way.values().filter(mine) {
            let known = self.tree.0[*cap];
            // A handle that another thread closes meanwhile ends no call that was made through it.
            let through = known.closed || known.life == Life::Holds || matches!(what, What::Call(_));
            assert!(through, "a call waits through {known:?}");
            match what {
                What::Receive(_) => assert!(queued == 0 && ends(true), "a receiver was not woken: {queued} messages"),
                What::Send(_) => {
                    assert!(queued >= ROOM[number] as usize && ends(false), "a sender was not woken: {queued}")
                }
                What::Call(serial) => assert!(ends(false), "call {serial} waits at a closed channel"),
            }
        }
    }
}
