//! Measures the kernel's paths: prints `figure NAME NUMBER` for each, in ticks of the time-stamp counter, which are guest
//! instructions under `-icount shift=0`. It judges nothing: limits are in `bench/kernel.toml`.
#![cfg_attr(holm_user, no_std, no_main)]

extern crate alloc;

use alloc::vec::Vec;
use core::time::Duration;

use holm_rt::abi::{
    CapTransfer, Error, MapFlags, MapSpec, MsgIo, ObjectType, Protection, RegionFlags, RestrictedState, Rights,
    SchedClass, number,
};
use holm_rt::channel::ReplyToken;
use holm_rt::{
    Archive, Channel, Deadline, Image, Object, Owned, Region, Space, System, ThreadBuilder, UnitBuilder, println,
    startup, sys, thread, time,
};

holm_rt::entry!(begin);

/// Rounds of a path that is measured as a whole.
const ROUNDS: u64 = 1000;
/// Capabilities moved before the server gives them back at once.
const MOVED: u64 = 16;

fn begin() -> i32 {
    let role = startup::arguments().nth(1);
    let done = match role {
        Some("words") => serve_words(),
        Some("caps") => serve_caps(),
        Some("caps-in-memory") => serve_caps_in_memory(),
        Some("sleep") => time::sleep_until(Deadline::NEVER),
        _ => all(),
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            println!("bench: {error}");
            1
        }
    }
}

fn all() -> Result<(), Error> {
    let archive: Archive = startup::take(ObjectType::Archive).ok_or(Error::NotFound)?;
    let system: System = startup::take(ObjectType::System).ok_or(Error::NotFound)?;
    let image = archive.open("bench")?;
    tell("null-call", each(ROUNDS, sys::sys_null)?);
    tell("call-reply", call_reply(&image)?);
    tell("call-reply-cap", call_reply_cap(&image)?);
    tell("call-reply-cap-memory", call_reply_cap_in_memory(&image)?);
    tell("send-receive", send_receive()?);
    tell("yield", yields()?);
    tell("timer-wake", timer_wake()?);
    tell("page-fault", page_fault()?);
    tell("restricted", restricted()?);
    tell("revoke", revoke()?);
    tell("unit-memory", unit_memory(&system, &image)?);
    tell("thread-memory", thread_memory(&system)?);
    println!("figures done");
    Ok(())
}

fn tell(name: &str, value: u64) {
    println!("figure {name} {value}");
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// Ticks of one round of `work`, without those of an empty round.
fn each(rounds: u64, mut work: impl FnMut() -> Result<(), Error>) -> Result<u64, Error> {
    let mut run = |real: bool| -> Result<u64, Error> {
        let before = sys::ticks();
        for _ in 0..rounds {
            if core::hint::black_box(real) {
                work()?;
            }
        }
        Ok(sys::ticks() - before)
    };
    run(true)?;
    let empty = run(false)?;
    Ok((run(true)?.saturating_sub(empty) + rounds / 2) / rounds)
}

/// A child of this program on processor 0 that serves a channel; the client's end of it.
fn server(image: &Image, role: &str) -> Result<Channel, Error> {
    let (server, client) = Channel::queue(64, 4)?;
    let unit = UnitBuilder::new(image, role)
        .arguments(["bench", role])
        .cap("serve", server.moved(Rights::RECEIVE | Rights::INSPECT))
        .start()?;
    // It runs on without its handle until its channel has no senders.
    drop(unit);
    Ok(client)
}

fn serve_words() -> Result<(), Error> {
    let channel: Channel = startup::take_named("serve").ok_or(Error::NotFound)?;
    let (mut token, mut words) = (None, [0; 4]);
    loop {
        match channel.reply_receive_words(token.take(), words) {
            Ok(question) => {
                token = ReplyToken::of(&question);
                words = question.words;
            }
            Err(Error::PeerClosed) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn call_reply(image: &Image) -> Result<u64, Error> {
    let client = server(image, "words")?;
    each(ROUNDS, || client.call_words([1, 2, 3, 4], Deadline::NEVER).map(|_| ()))
}

/// Takes one capability with each call, and closes them all when one comes without.
fn serve_caps() -> Result<(), Error> {
    let channel: Channel = startup::take_named("serve").ok_or(Error::NotFound)?;
    let mut kept = Vec::with_capacity(MOVED as usize + 1);
    let (mut token, mut words) = (None, [0; 4]);
    loop {
        match channel.reply_receive_words_with(token.take(), words) {
            Ok((question, Some(cap))) => {
                kept.push(cap);
                token = ReplyToken::of(&question);
                words = question.words;
            }
            Ok((question, None)) => {
                kept.clear();
                token = ReplyToken::of(&question);
            }
            Err(Error::PeerClosed) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Ticks of a call with a capability moved, by `call`, to a server that closes them after `done`.
fn moving(
    mut call: impl FnMut(CapTransfer) -> Result<(), Error>,
    done: impl Fn() -> Result<(), Error>,
) -> Result<u64, Error> {
    let region = Region::new(4096)?;
    let mut batches = Vec::new();
    for _ in 0..20 {
        let mut caps = Vec::new();
        for _ in 0..MOVED {
            caps.push(region.derive(Rights::READ | Rights::TRANSFER)?.moved(Rights::READ));
        }
        let before = sys::ticks();
        for cap in &caps {
            call(*cap)?;
        }
        batches.push((sys::ticks() - before) / MOVED);
        done()?;
    }
    Ok(median(batches))
}

fn call_reply_cap(image: &Image) -> Result<u64, Error> {
    let client = server(image, "caps")?;
    let done = || client.call_words([0; 4], Deadline::NEVER).map(drop);
    moving(|cap| client.call_words_with([1, 2, 3, 4], cap).map(drop), done)
}

/// As [`serve_caps`], through memory.
fn serve_caps_in_memory() -> Result<(), Error> {
    let channel: Channel = startup::take_named("serve").ok_or(Error::NotFound)?;
    let (mut payload, mut slots) = ([0u8; 32], [[0u8; CapTransfer::SIZE]; 1]);
    let mut kept = Vec::with_capacity(MOVED as usize + 1);
    let mut token = 0;
    loop {
        let reply = MsgIo { buffer: payload.as_ptr() as u64, buffer_bytes: 32, ..MsgIo::new() };
        let mut message = MsgIo {
            buffer: payload.as_mut_ptr() as u64,
            buffer_bytes: 32,
            caps: slots.as_mut_ptr() as u64,
            cap_count: 1,
            ..MsgIo::new()
        };
        // SAFETY: buffer and records are arrays of this function of the sizes given; nothing else uses them meanwhile.
        match unsafe { sys::chan_reply_recv(channel.handle(), token, &reply, &mut message, Deadline::NEVER.nanos()) } {
            Ok(_) => {}
            Err(Error::PeerClosed) => return Ok(()),
            Err(error) => return Err(error),
        }
        token = message.out_token;
        if message.out_caps == 1 {
            let [slot] = &slots;
            kept.push(Owned::new(CapTransfer::decode_whole(slot)?.cap));
        } else {
            kept.clear();
        }
    }
}

/// As [`call_reply_cap`], with payload and records in memory: what messages of any length take.
fn call_reply_cap_in_memory(image: &Image) -> Result<u64, Error> {
    let client = server(image, "caps-in-memory")?;
    let (payload, mut room) = ([7u8; 32], [0u8; 32]);
    let mut call = |caps: &[[u8; CapTransfer::SIZE]]| {
        let send = MsgIo {
            buffer: payload.as_ptr() as u64,
            buffer_bytes: 32,
            caps: caps.as_ptr() as u64,
            cap_count: caps.len() as u32,
            ..MsgIo::new()
        };
        let mut receive = MsgIo { buffer: room.as_mut_ptr() as u64, buffer_bytes: 32, ..MsgIo::new() };
        // SAFETY: the reply goes into `room`, which nothing else uses; the rest is only read.
        unsafe { sys::chan_call(client.handle(), &send, &mut receive, Deadline::NEVER.nanos()) }.map(drop)
    };
    let done = || client.call(&[], 32, Deadline::NEVER).map(drop);
    moving(
        |cap| {
            let mut record = [0; CapTransfer::SIZE];
            cap.encode_whole(&mut record);
            call(&[record])
        },
        done,
    )
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

fn send_receive() -> Result<u64, Error> {
    let (inbox, outbox) = Channel::queue(64, 4)?;
    each(ROUNDS, || {
        outbox.send_words([1, 2, 3, 4], Deadline::NEVER)?;
        inbox.receive_words(Deadline::NEVER).map(|_| ())
    })
}

fn yields() -> Result<u64, Error> {
    let builder = ThreadBuilder::default().class(SchedClass::RtFixed, 5).affinity(1);
    let release = Deadline::after(Duration::from_millis(5));
    let run = move || -> Result<u64, Error> {
        time::sleep_until(release)?;
        each(ROUNDS, sys::thread_yield)
    };
    let (one, two) = (builder.spawn(run)?, builder.spawn(run)?);
    let first = one.join(soon())?.ok_or(Error::NotFound)??;
    two.join(soon())?;
    // One round of a thread is two switches: to the other thread and back.
    Ok(first / 2)
}

fn timer_wake() -> Result<u64, Error> {
    let mut late = Vec::new();
    for _ in 0..41 {
        let deadline = time::now() + 200_000;
        time::sleep_until(Deadline::at(deadline))?;
        late.push(time::now().saturating_sub(deadline));
    }
    Ok(median(late))
}

/// Pages that are there and only have to be mapped: what a fault costs without clearing.
fn page_fault() -> Result<u64, Error> {
    const PAGES: u64 = 256;
    let region = Region::with(PAGES * 4096, RegionFlags::COMMIT)?;
    let mapping = region.map_with(&MapSpec { protection: Protection::READ | Protection::WRITE, ..MapSpec::new() })?;
    let mut page = 0;
    let mut byte = [0];
    let mut touch = || {
        page = (page + 1) % PAGES;
        mapping.read(page * 4096, &mut byte)
    };
    let before = sys::ticks();
    for _ in 0..PAGES - 1 {
        touch()?;
    }
    let cold = sys::ticks() - before;
    touch()?;
    let before = sys::ticks();
    for _ in 0..PAGES - 1 {
        touch()?;
    }
    Ok(cold.saturating_sub(sys::ticks() - before) / (PAGES - 1))
}

/// A guest that makes system calls, entered again as soon as it comes back: two instructions of the guest and four of the
/// personality are in the figure.
fn restricted() -> Result<u64, Error> {
    const AT: u64 = 0x1000_0000;
    let (space, region) = (Space::new()?, Region::new(4096)?);
    // syscall, and back to it.
    region.write(0, &[0x0f, 0x05, 0xeb, 0xfc])?;
    let protection = Protection::READ | Protection::EXECUTE;
    space.map(&region, &MapSpec { address: AT, protection, flags: MapFlags::FIXED, ..MapSpec::new() })?;
    let mut guest = space.bind()?;
    guest.set(&RestrictedState { rip: AT, ..RestrictedState::new() })?;
    for _ in 0..2 {
        guest.enter()?;
    }
    let mut left = ROUNDS;
    let before = sys::ticks();
    // SAFETY: the kernel keeps rsp and the callee-saved registers over the guest's run; everything else is named as changed.
    // The guest maps nothing of this program.
    unsafe {
        core::arch::asm!(
            "2: lea rdi, [rip + 3f]",
            "mov eax, {enter}",
            "syscall",
            "jmp 4f",
            "3: dec r12",
            "jnz 2b",
            "4:",
            enter = const number::restricted_enter,
            inout("r12") left,
            clobber_abi("C"),
        );
    }
    let ticks = sys::ticks() - before;
    if left == 0 { Ok((ticks + ROUNDS / 2) / ROUNDS) } else { Err(Error::BadState) }
}

fn revoke() -> Result<u64, Error> {
    let region = Region::new(4096)?;
    let base = region.derive(Rights::READ | Rights::DERIVE)?;
    let children: Vec<Region> = (0..10_000).map(|_| base.derive(Rights::READ)).collect::<Result<_, _>>()?;
    let before = sys::ticks();
    base.revoke()?;
    let ticks = sys::ticks() - before;
    for child in children.iter().step_by(999) {
        if child.read(0, &mut [0]) != Err(Error::Revoked) {
            return Err(Error::BadState);
        }
    }
    Ok(ticks)
}

/// What `make` adds to the kernel's memory, for each of 16.
fn memory<T>(system: &System, mut make: impl FnMut() -> Result<T, Error>) -> Result<u64, Error> {
    let first = make()?;
    time::sleep(Duration::from_millis(20))?;
    let before = system.metrics()?.kernel_bytes;
    let made: Vec<T> = (0..16).map(|_| make()).collect::<Result<_, _>>()?;
    time::sleep(Duration::from_millis(20))?;
    let bytes = system.metrics()?.kernel_bytes.saturating_sub(before) / 16;
    drop((first, made));
    Ok(bytes)
}

fn unit_memory(system: &System, image: &Image) -> Result<u64, Error> {
    let mut units = Vec::new();
    let bytes = memory(system, || {
        let unit = UnitBuilder::new(image, "sleep").arguments(["bench", "sleep"]).start()?;
        units.push(unit.handle());
        Ok(unit.into_handle())
    });
    for unit in units {
        let _ended = sys::unit_destroy(unit);
    }
    bytes
}

fn thread_memory(system: &System) -> Result<u64, Error> {
    memory(system, || thread::spawn(|| time::sleep(Duration::from_secs(2))))
}
