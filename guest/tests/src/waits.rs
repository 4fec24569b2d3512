//! How waits end that nobody serves: each call that can wait, ended by a kick and by the end of what it waits for.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use holm_rt::abi::{Error, EventRecord, Rights, ThreadState, number};
use holm_rt::{Channel, Console, Events, Handle, Object, Owned, Region, Space, sys, thread, time};

use crate::harness::{Outcome, Test, World, check, must_answer, soon};

pub(crate) const TESTS: &[Test] = &[
    ("waits_end_with_interrupted_when_kicked", kicked),
    ("waits_end_with_canceled_when_their_handle_is_closed", closed),
];

/// A call that waits on a handle.
type Call = fn(Handle) -> Result<(), Error>;

/// Uses a channel by its handle, which stays its owner's.
fn on(handle: Handle, work: impl FnOnce(&Channel) -> Result<(), Error>) -> Result<(), Error> {
    let channel = Channel::from_owned(Owned::new(handle));
    let result = work(&channel);
    let _stays = channel.into_handle();
    result
}

/// Calls on a channel whose queue is full, or empty; and whether it must be full.
const CALLS: &[(u64, bool, Call)] = &[
    (number::chan_send, true, |handle| on(handle, |channel| channel.send(b"x", soon()))),
    (number::chan_recv, false, |handle| on(handle, |channel| channel.receive(64, soon()).map(drop))),
    (number::chan_call, true, |handle| on(handle, |channel| channel.call(b"x", 64, soon()).map(drop))),
    (number::chan_reply_recv, false, |handle| {
        on(handle, |channel| channel.reply_receive(None, &[], 64, soon()).map(drop))
    }),
    (number::chan_send_short, true, |handle| on(handle, |channel| channel.send_words([0; 4], soon()))),
    (number::chan_recv_short, false, |handle| on(handle, |channel| channel.receive_words(soon()).map(drop))),
    (number::chan_call_short, true, |handle| on(handle, |channel| channel.call_words([0; 4], soon()).map(drop))),
    (number::chan_call_cap, true, |handle| {
        on(handle, |channel| {
            let cap = Region::new(4096)?;
            channel.call_words_with([0; 4], cap.cloned(Rights::READ)).map(drop)
        })
    }),
    (number::chan_reply_recv_short, false, |handle| {
        on(handle, |channel| channel.reply_receive_words(None, [0; 4]).map(drop))
    }),
];

/// How a wait is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Kick,
    Close,
}

/// Has a thread wait in a call on `handle` and ends that.
fn end(call: u64, handle: Handle, run: Call, by: By) -> Outcome {
    let ready = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&ready);
    let waiting = thread::spawn(move || {
        let space = Space::new()?;
        let _guest = if by == By::Kick { Some(space.bind()?) } else { None };
        tell.store(true, Ordering::Release);
        run(handle)
    })?;
    let until = soon();
    while !ready.load(Ordering::Acquire) || waiting.thread().info()?.state != ThreadState::Blocked {
        check!(time::now() < until.nanos() && !waiting.is_done(), "call {call} does not wait");
        time::sleep(Duration::from_millis(1))?;
    }
    let error = match by {
        By::Kick => {
            waiting.thread().kick()?;
            Error::Interrupted
        }
        By::Close => {
            sys::cap_close(handle)?;
            Error::Canceled
        }
    };
    let result = waiting.join(until)?.ok_or(Error::BadState)?;
    if by == By::Kick {
        sys::cap_close(handle)?;
    }
    must_answer(call, error, result)
}

fn all(by: By) -> Outcome {
    for (call, full, run) in CALLS {
        let (near, _far) = Channel::pair(64, 1)?;
        if *full {
            near.send(b"x", soon())?;
        }
        end(*call, near.into_handle(), *run, by)?;
    }
    let wait: Call = |handle| sys::event_wait(handle, &mut [[0; EventRecord::SIZE]], soon().nanos()).map(drop);
    end(number::event_wait, Events::new()?.into_handle(), wait, by)
}

fn kicked(world: &World) -> Outcome {
    all(By::Kick)?;
    let read: Call = |handle| {
        let console = Console::from_owned(Owned::new(handle));
        let result = console.read(&mut [0], soon()).map(drop);
        let _stays = console.into_handle();
        result
    };
    end(number::console_read, world.console.derive(Rights::READ)?.into_handle(), read, By::Kick)
}

fn closed(_: &World) -> Outcome {
    all(By::Close)
}
