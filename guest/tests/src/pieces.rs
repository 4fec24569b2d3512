//! The big operations, each over as much as it may meet: they go on in pieces, so that no stretch in the kernel is long.
//! `cargo xtask bench kernel` tells how long.

use alloc::vec::Vec;
use core::time::Duration;

use holm_rt::abi::{
    ChanSpec, ClockId, Error, EventFlags, EventMask, MapSpec, Protection, RegionFlags, Rights, ThreadState, limits,
};
use holm_rt::channel::Sending;
use holm_rt::{
    Channel, Deadline, Events, Handle, Mapping, Object, Owned, Region, Source, ThreadBuilder, Timer, UnitBuilder,
    startup, sys, time,
};

use crate::harness::{Failure, Outcome, Test, World, check, check_eq, eventually, soon};

const PAGE: u64 = limits::PAGE_SIZE;
const READ_WRITE: Protection = Protection::READ.or(Protection::WRITE);

pub(crate) const TESTS: &[Test] = &[
    ("pieces_of_a_large_region_are_given_back", large_region),
    ("pieces_of_a_laden_unit_are_given_back", laden_unit),
    ("pieces_of_a_wide_revocation_are_swept", wide_revocation),
    ("pieces_of_a_revocation_with_mappings_are_swept", mapped_revocation),
    ("pieces_of_a_snapshot_keep_their_content", snapshots),
    ("pieces_of_many_mappings_are_unmapped", many_mappings),
    ("pieces_of_a_page_seen_in_many_places_stay_apart", many_views),
    ("pieces_of_large_messages_arrive", large_messages),
    ("pieces_of_many_deadlines_come", many_deadlines),
    ("pieces_of_many_waits_end_with_their_channel", many_waits),
];

/// What there is before a test; the heap is large enough by then not to grow meanwhile, which would take a region.
fn settled(world: &World) -> Result<[u64; 5], Failure> {
    drop(Vec::<u8>::with_capacity(1 << 20));
    world.inventory()
}

/// Writes the number of each page into it.
fn number_pages(mapping: &Mapping, pages: u64) -> Outcome {
    for page in 0..pages {
        mapping.write(page * PAGE, &page.to_le_bytes())?;
    }
    Ok(())
}

fn word(mapping: &Mapping, page: u64) -> Result<u64, Error> {
    let mut bytes = [0; 8];
    mapping.read(page * PAGE, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn large_region(world: &World) -> Outcome {
    const PAGES: u64 = 4096;
    let before = settled(world)?;
    let region = Region::with(PAGES * PAGE, RegionFlags::COMMIT)?;
    let mapping = region.map(READ_WRITE)?;
    number_pages(&mapping, PAGES)?;
    let mut content = alloc::vec![0; limits::MAX_COPY as usize];
    check!(region.read(0, &mut content)? > 0, "nothing was read");
    check!(region.write(PAGE, &content)? > 0, "nothing was written");
    region.decommit(1024 * PAGE, 2048 * PAGE)?;
    check_eq!((word(&mapping, 1023)?, word(&mapping, 1024)?, word(&mapping, 3072)?), (1023, 0, 3072));
    drop((mapping, region));
    let sparse = Region::new(1 << 40)?;
    let mapping = sparse.map(READ_WRITE)?;
    for at in 0..256 {
        mapping.write(at << 31, &[1])?;
    }
    sparse.decommit(0, 1 << 40)?;
    drop((mapping, sparse));
    check_eq!(world.inventory()?, before);
    Ok(())
}

/// What a child that is to be taken apart has: many objects of every kind.
pub(crate) fn laden() -> i32 {
    load().unwrap_or(1)
}

fn load() -> Result<i32, Error> {
    let ready: Channel = startup::take_named("ready").ok_or(Error::NotFound)?;
    let region = Region::with(64 * PAGE, RegionFlags::COMMIT)?;
    let mut derived = Vec::new();
    for _ in 0..1500 {
        derived.push(region.derive(Rights::READ | Rights::MAP | Rights::TRANSFER | Rights::DERIVE | Rights::INSPECT)?);
    }
    let mut mappings = Vec::new();
    for one in derived.iter().take(150) {
        let mapping = one.map(Protection::READ)?;
        mapping.read(0, &mut [0; 8])?;
        mappings.push(mapping);
    }
    let (mut regions, mut queues, mut timers, mut threads) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..200 {
        regions.push(Region::with(4 * PAGE, RegionFlags::COMMIT)?);
        let (inbox, outbox) = Channel::queue(64, 16)?;
        for cap in derived.iter().skip(300).take(8) {
            outbox.send_with(
                b"to be lost",
                &Sending { caps: &[cap.cloned(Rights::READ)], ..Sending::default() },
                soon(),
            )?;
        }
        queues.push((inbox, outbox));
        let timer = Timer::new(ClockId::Monotonic)?;
        timer.every(Deadline::after(Duration::from_secs(3600)), Duration::from_secs(3600))?;
        timers.push(timer);
    }
    let events = Events::new()?;
    for (token, (inbox, _)) in queues.iter().enumerate() {
        events.subscribe(Source::Channel(inbox), EventMask::READABLE, EventFlags::NONE, token as u64)?;
    }
    for _ in 0..48 {
        threads.push(ThreadBuilder::default().stack(2 * PAGE).spawn(|| time::sleep_until(Deadline::NEVER))?);
    }
    ready.send(b"ready", soon())?;
    time::sleep_until(Deadline::NEVER)?;
    Ok(0)
}

fn laden_unit(world: &World) -> Outcome {
    let before = settled(world)?;
    for _ in 0..2 {
        let (inbox, outbox) = Channel::queue(16, 1)?;
        let unit = world.child("laden", &[]).cap("ready", outbox.moved(Rights::SEND)).start()?;
        check_eq!(inbox.receive(16, soon())?.payload, b"ready");
        unit.kill(1)?;
        unit.wait(soon())?;
        drop(unit);
    }
    // Children of a unit that ends end with it.
    let parent = UnitBuilder::empty("parent").create()?;
    let mut children = Vec::new();
    for _ in 0..40 {
        children.push(UnitBuilder::empty("child").create_under(parent.handle())?);
    }
    sys::unit_destroy(parent.handle())?;
    drop((parent, children));
    check_eq!(world.inventory()?, before);
    Ok(())
}

fn wide_revocation(world: &World) -> Outcome {
    // The table of handles grows and stays as large.
    let same = |inventory: [u64; 5]| inventory.into_iter().take(4).collect::<Vec<u64>>();
    let before = same(settled(world)?);
    let region = Region::new(PAGE)?;
    let base = region.derive(Rights::READ | Rights::DERIVE)?;
    let mut deep = Vec::new();
    for _ in 0..150 {
        let mut last = base.derive(Rights::READ | Rights::DERIVE)?;
        for _ in 2..limits::MAX_DERIVATION_DEPTH {
            let next = last.derive(Rights::READ | Rights::DERIVE)?;
            deep.push(last);
            last = next;
        }
        deep.push(last);
    }
    let flat: Vec<Region> = (0..3000).map(|_| base.derive(Rights::READ)).collect::<Result<_, _>>()?;
    base.revoke()?;
    for gone in flat.iter().chain(&deep).step_by(499) {
        check_eq!(gone.read(0, &mut [0]), Err(Error::Revoked));
    }
    world.inventory()?;
    drop((flat, deep, base, region));
    check_eq!(same(world.inventory()?), before);
    Ok(())
}

fn mapped_revocation(world: &World) -> Outcome {
    const PAGES: u64 = 256;
    let before = settled(world)?;
    let region = Region::with(PAGES * PAGE, RegionFlags::COMMIT)?;
    let base = region.derive(Rights::READ | Rights::WRITE | Rights::MAP | Rights::DERIVE | Rights::INSPECT)?;
    let mut mappings = Vec::new();
    for _ in 0..8 {
        let child = base.derive(Rights::READ | Rights::WRITE | Rights::MAP | Rights::INSPECT)?;
        let mapping = child.map(READ_WRITE)?;
        number_pages(&mapping, PAGES)?;
        mappings.push((mapping, child));
    }
    base.revoke()?;
    for (mapping, child) in mappings {
        check_eq!(child.read(0, &mut [0]), Err(Error::Revoked));
        // What is unmapped already is no mapping to be dropped: its addresses may be others' now.
        core::mem::forget(mapping);
    }
    drop((base, region));
    check_eq!(world.inventory()?, before);
    Ok(())
}

fn snapshots(world: &World) -> Outcome {
    const PAGES: u64 = 2048;
    let before = settled(world)?;
    let region = Region::new(PAGES * PAGE)?;
    let mapping = region.map(READ_WRITE)?;
    number_pages(&mapping, PAGES)?;
    let mut copies = Vec::new();
    for round in 0..4 {
        copies.push(region.snapshot()?);
        mapping.write(round * 64 * PAGE, &u64::MAX.to_le_bytes())?;
    }
    let first = copies.first().ok_or(Error::NotFound)?.map(Protection::READ)?;
    for page in (0..PAGES).step_by(31) {
        check_eq!(word(&first, page)?, page);
    }
    // Every page is written: each leaf and each frame is told apart.
    for page in (0..PAGES).step_by(8) {
        mapping.write(page * PAGE + 8, &[1])?;
    }
    check_eq!((word(&first, 64)?, word(&mapping, 64)?), (64, u64::MAX));
    drop((first, copies, mapping, region));
    check_eq!(world.inventory()?, before);
    Ok(())
}

fn many_mappings(world: &World) -> Outcome {
    const PAGES: u64 = 512;
    let before = settled(world)?;
    let region = Region::with(PAGES * PAGE, RegionFlags::COMMIT)?;
    let mut mapping = region.map(READ_WRITE)?;
    number_pages(&mapping, PAGES)?;
    for page in (0..PAGES).step_by(2) {
        // SAFETY: a page of the mapping just made, of which no plain reference exists.
        unsafe { sys::vm_protect(Handle::NONE, mapping.address() + page * PAGE, PAGE, Protection::READ)? };
    }
    check_eq!(word(&mapping, 77)?, 77);
    mapping.protect(READ_WRITE)?;
    number_pages(&mapping, PAGES)?;
    for page in (0..PAGES).step_by(2) {
        // SAFETY: as above.
        unsafe { sys::vm_protect(Handle::NONE, mapping.address() + page * PAGE, PAGE, Protection::READ)? };
    }
    drop((mapping, region));
    check_eq!(world.inventory()?, before);
    Ok(())
}

/// One page, mapped in as many places as may be, before and after a snapshot makes it two.
fn many_views(world: &World) -> Outcome {
    let before = settled(world)?;
    let region = Region::new(2 * PAGE)?;
    region.write(0, &7u64.to_le_bytes())?;
    let mut mappings = Vec::new();
    loop {
        // A gap after each, so that none is joined to the one before it.
        let spec = MapSpec { protection: READ_WRITE, bytes: PAGE, ..MapSpec::new() };
        match region.map_with(&spec) {
            Ok(mapping) => mappings.push(mapping),
            Err(Error::NoSpace) => break,
            Err(error) => return Err(error.into()),
        }
        check!(mappings.len() <= 4096, "a page can be mapped without end");
    }
    for mapping in &mappings {
        check_eq!(word(mapping, 0)?, 7);
    }
    let copy = region.snapshot()?;
    for mapping in &mappings {
        check_eq!(word(mapping, 0)?, 7);
    }
    mappings.first().ok_or(Error::NotFound)?.write(0, &8u64.to_le_bytes())?;
    for mapping in &mappings {
        check_eq!(word(mapping, 0)?, 8);
    }
    let mut bytes = [0; 8];
    copy.read(0, &mut bytes)?;
    check_eq!(u64::from_le_bytes(bytes), 7);
    let other = region.snapshot()?;
    for mapping in &mappings {
        check_eq!(word(mapping, 0)?, 8);
    }
    region.write(0, &9u64.to_le_bytes())?;
    for mapping in &mappings {
        check_eq!(word(mapping, 0)?, 9);
    }
    region.decommit(0, PAGE)?;
    for mapping in &mappings {
        check_eq!(word(mapping, 0)?, 0);
    }
    drop((copy, other, mappings, region));
    check_eq!(world.inventory()?, before);
    Ok(())
}

fn large_messages(world: &World) -> Outcome {
    let before = settled(world)?;
    let bytes = limits::MAX_MESSAGE as usize;
    let spec = ChanSpec { max_message: bytes as u32, max_messages: 8, max_bytes: 8 * bytes as u64, ..ChanSpec::new() };
    let (inbox, outbox) = Channel::with(&spec)?;
    let payload: Vec<u8> = (0..bytes).map(|at| (at / 7) as u8).collect();
    let region = Region::new(PAGE)?;
    let caps: Vec<_> = (0..limits::MAX_MESSAGE_CAPS).map(|_| region.cloned(Rights::READ)).collect();
    for _ in 0..8 {
        outbox.send_with(&payload, &Sending { caps: &caps, ..Sending::default() }, soon())?;
    }
    for _ in 0..4 {
        let message = inbox.receive(bytes, soon())?;
        check!(message.payload == payload, "a large message is not what was sent");
        check_eq!(message.caps.len(), caps.len());
    }
    // The rest goes with the channel. A receiver that waits gets its message at once.
    drop((inbox, outbox));
    let (inbox, outbox) = Channel::with(&spec)?;
    let waiting =
        ThreadBuilder::default().spawn(move || inbox.receive(bytes, soon()).map(|message| message.payload))?;
    eventually("the receiver to wait", || Ok(waiting.thread().info()?.state == ThreadState::Blocked))?;
    outbox.send(&payload, soon())?;
    let got = waiting.join(soon())?.ok_or(Failure("the receiver did not end".into()))??;
    check!(got == payload, "a message handed over is not what was sent");
    drop((outbox, region));
    check_eq!(world.inventory()?, before);
    Ok(())
}

fn many_deadlines(world: &World) -> Outcome {
    const TIMERS: usize = 300;
    let before = settled(world)?;
    let events = Events::new()?;
    let due = Deadline::after(Duration::from_millis(200));
    let mut timers = Vec::new();
    for token in 0..TIMERS {
        let timer = Timer::new(ClockId::Monotonic)?;
        events.subscribe(Source::Timer(&timer), EventMask::EXPIRED, EventFlags::NONE, token as u64)?;
        timer.once(due)?;
        timers.push(timer);
    }
    let mut threads = Vec::new();
    for _ in 0..40 {
        threads.push(ThreadBuilder::default().stack(2 * PAGE).spawn(move || time::sleep_until(due))?);
    }
    let mut seen = alloc::vec![false; TIMERS];
    while seen.contains(&false) {
        for record in events.wait(soon())? {
            *seen.get_mut(record.token as usize).ok_or(Error::Invalid)? = true;
        }
    }
    for thread in threads {
        thread.join(soon())?.ok_or(Failure("a sleeper did not end".into()))??;
    }
    drop((timers, events));
    check_eq!(world.inventory()?, before);
    Ok(())
}

fn many_waits(world: &World) -> Outcome {
    let before = settled(world)?;
    let (inbox, outbox) = Channel::queue(64, 1)?;
    outbox.send(b"full", soon())?;
    let handle = outbox.handle();
    let mut threads = Vec::new();
    for _ in 0..60 {
        threads.push(ThreadBuilder::default().stack(4 * PAGE).spawn(move || {
            let outbox = Channel::from_owned(Owned::new(handle));
            let sent = outbox.send(b"more", soon());
            let _still_the_others = outbox.into_handle();
            sent
        })?);
    }
    for thread in &threads {
        eventually("a sender to wait", || Ok(thread.thread().info()?.state == ThreadState::Blocked))?;
    }
    drop(inbox);
    for thread in threads {
        check_eq!(thread.join(soon())?.ok_or(Failure("a sender did not end".into()))?, Err(Error::PeerClosed));
    }
    drop(outbox);
    check_eq!(world.inventory()?, before);
    Ok(())
}
