//! Stand-ins for what other parts of the core do, until they are merged: each is dropped when its owner's is there.

use holm_abi::Error;

use crate::caller::{Answer, Caller};

use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::thread::ThreadId;

impl<M: Machine> Kernel<M> {
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
    pub(crate) fn callers_of(&self, server: ThreadId) -> impl Iterator<Item = ThreadId> { self.threads.iter().filter(move |(_, t)| t.calls.serves == Some(server)).map(|(id, _)| id) }
    pub(crate) fn calls_abandon(&mut self, _thread: ThreadId) {}
    pub(crate) fn call_depth(&self, _thread: ThreadId) -> u32 { 0 }
    pub(crate) fn channel_ready(&mut self, _id: crate::channel::ChannelId, _end: crate::channel::End) -> holm_abi::EventMask { holm_abi::EventMask::NONE }
    pub(crate) fn channel_watchers(&mut self, _id: crate::channel::ChannelId, _end: crate::channel::End) -> Option<&mut crate::event::Watchers> { None }
    pub(crate) fn sweep_backlog(&self) -> u64 { 0 }
}
