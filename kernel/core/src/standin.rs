//! Stand-ins for what other parts of the core do, until they are merged: each is dropped when its owner's is there.

use holm_abi::Error;

use crate::caller::{Answer, Caller};

use crate::cap::{GrantId, Progress};
use crate::kernel::Kernel;
use crate::machine::{CpuId, Machine, PAGE_SIZE};
use crate::memory::RegionId;
use crate::thread::ThreadId;
use crate::unit::UnitId;

impl<M: Machine> Kernel<M> {
    pub(crate) fn region_references(&mut self, _id: RegionId) -> Option<&mut u32> {
        None
    }
    pub(crate) fn guest_space_references(&mut self, _id: crate::restricted::GuestSpaceId) -> Option<&mut u32> {
        None
    }
    pub(crate) fn guest_space_released(&mut self, _id: crate::restricted::GuestSpaceId) {}
    pub(crate) fn unit_released(&mut self, _id: UnitId) {}
    pub(crate) fn region_released(&mut self, _id: RegionId) {}
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

    pub(crate) fn unit_create<T0,T1>(&mut self, _caller: Caller, _a0: T0, _a1: T1) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn unit_start<T0>(&mut self, _caller: Caller, _a0: T0) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn unit_stop<T0,T1>(&mut self, _caller: Caller, _a0: T0, _a1: T1) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn unit_kill<T0,T1>(&mut self, _caller: Caller, _a0: T0, _a1: T1) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn unit_destroy<T0>(&mut self, _caller: Caller, _a0: T0) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn unit_get_info<T0,T1>(&mut self, _caller: Caller, _a0: T0, _a1: T1) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn unit_set_attr<T0,T1>(&mut self, _caller: Caller, _a0: T0, _a1: T1) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn unit_get_labels<T0,T1>(&mut self, _caller: Caller, _a0: T0, _a1: T1) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn unit_get_identity<T0,T1>(&mut self, _caller: Caller, _a0: T0, _a1: T1) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn node_get_identity<T0>(&mut self, _caller: Caller, _a0: T0) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn vm_region_create<T0>(&mut self, _caller: Caller, _a0: T0) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn vm_map<T0,T1,T2>(&mut self, _caller: Caller, _a0: T0, _a1: T1, _a2: T2) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn vm_unmap<T0,T1,T2>(&mut self, _caller: Caller, _a0: T0, _a1: T1, _a2: T2) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn vm_protect<T0,T1,T2,T3>(&mut self, _caller: Caller, _a0: T0, _a1: T1, _a2: T2, _a3: T3) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn vm_query<T0,T1,T2>(&mut self, _caller: Caller, _a0: T0, _a1: T1, _a2: T2) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn vm_decommit<T0,T1,T2>(&mut self, _caller: Caller, _a0: T0, _a1: T1, _a2: T2) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn vm_snapshot<T0>(&mut self, _caller: Caller, _a0: T0) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn vm_share<T0,T1,T2>(&mut self, _caller: Caller, _a0: T0, _a1: T1, _a2: T2) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn vm_region_get_info<T0,T1>(&mut self, _caller: Caller, _a0: T0, _a1: T1) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn vm_region_read<T0,T1,T2>(&mut self, _caller: Caller, _a0: T0, _a1: T1, _a2: T2) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn vm_region_write<T0,T1,T2>(&mut self, _caller: Caller, _a0: T0, _a1: T1, _a2: T2) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn space_create(&mut self, _caller: Caller) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn chan_create<T0>(&mut self, _caller: Caller, _a0: T0) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn chan_send<T0,T1,T2>(&mut self, _caller: Caller, _a0: T0, _a1: T1, _a2: T2) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn chan_recv<T0,T1,T2>(&mut self, _caller: Caller, _a0: T0, _a1: T1, _a2: T2) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn chan_call<T0,T1,T2,T3>(&mut self, _caller: Caller, _a0: T0, _a1: T1, _a2: T2, _a3: T3) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn chan_reply<T0,T1,T2>(&mut self, _caller: Caller, _a0: T0, _a1: T1, _a2: T2) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn chan_reply_recv<T0,T1,T2,T3,T4>(&mut self, _caller: Caller, _a0: T0, _a1: T1, _a2: T2, _a3: T3, _a4: T4) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn chan_send_short<T0,T1,T2,T3,T4,T5>(&mut self, _caller: Caller, _a0: T0, _a1: T1, _a2: T2, _a3: T3, _a4: T4, _a5: T5) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn chan_recv_short<T0,T1>(&mut self, _caller: Caller, _a0: T0, _a1: T1) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn chan_call_short<T0,T1,T2,T3,T4,T5>(&mut self, _caller: Caller, _a0: T0, _a1: T1, _a2: T2, _a3: T3, _a4: T4, _a5: T5) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn chan_reply_short<T0,T1,T2,T3,T4,T5>(&mut self, _caller: Caller, _a0: T0, _a1: T1, _a2: T2, _a3: T3, _a4: T4, _a5: T5) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn chan_reply_recv_short<T0,T1,T2,T3,T4,T5>(&mut self, _caller: Caller, _a0: T0, _a1: T1, _a2: T2, _a3: T3, _a4: T4, _a5: T5) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn chan_set_attr<T0,T1>(&mut self, _caller: Caller, _a0: T0, _a1: T1) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn chan_get_info<T0,T1>(&mut self, _caller: Caller, _a0: T0, _a1: T1) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn restricted_bind<T0,T1,T2>(&mut self, _caller: Caller, _a0: T0, _a1: T1, _a2: T2) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn restricted_unbind(&mut self, _caller: Caller) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn restricted_enter<T0,T1>(&mut self, _caller: Caller, _a0: T0, _a1: T1) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn restricted_kick<T0>(&mut self, _caller: Caller, _a0: T0) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn archive_list<T0,T1,T2>(&mut self, _caller: Caller, _a0: T0, _a1: T1, _a2: T2) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn archive_open<T0,T1>(&mut self, _caller: Caller, _a0: T0, _a1: T1) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn image_read<T0,T1,T2>(&mut self, _caller: Caller, _a0: T0, _a1: T1, _a2: T2) -> Answer {
        Err(Error::NotSupported)
    }
    pub(crate) fn image_map_region<T0>(&mut self, _caller: Caller, _a0: T0) -> Answer {
        Err(Error::NotSupported)
    }

    pub(crate) fn work_waits(&self) -> bool { self.events.dying.is_some() }
    pub(crate) fn work_step(&mut self) -> bool { self.dying_events_step() == Progress::More }
    pub(crate) fn callers_of(&self, server: ThreadId) -> impl Iterator<Item = ThreadId> { self.threads.iter().filter(move |(_, t)| t.calls.serves == Some(server)).map(|(id, _)| id) }
    pub(crate) fn calls_abandon(&mut self, _thread: ThreadId) {}
    pub(crate) fn call_depth(&self, _thread: ThreadId) -> u32 { 0 }
    pub(crate) fn channel_ready(&mut self, _id: crate::channel::ChannelId, _end: crate::channel::End) -> holm_abi::EventMask { holm_abi::EventMask::NONE }
    pub(crate) fn channel_watchers(&mut self, _id: crate::channel::ChannelId, _end: crate::channel::End) -> Option<&mut crate::event::Watchers> { None }
    pub(crate) fn unit_threads_gone(&mut self, unit: UnitId, _code: i64, _reason: holm_abi::ExitReason) { if let Some(unit) = self.units.get_mut(unit) { unit.state = holm_abi::UnitState::Stopped; } }
    pub(crate) fn unit_end_event(&mut self, _unit: UnitId) -> (holm_abi::EventMask, u64, u64) { (holm_abi::EventMask::EXIT, 0, 0) }
    pub(crate) fn unit_ceiling(&self, _unit: UnitId) -> holm_abi::SchedClass { holm_abi::SchedClass::RtEdf }
    pub(crate) fn unit_space(&self, _unit: UnitId) -> Option<crate::SpaceId> { Some(crate::SpaceId(1)) }
    pub(crate) fn unit_has_label(&self, _unit: UnitId, _key: &[u8], _value: &[u8]) -> bool { true }
    pub(crate) fn unit_face(&self, _unit: UnitId) -> (holm_abi::ExitReason, i64, [u8; 32]) { (holm_abi::ExitReason::None, 0, [0; 32]) }
    pub(crate) fn unit_started(&self, _unit: UnitId) -> crate::Nanos { crate::Nanos(0) }
    pub(crate) fn memory_figures(&self) -> (u64, u64) { (0, 0) }
    pub(crate) fn sweep_backlog(&self) -> u64 { 0 }
    pub(crate) fn restricted_active(&self, _thread: ThreadId) -> bool { false }
    pub(crate) fn restricted_system_call(&mut self, _cpu: CpuId, _thread: ThreadId) {}
    pub(crate) fn user_fault(&mut self, _cpu: CpuId, thread: ThreadId, _fault: crate::kernel::Fault) { self.thread_end(thread, 0, holm_abi::ExitReason::Exception); }
}
