//! What holds after every step, and what is left in the end.

use super::*;

impl World {
    /// What holds after every step. It looks without using: a use would renew what the kernel remembers of a handle.
    pub(super) fn check(&mut self) {
        for cpu in (0..self.kernel.machine.cpus()).map(CpuId) {
            assert_eq!(self.kernel.broken_invariant(cpu), None, "on {cpu:?}");
        }
        let epoch = self.kernel.caps.grants.epoch;
        for unit in (0..UNITS).filter(|unit| !self.dead[*unit]) {
            let entry = self.kernel.units.get(self.units[unit]).unwrap();
            assert!(!entry.has_ended(), "unit {unit} ended though nobody ended it");
            let mut held = 0;
            for known in self.tree.0.iter().filter(|known| known.unit == unit) {
                let slot = entry.caps.slot(known.handle);
                if known.closed {
                    assert!(slot.is_err(), "{known:?} was closed");
                    continue;
                }
                held += 1;
                let slot = slot.unwrap();
                let alive = match slot.content {
                    Content::Held(grant) => self.kernel.caps.grants.alive(grant),
                    _ => false,
                };
                assert!(alive || known.life != Life::Holds, "{known:?} was not revoked");
                assert!(!alive || known.life != Life::Revoked, "{known:?} can be used");
                assert!(alive || slot.checked != epoch, "{known:?} is taken for alive");
                assert!(!alive || (slot.object, slot.rights) == (known.of, known.rights), "{known:?}");
            }
            for ((of, name), handle) in &self.stale {
                assert!(*of != unit || entry.caps.slot(*handle).is_err(), "{name} was moved away");
            }
            assert_eq!(entry.caps.len(), held + self.fixed[unit], "handles of unit {unit}");
            assert_eq!(entry.quotas.handles.used, u64::from(entry.caps.len()), "handles that unit {unit} pays for");
        }
        for unit in 0..UNITS {
            self.check_memory(unit);
        }
    }

    /// No processor reads what a unit mapped once the revocation of it has returned, by no translation that it remembers.
    fn check_memory(&mut self, unit: usize) {
        let Some(cap) = self.mapped[unit] else { return };
        if !self.is_unmapped(cap) {
            return;
        }
        let space = self.kernel.units.get(self.units[unit]).and_then(|unit| unit.memory.root);
        let Some(space) = space else { return };
        for cpu in (0..self.kernel.machine.cpus()).map(CpuId) {
            assert_eq!(self.kernel.machine.user_read(cpu, space, MAPPED), None, "{cpu:?} reads what was revoked");
        }
    }

    /// The programs run to their ends, the background work is done, and then everything ends.
    pub(in crate::testing::interleave) fn finish(mut self) {
        for _ in 0..64 {
            self.take_kicks();
            self.learn();
            let left = |actor: &Actor| !actor.program.is_empty() || actor.under_way.is_some_and(|call| call.again);
            for actor in 0..self.actors.len() {
                if left(&self.actors[actor]) {
                    self.step(actor);
                }
            }
        }
        stage::settle(&mut self.kernel);
        self.learn();
        self.tree.settled();
        self.check();
        self.nobody_waits_in_vain();
        for known in &self.tree.0 {
            if known.unit < UNITS && !self.dead[known.unit] {
                let found = self.kernel.resolve(self.units[known.unit], known.handle, Types::ANY, Rights::NONE);
                known.must_answer(Rights::NONE, &found, &[]);
                assert_eq!(found.is_ok(), known.lives());
            }
        }
        for unit in (0..UNITS).filter(|unit| !self.dead[*unit]) {
            self.kernel.arrive(CpuId(0));
            self.kernel.unit_end(self.units[unit], UnitEnd::because(ExitReason::Killed, 3));
            self.kernel.kicked(CpuId(0));
        }
        stage::settle(&mut self.kernel);
        stage::release(&mut self.kernel, self.units);
        assert_eq!(stage::inventory(&self.kernel, self.root), self.before, "something is left");
    }

    fn nobody_waits_in_vain(&self) {
        let programs = self.actors.iter().filter(|actor| !self.dead[actor.unit]);
        for (unit, UnderWay { op, .. }) in programs.filter_map(|actor| Some((actor.unit, actor.under_way?))) {
            match op {
                Op::Receive(name) => {
                    let known = &self.tree.0[self.caps[&name]];
                    let moved = known.unit != unit;
                    assert!(known.life == Life::Holds || known.closed || moved, "waits through {known:?}");
                }
                Op::Call(..) => assert!(!self.dead[2], "a call waits for a unit that ended"),
                Op::Serve => assert!(!self.dead[1], "a server waits for a unit that ended"),
                other => panic!("{other:?} waits"),
            }
        }
    }
}
