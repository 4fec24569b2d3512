//! What the programs do: one entry of the kernel at a time.

use super::*;

impl World {
    /// One step: of an actor, or of the work that waits when it is none of them.
    pub(in crate::testing::interleave) fn step(&mut self, actor: usize) {
        match self.actors.get(actor) {
            Some(_) => self.act(actor),
            None => {
                let cpu = CpuId(self.kernel.machine.cpus() - 1);
                self.kernel.machine.set_timer(cpu, Nanos::NEVER);
                self.kernel.timer(cpu);
            }
        }
        if self.kicks == Kicks::AtOnce {
            self.take_kicks();
        }
        self.learn();
        self.check();
    }

    pub(super) fn take_kicks(&mut self) {
        for cpu in (0..self.kernel.machine.cpus()).map(CpuId) {
            while self.kernel.machine.take_kick_of(cpu) {
                self.kernel.kicked(cpu);
            }
        }
    }

    /// Lets the actor's thread run on its processor, when it can.
    fn bring(&mut self, actor: usize) -> bool {
        let (thread, cpu) = (self.actors[actor].thread, self.actors[actor].cpu);
        for _ in 0..12 {
            let Some(entry) = self.kernel.threads.get(thread) else { return false };
            if matches!(entry.state, ThreadState::Blocked | ThreadState::Ended) {
                return false;
            }
            if self.kernel.sched.cpus[cpu.0 as usize].current == Some(thread) {
                return true;
            }
            if self.kernel.machine.take_kick_of(cpu) {
                self.kernel.kicked(cpu);
            } else {
                self.kernel.machine.advance(Nanos(5_000_000));
                self.kernel.machine.set_timer(cpu, Nanos::NEVER);
                self.kernel.timer(cpu);
            }
        }
        panic!("a thread that is ready does not get its processor");
    }

    fn act(&mut self, actor: usize) {
        if !self.bring(actor) {
            return;
        }
        let Actor { unit, thread, cpu, .. } = self.actors[actor];
        self.learn();
        if self.dead[unit] {
            // It was ended from elsewhere: its processor finds that out when it enters.
            let _ = stage::make(&mut self.kernel, cpu, thread, number::sys_null, [0; 6]);
            return;
        }
        if let Some(UnderWay { again: true, .. }) = self.actors[actor].under_way {
            self.enter(actor);
            return self.learn();
        }
        let Some(op) = self.actors[actor].program.pop_front() else { return };
        let Some((call, words)) = self.prepare(actor, op) else { return };
        let registers = &mut self.kernel.running(thread).unwrap().registers;
        registers.rax = call;
        [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9] = words;
        self.actors[actor].under_way = Some(UnderWay { op, again: false });
        self.enter(actor);
    }

    /// Makes the system call that stands in the actor's registers.
    fn enter(&mut self, actor: usize) {
        let Actor { thread, cpu, .. } = self.actors[actor];
        self.kernel.running(thread).unwrap().registers.rip = CALL;
        self.kernel.system_call(cpu);
        let again = self.kernel.threads.get(thread).is_some_and(|thread| thread.registers.rip != CALL);
        let Some(under_way) = &mut self.actors[actor].under_way else { return };
        under_way.again = again;
        if let (UnderWay { op: Op::Revoke(name), .. }, true) = (*under_way, again) {
            // It holds from the first step on.
            self.tree.revoke(self.caps[&name]);
        }
    }

    /// The handle by which `unit` names a capability, which may be stale.
    fn handle(&self, unit: usize, name: usize) -> Option<Handle> {
        let cap = *self.caps.get(&name)?;
        let known = &self.tree.0[cap];
        if known.unit == unit {
            return Some(known.handle);
        }
        self.stale.get(&(unit, name)).copied()
    }

    /// Number and arguments of an op's system call; `None` when it has nothing to name yet, or is none.
    fn prepare(&mut self, actor: usize, op: Op) -> Option<(u64, [u64; 6])> {
        let unit = self.actors[actor].unit;
        let short = |channel: Handle, flags: ShortFlags| Short { channel, bytes: 32, priority: 0, flags }.register();
        let raw = |handle: Handle| handle.raw() as u64;
        let of = |name: usize| self.handle(unit, name);
        let rights = |name: usize| self.caps.get(&name).map(|cap| self.tree.0[*cap].rights);
        let ever = u64::MAX;
        Some(match op {
            Op::Send(name) => (number::chan_send_short, [short(of(name)?, ShortFlags::NONBLOCK), 0, 1, 2, 3, 4]),
            Op::Receive(name) => (number::chan_recv_short, [short(of(name)?, ShortFlags::NONE), ever, 0, 0, 0, 0]),
            Op::Derive(name, _) => (number::cap_derive, [raw(of(name)?), rights(name)?.bits(), 0, 0, 0, 0]),
            Op::Grant(name, to, mode, _) => (
                number::cap_grant,
                [raw(self.names[unit][to]), raw(of(name)?), rights(name)?.bits(), mode as u64, 0, 0],
            ),
            Op::Post(name, mode, _) => {
                let record = CapTransfer { cap: of(name)?, mode, rights: rights(name)? };
                let mut bytes = [0; CapTransfer::SIZE];
                record.encode(&mut bytes);
                let io = MsgIo { caps: RECORD, cap_count: 1, flags: MsgFlags::NONBLOCK, ..MsgIo::new() };
                self.write(unit, &[(STRUCTS, &whole(&io)), (RECORD, &bytes)]);
                (number::chan_send, [raw(self.carrier[0]), STRUCTS, ever, 0, 0, 0])
            }
            Op::Fetch => {
                let io = MsgIo { caps: RECORD, cap_count: 1, flags: MsgFlags::NONBLOCK, ..MsgIo::new() };
                self.write(unit, &[(STRUCTS, &whole(&io))]);
                (number::chan_recv, [raw(self.carrier[1]), STRUCTS, ever, 0, 0, 0])
            }
            Op::Call(name, mode, _) => {
                let transfer = CapTransfer { cap: of(name)?, mode, rights: rights(name)? };
                (number::chan_call_cap, [short(self.service[0], ShortFlags::NONE), transfer.register(), 1, 2, 3, 4])
            }
            Op::Serve => {
                let token = core::mem::take(&mut self.actors[actor].token);
                (number::chan_reply_recv_short, [short(self.service[1], ShortFlags::CAP), token, 1, 2, 3, 4])
            }
            Op::Reply => {
                let token = core::mem::take(&mut self.actors[actor].token);
                (number::chan_reply_short, [short(self.service[1], ShortFlags::NONE), token, 1, 2, 3, 4])
            }
            Op::Revoke(name) => (number::cap_revoke, [raw(of(name)?), 0, 0, 0, 0, 0]),
            Op::RevokeChildren(name) => {
                (number::cap_revoke, [raw(of(name)?), RevokeFlags::CHILDREN_ONLY.bits(), 0, 0, 0, 0])
            }
            Op::Close(name) => (number::cap_close, [raw(of(name)?), 0, 0, 0, 0, 0]),
            Op::Kill(unit_named) => (number::unit_kill, [raw(self.names[unit][unit_named]), 3, 0, 0, 0, 0]),
            Op::Map(name) => {
                let handle = of(name)?;
                let flags = MapFlags::FIXED | MapFlags::NO_REPLACE;
                let protection = Protection::READ | Protection::WRITE;
                let spec = MapSpec { address: MAPPED, protection, flags, ..MapSpec::new() };
                let mut bytes = [0; MapSpec::SIZE];
                spec.encode(&mut bytes);
                self.write(unit, &[(STRUCTS, &bytes)]);
                (number::vm_map, [0, raw(handle), STRUCTS, 0, 0, 0])
            }
            Op::Touch => {
                self.touch(actor);
                return None;
            }
        })
    }

    fn write(&mut self, unit: usize, pieces: &[(u64, &[u8])]) {
        for (at, bytes) in pieces {
            self.kernel.copy_out(self.units[unit], *at, bytes).unwrap();
        }
    }

    /// The program reads what it mapped, as a processor does: by its cached translation, stale or not, or with a fault.
    fn touch(&mut self, actor: usize) {
        let Actor { unit, thread, cpu, .. } = self.actors[actor];
        let Some(cap) = self.mapped[unit] else { return };
        let space = self.kernel.threads.get(thread).unwrap().space;
        let gone = self.is_unmapped(cap);
        if self.kernel.machine.user_read(cpu, space, MAPPED).is_some() {
            assert!(!gone, "memory was read after the revocation of it returned");
            return;
        }
        self.kernel.fault(cpu, Fault::Page { address: MAPPED, write: false, execute: false, present: false });
        let read = self.kernel.machine.user_read(cpu, space, MAPPED);
        let fell = self.kernel.units.get(self.units[unit]).is_none_or(|unit| unit.has_ended());
        assert_ne!(read.is_some(), fell, "the page came, or the unit ended");
        assert!(!(read.is_some() && gone), "a page came after the revocation of it returned");
        assert!(!fell || self.tree.0[cap].life != Life::Holds, "the unit ended at a page that it may read");
        if fell {
            self.unit_gone(unit);
        }
    }

    /// Whether a revocation of `cap`, or of what it came from, has returned.
    pub(super) fn is_unmapped(&self, cap: usize) -> bool {
        let mut at = Some(cap);
        while let Some(cap) = at {
            if self.returned.contains(&cap) {
                return true;
            }
            at = self.tree.0[cap].parent;
        }
        false
    }

    pub(super) fn unit_gone(&mut self, unit: usize) {
        self.dead[unit] = true;
        for cap in 0..self.tree.0.len() {
            let known = &self.tree.0[cap];
            let travels = unit == 2 && self.queue.iter().any(|name| self.caps[name] == cap);
            if (known.unit == unit || travels) && !known.closed {
                self.tree.fade(cap);
            }
        }
        if unit == 2 {
            self.queue.clear();
        }
    }
}

fn whole(io: &MsgIo) -> [u8; MsgIo::SIZE] {
    let mut bytes = [0; MsgIo::SIZE];
    io.encode(&mut bytes);
    bytes
}
