//! Memory: lazy pages, copies on write, protection, sharing.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use holm_rt::abi::{
    Backing, Error, MapFlags, MapSpec, MappingInfo, ObjectType, Protection, RegionFlags, RegionSpec, Rights, UnitInfo,
    limits, number,
};
use holm_rt::{Handle, Object, Region, ThreadBuilder, startup, sys};

use crate::agent::{Agent, Order};
use crate::harness::{Outcome, Test, World, check, check_eq, must_answer, soon};

const PAGE: u64 = limits::PAGE_SIZE;
const READ_WRITE: Protection = Protection::READ.or(Protection::WRITE);

pub(crate) const TESTS: &[Test] = &[
    ("memory_is_zero_and_comes_when_touched", lazy_zero),
    ("memory_region_of_a_terabyte_costs_what_is_touched", sparse),
    ("memory_snapshot_copies_on_write", snapshot),
    ("memory_snapshots_of_snapshots_keep_their_content", snapshot_chain),
    ("memory_decommit_gives_pages_back", decommit),
    ("memory_mappings_can_be_queried_and_split", query_and_split),
    ("memory_protection_is_obeyed_by_the_kernel_too", protection),
    ("memory_shared_region_obeys_its_rights", shared),
    ("memory_revoked_region_is_unmapped", revoked),
    ("memory_bad_ranges_are_refused", bad_ranges),
    ("memory_map_and_unmap_leak_nothing", leak_nothing),
    ("memory_decommitted_pages_are_gone_on_every_processor", gone_everywhere),
    ("memory_snapshot_stands_still_while_others_write", stands_still),
];

fn used() -> Result<u64, Error> {
    let mut info = UnitInfo::new();
    sys::unit_get_info(Handle::NONE, &mut info)?;
    Ok(info.memory_bytes)
}

fn word(mapping: &holm_rt::Mapping, offset: u64) -> Result<u64, Error> {
    let mut bytes = [0; 8];
    mapping.read(offset, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn lazy_zero(_: &World) -> Outcome {
    let region = Region::new(64 * PAGE)?;
    let mapping = region.map(READ_WRITE)?;
    check_eq!(region.info()?.committed_bytes, 0);
    for page in [0, 13, 63] {
        check_eq!(word(&mapping, page * PAGE + 4088)?, 0);
        mapping.write(page * PAGE, &[0x55])?;
        check_eq!(word(&mapping, page * PAGE)?, 0x55);
    }
    check_eq!(region.info()?.committed_bytes, 3 * PAGE);
    let whole = Region::with(8 * PAGE, RegionFlags::COMMIT)?;
    check_eq!(whole.info()?.committed_bytes, 8 * PAGE);
    Ok(())
}

fn sparse(_: &World) -> Outcome {
    let before = used()?;
    let region = Region::new(1 << 40)?;
    let mapping = region.map(READ_WRITE)?;
    for at in [0, 1 << 30, (1 << 39) + PAGE, (1 << 40) - 8] {
        mapping.write(at, &at.to_le_bytes())?;
    }
    for at in [0, 1 << 30, (1 << 39) + PAGE, (1 << 40) - 8] {
        check_eq!(word(&mapping, at)?, at);
    }
    let grown = used()? - before;
    check!(grown <= 64 * PAGE, "four touched pages cost {grown} bytes");
    drop((mapping, region));
    let after = used()?;
    // Page tables stay with the space they were made for.
    check!(after <= before + 16 * PAGE, "{before} bytes before, {after} after");
    Ok(())
}

fn snapshot(_: &World) -> Outcome {
    let region = Region::new(16 * PAGE)?;
    let mapping = region.map(READ_WRITE)?;
    for page in 0..8u64 {
        mapping.write(page * PAGE, &(page + 1).to_le_bytes())?;
    }
    let copy = region.snapshot()?;
    check_eq!(copy.info()?.backing, Backing::Snapshot);
    let other = copy.map(READ_WRITE)?;
    mapping.write(0, &100u64.to_le_bytes())?;
    other.write(PAGE, &200u64.to_le_bytes())?;
    mapping.write(9 * PAGE, &9u64.to_le_bytes())?;
    check_eq!((word(&mapping, 0)?, word(&other, 0)?), (100, 1));
    check_eq!((word(&mapping, PAGE)?, word(&other, PAGE)?), (2, 200));
    check_eq!((word(&mapping, 2 * PAGE)?, word(&other, 2 * PAGE)?), (3, 3));
    check_eq!((word(&mapping, 9 * PAGE)?, word(&other, 9 * PAGE)?), (9, 0));
    drop((mapping, region));
    check_eq!(word(&other, 3 * PAGE)?, 4);
    Ok(())
}

fn snapshot_chain(_: &World) -> Outcome {
    let mut regions = alloc::vec![Region::new(4 * PAGE)?];
    for round in 0..12u64 {
        let last = regions.last().ok_or(Error::NotFound)?;
        last.write(0, &round.to_le_bytes())?;
        last.write(2 * PAGE, &(round * 10).to_le_bytes())?;
        let next = last.snapshot()?;
        regions.push(next);
    }
    // Remove every other one, then look at the rest.
    for (round, region) in regions.iter().enumerate().take(12) {
        let mut bytes = [0; 8];
        region.read(0, &mut bytes)?;
        check_eq!(u64::from_le_bytes(bytes), round as u64);
    }
    let mut kept = 0;
    regions.retain(|_| {
        kept += 1;
        kept % 2 == 0
    });
    for (index, region) in regions.iter().enumerate().take(6) {
        let mut bytes = [0; 8];
        region.read(2 * PAGE, &mut bytes)?;
        check_eq!(u64::from_le_bytes(bytes), (index as u64 * 2 + 1) * 10);
    }
    Ok(())
}

fn decommit(_: &World) -> Outcome {
    let region = Region::new(200 * PAGE)?;
    let mapping = region.map(READ_WRITE)?;
    for page in 0..200 {
        mapping.write(page * PAGE, &[1])?;
    }
    let full = used()?;
    region.decommit(10 * PAGE, 180 * PAGE)?;
    check!(used()? + 170 * PAGE <= full, "{} bytes of {full} are still there", used()?);
    check_eq!((word(&mapping, 9 * PAGE)?, word(&mapping, 10 * PAGE)?, word(&mapping, 190 * PAGE)?), (1, 0, 1));
    must_answer(number::vm_decommit, Error::Invalid, region.decommit(1, PAGE))?;
    must_answer(number::vm_decommit, Error::Invalid, region.decommit(199 * PAGE, 2 * PAGE))?;
    Ok(())
}

fn query_and_split(_: &World) -> Outcome {
    let region = Region::new(10 * PAGE)?;
    let mapping = region.map(READ_WRITE)?;
    let query = |address: u64| {
        let mut info = MappingInfo::new();
        sys::vm_query(Handle::NONE, address, &mut info).map(|()| info)
    };
    mapping.write(5 * PAGE, &[1])?;
    let info = query(mapping.address() + 5 * PAGE + 17)?;
    check_eq!((info.address, info.bytes, info.offset), (mapping.address(), 10 * PAGE, 0));
    check_eq!((info.protection, info.resident_bytes, info.object_type), (READ_WRITE, PAGE, ObjectType::Region));
    let middle = mapping.address() + 4 * PAGE;
    // SAFETY: pages of the mapping just made; nothing of this program lies there.
    unsafe { sys::vm_protect(Handle::NONE, middle, 2 * PAGE, Protection::READ)? };
    let info = query(middle)?;
    check_eq!((info.address, info.bytes, info.offset, info.protection), (middle, 2 * PAGE, 4 * PAGE, Protection::READ));
    // SAFETY: as above.
    unsafe { sys::vm_unmap(Handle::NONE, middle, PAGE)? };
    let hole = query(middle)?;
    check_eq!((hole.object_type, hole.address, hole.bytes, hole.region), (ObjectType::Invalid, middle, PAGE, 0));
    // SAFETY: refused, because of the hole.
    let refused = unsafe { sys::vm_protect(Handle::NONE, mapping.address(), 10 * PAGE, Protection::READ) };
    must_answer(number::vm_protect, Error::NotFound, refused)?;
    must_answer(number::vm_query, Error::Invalid, query(limits::USER_END))?;
    Ok(())
}

fn protection(_: &World) -> Outcome {
    let region = Region::new(4 * PAGE)?;
    let mut mapping = region.map(READ_WRITE)?;
    let mut header = [0; holm_rt::abi::Identity::SIZE];
    holm_rt::abi::Identity::new().encode_whole(&mut header);
    mapping.write(0, &header)?;
    mapping.protect(Protection::READ)?;
    let into = |address: u64| {
        // The kernel is to write a struct where the program itself could not.
        let mut registers = [0; 6];
        registers[0] = address;
        // SAFETY: the address is a page of the mapping, of which no reference exists; the kernel refuses it anyway.
        unsafe { sys::raw(number::node_get_identity, registers) }.result()
    };
    must_answer(number::node_get_identity, Error::Fault, into(mapping.address()))?;
    let write_execute = Protection::WRITE | Protection::EXECUTE | Protection::READ;
    let refused = mapping.protect(write_execute);
    must_answer(number::vm_protect, Error::Invalid, refused)?;
    let weak = region.derive(Rights::READ | Rights::MAP | Rights::INSPECT)?;
    must_answer(number::vm_map, Error::Access, weak.map(READ_WRITE).map(|_| ()))?;
    let mut readable = weak.map(Protection::READ)?;
    must_answer(number::vm_protect, Error::NotPermitted, readable.protect(READ_WRITE))?;
    must_answer(number::vm_region_write, Error::Access, weak.write(0, &[1]))?;
    Ok(())
}

fn shared(world: &World) -> Outcome {
    let region = Region::new(4 * PAGE)?;
    region.write(0, &0x1234u64.to_le_bytes())?;
    let agent = Agent::start(world)?;
    let kept = agent.keep(region.cloned(Rights::READ | Rights::MAP | Rights::INSPECT))?;
    check_eq!(agent.order(Order::Read, kept, 0)?, 0x1234 >> 1);
    check_eq!(agent.order(Order::Write, kept, 1), Err(Error::Access));
    check_eq!(agent.order(Order::Map, kept, 0)?, 0x1234 >> 1);
    region.write(0, &0x5678u64.to_le_bytes())?;
    check_eq!(agent.order(Order::Touch, 0, 0)?, 0x5678 >> 1);
    let handle = region.share(&agent.unit, Rights::READ)?;
    check!(handle.raw() > 0, "no handle");
    let own = region.derive(Rights::READ | Rights::TRANSFER | Rights::DERIVE)?;
    must_answer(number::vm_share, Error::Access, own.share(&agent.unit, Rights::READ | Rights::WRITE))?;
    Ok(())
}

fn revoked(world: &World) -> Outcome {
    let region = Region::new(4 * PAGE)?;
    region.write(0, &2u64.to_le_bytes())?;
    let lent = region.derive(Rights::READ | Rights::MAP | Rights::INSPECT | Rights::TRANSFER | Rights::DERIVE)?;
    let agent = Agent::start(world)?;
    let kept = agent.keep(lent.cloned(Rights::READ | Rights::MAP | Rights::INSPECT))?;
    check_eq!(agent.order(Order::Map, kept, 0)?, 1);
    lent.revoke()?;
    check_eq!(agent.order(Order::Read, kept, 0), Err(Error::Revoked));
    // The mapping is gone: the agent faults, alone.
    check_eq!(agent.order(Order::Touch, 0, 0), Err(Error::PeerClosed));
    check_eq!(agent.unit.wait(soon())?.exit_reason, holm_rt::abi::ExitReason::MemoryFault);
    let mut bytes = [0; 8];
    check_eq!(region.read(0, &mut bytes)?, 8);
    must_answer(number::cap_revoke, Error::Revoked, lent.revoke())?;
    Ok(())
}

fn bad_ranges(_: &World) -> Outcome {
    for bytes in [0, 1, PAGE + 1, limits::MAX_REGION + PAGE, u64::MAX] {
        must_answer(number::vm_region_create, Error::Invalid, Region::new(bytes).map(|region| region.handle()))?;
    }
    let region = Region::new(4 * PAGE)?;
    let map = |spec: MapSpec| {
        // SAFETY: every one of these is refused.
        unsafe { sys::vm_map(Handle::NONE, region.handle(), &spec) }
    };
    let fine = MapSpec { protection: READ_WRITE, ..MapSpec::new() };
    for spec in [
        MapSpec { address: 1, ..fine },
        MapSpec { offset: 1, ..fine },
        MapSpec { bytes: 1, ..fine },
        MapSpec { offset: 4 * PAGE, ..fine },
        MapSpec { bytes: 5 * PAGE, ..fine },
        MapSpec { offset: u64::MAX - PAGE + 1, bytes: 2 * PAGE, ..fine },
        MapSpec { protection: Protection::WRITE | Protection::EXECUTE | Protection::READ, ..fine },
        MapSpec { address: limits::USER_END, flags: MapFlags::FIXED, ..fine },
        MapSpec { address: limits::USER_END - PAGE, flags: MapFlags::FIXED, ..fine },
        MapSpec { address: 0, flags: MapFlags::FIXED, ..fine },
        MapSpec { address: 0xffff_8000_0000_0000, flags: MapFlags::FIXED, ..fine },
    ] {
        let result = map(spec);
        check!(matches!(result, Err(Error::Invalid)), "{spec:?} answered {result:?}");
    }
    let mapping = region.map(READ_WRITE)?;
    let spec = MapSpec { address: mapping.address(), flags: MapFlags::FIXED | MapFlags::NO_REPLACE, ..fine };
    must_answer(number::vm_map, Error::Exists, map(spec))?;
    must_answer(number::vm_region_read, Error::Invalid, region.read(u64::MAX, &mut [0; 4]))?;
    let huge = sys::vm_region_create(&RegionSpec { bytes: 1 << 40, flags: RegionFlags::COMMIT, ..RegionSpec::new() });
    check!(matches!(huge, Err(Error::Quota | Error::NoMemory)), "a terabyte was committed: {huge:?}");
    Ok(())
}

fn leak_nothing(world: &World) -> Outcome {
    let round = || -> Result<(), Error> {
        let region = Region::new(256 * PAGE)?;
        let mapping = region.map(READ_WRITE)?;
        for page in 0..256 {
            mapping.write(page * PAGE, &[page as u8])?;
        }
        let copy = region.snapshot()?;
        let other = copy.map(READ_WRITE)?;
        other.write(7 * PAGE, &[9])?;
        Ok(())
    };
    round()?;
    let (before, memory) = (world.inventory()?, used()?);
    for _ in 0..10 {
        round()?;
    }
    check_eq!(world.inventory()?, before);
    check_eq!(used()?, memory);
    Ok(())
}

/// The last processor: another one than where the tests are mostly, if there is one.
fn elsewhere() -> u64 {
    1 << (startup::cpu_count().clamp(1, 64) - 1)
}

/// A thread on another processor reads a page all the time; the page is given back under it. From the moment that the call
/// has returned it reads zeroes, and nothing that it remembers.
fn gone_everywhere(_: &World) -> Outcome {
    const ROUNDS: u64 = 200;
    let region = Arc::new(Region::new(PAGE)?);
    let (round, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (asked, tell, shared) = (Arc::clone(&round), Arc::clone(&seen), Arc::clone(&region));
    // Odd rounds: the page has their number. Even ones: it was given back.
    let reader = ThreadBuilder::default().affinity(elsewhere()).spawn(move || -> Result<u64, Error> {
        let mapping = shared.map(READ_WRITE)?;
        let word = mapping.atomic_u64(0)?;
        let (mut stale, mut last) = (0, 0);
        loop {
            // It reads all the time, so that its processor remembers where the page is.
            let now = asked.load(Ordering::Acquire);
            let value = word.load(Ordering::Relaxed);
            if now == u64::MAX {
                return Ok(stale);
            }
            if now != last {
                stale += u64::from(value != if now % 2 == 1 { now } else { 0 });
                last = now;
                tell.store(now, Ordering::Release);
            }
        }
    })?;
    for now in 1..=2 * ROUNDS {
        if now % 2 == 1 {
            region.write(0, &now.to_le_bytes())?;
        } else {
            region.decommit(0, PAGE)?;
        }
        round.store(now, Ordering::Release);
        let end = soon();
        while seen.load(Ordering::Acquire) != now {
            check!(holm_rt::time::now() < end.nanos() && !reader.is_done(), "the reader stopped in round {now}");
            holm_rt::thread::yield_now();
        }
    }
    round.store(u64::MAX, Ordering::Release);
    check_eq!(reader.join(soon())?.ok_or(Error::NotFound)??, 0);
    Ok(())
}

/// A thread on another processor writes to a page all the time; snapshots of it do not change any more.
fn stands_still(_: &World) -> Outcome {
    let region = Arc::new(Region::new(PAGE)?);
    let count = Arc::new(AtomicU64::new(0));
    let (tell, shared) = (Arc::clone(&count), Arc::clone(&region));
    let writer = ThreadBuilder::default().affinity(elsewhere()).spawn(move || -> Result<(), Error> {
        let mapping = shared.map(READ_WRITE)?;
        let word = mapping.atomic_u64(0)?;
        while tell.load(Ordering::Acquire) != u64::MAX {
            word.fetch_add(1, Ordering::Relaxed);
            let _now = tell.fetch_max(word.load(Ordering::Relaxed), Ordering::AcqRel);
        }
        Ok(())
    })?;
    let more_than = |last: u64| {
        let end = soon();
        while count.load(Ordering::Acquire) <= last {
            check!(holm_rt::time::now() < end.nanos() && !writer.is_done(), "the writer stopped after {last}");
            holm_rt::thread::yield_now();
        }
        Ok(())
    };
    let value = |region: &Region| -> Result<u64, Error> {
        let mut bytes = [0; 8];
        region.read(0, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    };
    for _ in 0..200 {
        let snapshot = region.snapshot()?;
        let (first, written) = (value(&snapshot)?, count.load(Ordering::Acquire));
        more_than(written)?;
        check_eq!(value(&snapshot)?, first);
    }
    count.store(u64::MAX, Ordering::Release);
    writer.join(soon())?.ok_or(Error::NotFound)??;
    Ok(())
}
