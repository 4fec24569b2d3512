//! `measure`: a few ways through the kernel, in ticks of the time-stamp counter (instructions under `-icount shift=0`).

use alloc::vec::Vec;

use holm_rt::abi::{ClockId, Error};
use holm_rt::sys;
use holm_rt::{Channel, Deadline, ThreadBuilder, println};

/// Rounds of each measurement; the median is shown.
const ROUNDS: usize = 101;

/// Measures and prints.
pub(crate) fn all() -> Result<(), Error> {
    let empty = median(|| Ok(()))?;
    let show = |what: &str, ticks: u64| println!("{what:32} {:8} ticks", ticks.saturating_sub(empty));
    show("null system call", median(sys::sys_null)?);
    show("clock by system call", median(|| sys::time_get(ClockId::Monotonic).map(|_| ()))?);
    show("yield with nobody else", median(sys::thread_yield)?);
    let (first, second) = Channel::queue(64, 8)?;
    show(
        "send and receive, 32 bytes",
        median(|| {
            second.send_words([1, 2, 3, 4], Deadline::NEVER)?;
            first.receive_words(Deadline::NEVER).map(|_| ())
        })?,
    );
    let (server, client) = Channel::queue(64, 8)?;
    let thread = ThreadBuilder::default().affinity(1).spawn(move || {
        let mut token = None;
        while let Ok(question) = server.reply_receive_words(token.take(), [0; 4]) {
            token = holm_rt::channel::ReplyToken::of(&question);
            if question.words == [u64::MAX; 4] {
                break;
            }
        }
    })?;
    show("call and reply, other thread", median(|| client.call_words([1, 2, 3, 4], Deadline::NEVER).map(|_| ()))?);
    client.send_words([u64::MAX; 4], Deadline::NEVER)?;
    thread.join(Deadline::after(core::time::Duration::from_secs(1)))?;
    Ok(())
}

fn median(mut work: impl FnMut() -> Result<(), Error>) -> Result<u64, Error> {
    let mut ticks = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let before = sys::ticks();
        work()?;
        ticks.push(sys::ticks() - before);
    }
    ticks.sort_unstable();
    Ok(ticks.get(ROUNDS / 2).copied().unwrap_or(0))
}
