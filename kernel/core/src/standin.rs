//! Stand-ins for what other parts of the core do, until they are merged: each is dropped when its owner's is there.

use holm_abi::Error;

use crate::cap::{GrantId, Progress};
use crate::channel::{ChannelId, End};
use crate::event::EventId;
use crate::kernel::Kernel;
use crate::machine::{CpuId, Machine, PAGE_SIZE};
use crate::memory::RegionId;
use crate::thread::ThreadId;
use crate::time::TimerId;
use crate::unit::UnitId;

impl<M: Machine> Kernel<M> {
    pub(crate) fn region_references(&mut self, _id: RegionId) -> Option<&mut u32> {
        None
    }
    pub(crate) fn timer_references(&mut self, _id: TimerId) -> Option<&mut u32> {
        None
    }
    pub(crate) fn event_references(&mut self, _id: EventId) -> Option<&mut u32> {
        None
    }
    pub(crate) fn guest_space_references(&mut self, _id: crate::restricted::GuestSpaceId) -> Option<&mut u32> {
        None
    }
    pub(crate) fn guest_space_released(&mut self, _id: crate::restricted::GuestSpaceId) {}
    pub(crate) fn trace_reader_references(&mut self, _id: crate::trace::ReaderId) -> Option<&mut u32> {
        None
    }
    pub(crate) fn trace_reader_released(&mut self, _id: crate::trace::ReaderId) {}
    pub(crate) fn unit_released(&mut self, _id: UnitId) {}
    pub(crate) fn thread_released(&mut self, _id: ThreadId) {}
    pub(crate) fn region_released(&mut self, _id: RegionId) {}
    pub(crate) fn timer_released(&mut self, _id: TimerId) {}
    pub(crate) fn event_released(&mut self, _id: EventId) {}
    pub(crate) fn memory_unmap_grant_step(&mut self, grant: GrantId) -> Progress {
        if self.caps.grants.get(grant).is_some_and(|node| node.mappings > 0) {
            self.grant_unwatch(grant);
        }
        if self.caps.grants.get(grant).is_some_and(|node| node.mappings > 0) { Progress::More } else { Progress::Done }
    }

    pub(crate) fn copy_in(&mut self, _unit: UnitId, address: u64, to: &mut [u8]) -> Result<(), Error> {
        for (at, byte) in to.iter_mut().enumerate() {
            let address = address.wrapping_add(at as u64);
            let page = address & !(PAGE_SIZE as u64 - 1);
            let (frame, _) = self.machine.translate(crate::SpaceId(_unit.index() + 1), page).ok_or(Error::Fault)?;
            let mut one = [0];
            self.machine.frame_read(frame, address as usize % PAGE_SIZE, &mut one);
            *byte = one[0];
        }
        Ok(())
    }

    pub(crate) fn copy_out(&mut self, _unit: UnitId, address: u64, from: &[u8]) -> Result<(), Error> {
        for (at, byte) in from.iter().enumerate() {
            let address = address.wrapping_add(at as u64);
            let page = address & !(PAGE_SIZE as u64 - 1);
            let (frame, rights) =
                self.machine.translate(crate::SpaceId(_unit.index() + 1), page).ok_or(Error::Fault)?;
            if !rights.write {
                return Err(Error::Fault);
            }
            self.machine.frame_write(frame, address as usize % PAGE_SIZE, &[*byte]);
        }
        Ok(())
    }

    pub(crate) fn sched_handoff(&mut self, _cpu: CpuId, to: ThreadId) {
        self.wake_with_registers(to);
    }
    pub(crate) fn sched_inherit(&mut self, server: ThreadId, donor: ThreadId) -> bool {
        let Some(lent) = self.threads.get(donor).map(|donor| donor.exit_code) else { return false };
        let Some(server) = self.threads.get_mut(server) else { return false };
        let before = server.exit_code;
        server.exit_code = before.max(lent);
        before != server.exit_code
    }
    pub(crate) fn sched_disinherit(&mut self, server: ThreadId) -> bool {
        let Some(own) = self.threads.get(server).map(|server| i64::from(server.number)) else { return false };
        let best = self
            .callers_of(server)
            .filter_map(|caller| self.threads.get(caller))
            .fold(own, |best, caller| best.max(caller.exit_code));
        let Some(server) = self.threads.get_mut(server) else { return false };
        core::mem::replace(&mut server.exit_code, best) != best
    }
    pub(crate) fn raise_channel(&mut self, _id: ChannelId, _end: End, _mask: holm_abi::EventMask) {}
    pub(crate) fn channel_gone(&mut self, _id: ChannelId) {}
}
