//! A child under remote control: it keeps capabilities it is sent and uses them as it is told.

use alloc::vec::Vec;

use holm_rt::abi::{CapInfo, CapTransfer, Error, Field, Protection, Rights, TransferFlags};
use holm_rt::channel::{Received, Sending};
use holm_rt::{Channel, Deadline, Handle, Mapping, Object, Owned, Region, Unit, startup, sys};

use crate::harness::{Failure, World, soon};

/// What an agent can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Order {
    /// Keep the capability sent along.
    Keep,
    /// Send a message through a kept capability.
    Send,
    /// Receive a message from one.
    Receive,
    /// Tell its rights.
    Rights,
    /// Read the first eight bytes of a region.
    Read,
    /// Write the first eight bytes of a region.
    Write,
    /// Map a region readable and keep the mapping; tell its first eight bytes.
    Map,
    /// Tell the first eight bytes of the mapping.
    Touch,
    /// Close it.
    Close,
    /// Derive one with the rights given, and keep it.
    Derive,
    /// Send it back, moved.
    GiveBack,
    /// Send it back, cloned.
    CloneBack,
    /// End with this code.
    Exit,
}

const ORDERS: &[Order] = &[
    Order::Keep,
    Order::Send,
    Order::Receive,
    Order::Rights,
    Order::Read,
    Order::Write,
    Order::Map,
    Order::Touch,
    Order::Close,
    Order::Derive,
    Order::GiveBack,
    Order::CloneBack,
    Order::Exit,
];

/// The test's side of an agent.
pub(crate) struct Agent {
    pub(crate) unit: Unit,
    channel: Channel,
}

impl Agent {
    /// Starts an agent.
    pub(crate) fn start(world: &World) -> Result<Self, Failure> {
        let (server, client) = Channel::queue(256, 4)?;
        let rights = Rights::RECEIVE | Rights::INSPECT;
        let unit = world.child("agent", &[]).cap("orders", server.cloned(rights)).start()?;
        Ok(Self { unit, channel: client })
    }

    /// Gives an order; answers the value, or the error the agent met.
    pub(crate) fn order(&self, order: Order, index: u64, value: u64) -> Result<u64, Error> {
        self.order_with(order, index, value, &[]).map(|(value, _)| value)
    }

    /// Gives an order with capabilities; answers the value and the whole reply.
    pub(crate) fn order_with(
        &self,
        order: Order,
        index: u64,
        value: u64,
        caps: &[CapTransfer],
    ) -> Result<(u64, Received), Error> {
        let words = [order as u64, index, value];
        let payload: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let sending = Sending { caps, ..Sending::default() };
        let reply = self.channel.call_with(&payload, &sending, 64, soon())?;
        let word = u64::get(reply.payload.get(..8).ok_or(Error::Invalid)?)?;
        Error::from_register(word).map(|value| (value, reply))
    }

    /// Sends a capability for the agent to keep; answers its index there.
    pub(crate) fn keep(&self, cap: CapTransfer) -> Result<u64, Error> {
        self.order_with(Order::Keep, 0, 0, &[cap]).map(|(index, _)| index)
    }
}

/// The agent's own side.
struct Kept {
    caps: Vec<Option<Owned>>,
    mapping: Option<Mapping>,
}

impl Kept {
    fn keep(&mut self, cap: Owned) -> u64 {
        self.caps.push(Some(cap));
        self.caps.len() as u64 - 1
    }

    fn handle(&self, index: u64) -> Result<Handle, Error> {
        self.caps.get(index as usize).and_then(Option::as_ref).map(Owned::handle).ok_or(Error::NotFound)
    }

    /// The object behind a kept handle, for one use: the handle stays the list's.
    fn borrowed<T: Object, R>(&self, index: u64, work: impl FnOnce(&T) -> Result<R, Error>) -> Result<R, Error> {
        let object = T::from_owned(Owned::new(self.handle(index)?));
        let result = work(&object);
        let _still_kept = object.into_handle();
        result
    }

    fn obey(
        &mut self,
        order: Order,
        index: u64,
        value: u64,
        message: Received,
    ) -> Result<(u64, Option<CapTransfer>), Error> {
        let mut bytes = [0; 8];
        let done = match order {
            Order::Keep => {
                let cap = message.caps.into_iter().next().ok_or(Error::NotFound)?;
                self.keep(cap.owned)
            }
            Order::Send => {
                self.borrowed(index, |channel: &Channel| channel.send(b"hello", Deadline::PAST).map(|()| 0))?
            }
            Order::Receive => self.borrowed(index, |channel: &Channel| {
                channel.receive(256, Deadline::PAST).map(|message| message.payload.len() as u64)
            })?,
            Order::Rights => {
                let mut info = CapInfo::new();
                sys::cap_get_info(self.handle(index)?, &mut info)?;
                info.rights.bits()
            }
            Order::Read => {
                self.borrowed(index, |region: &Region| region.read(0, &mut bytes))?;
                u64::from_le_bytes(bytes) >> 1
            }
            Order::Write => {
                self.borrowed(index, |region: &Region| region.write(0, &value.to_le_bytes()).map(|count| count as u64))?
            }
            Order::Map => {
                let mapping = self.borrowed(index, |region: &Region| region.map(Protection::READ))?;
                mapping.read(0, &mut bytes)?;
                self.mapping = Some(mapping);
                u64::from_le_bytes(bytes) >> 1
            }
            Order::Touch => {
                self.mapping.as_ref().ok_or(Error::NotFound)?.read(0, &mut bytes)?;
                u64::from_le_bytes(bytes) >> 1
            }
            Order::Close => {
                let slot = self.caps.get_mut(index as usize).and_then(Option::take).ok_or(Error::NotFound)?;
                sys::cap_close(slot.into_handle())?;
                0
            }
            Order::Derive => {
                let rights = Rights::from_register(value)?;
                let handle = sys::cap_derive(self.handle(index)?, rights, TransferFlags::ALL, 0)?;
                self.keep(Owned::new(handle))
            }
            Order::GiveBack => {
                let slot = self.caps.get_mut(index as usize).and_then(Option::take).ok_or(Error::NotFound)?;
                let cap = slot.into_handle();
                let mode = holm_rt::abi::TransferMode::Move;
                return Ok((0, Some(CapTransfer { cap, mode, rights: Rights::from_register(value)? })));
            }
            Order::CloneBack => {
                let mode = holm_rt::abi::TransferMode::Clone;
                let cap = self.handle(index)?;
                return Ok((0, Some(CapTransfer { cap, mode, rights: Rights::from_register(value)? })));
            }
            Order::Exit => holm_rt::end(value as i64),
        };
        Ok((done, None))
    }
}

/// The role of the agent.
pub(crate) fn serve() -> i32 {
    let Some(orders) = startup::take_named::<Channel>("orders") else { return 3 };
    let mut kept = Kept { caps: Vec::new(), mapping: None };
    loop {
        let mut message = match orders.receive(256, Deadline::NEVER) {
            Ok(message) => message,
            Err(_) => return 0,
        };
        let Some(token) = message.reply.take() else { continue };
        let word =
            |at: usize| message.payload.get(at * 8..at * 8 + 8).and_then(|bytes| u64::get(bytes).ok()).unwrap_or(0);
        let (index, value) = (word(1), word(2));
        let order = ORDERS.iter().find(|order| **order as u64 == word(0)).copied();
        let done = order.ok_or(Error::Invalid).and_then(|order| kept.obey(order, index, value, message));
        let (word, cap) = match done {
            Ok((value, cap)) => (value, cap),
            Err(error) => (error.register(), None),
        };
        let caps: Vec<CapTransfer> = cap.into_iter().collect();
        if let Err(error) = orders.reply(token, &word.to_le_bytes(), &caps) {
            return 100 + error.code();
        }
    }
}
