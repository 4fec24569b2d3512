//! Restricted mode against those who mean harm: states of rubbish, guests that reach out, ends in the middle.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use holm_rt::abi::{Error, MapFlags, MapSpec, RestrictedReason, RestrictedState, limits, number};
use holm_rt::{Guest, Mapping, Object, Region, Space, sys, thread, time};

use super::personality::{CODE, PAGE, Process, READ_WRITE, STACK};
use super::{code, guest, run};
use crate::harness::{Outcome, World, check, check_eq, must_answer, soon};

/// A guest whose state this test writes as it likes, through the second mapping.
fn with_open_state(space: &Space, region: &Region, offset: u64) -> Result<(Guest, Mapping), Error> {
    let spec = MapSpec { offset, bytes: PAGE, protection: READ_WRITE, ..MapSpec::new() };
    let (own, other) = (region.map_with(&spec)?, region.map_with(&spec)?);
    // SAFETY: `other` writes `fault_return` only while no copy of guest memory is made.
    let guest = unsafe { Guest::bind(space.handle(), region.handle(), offset, own)? };
    Ok((guest, other))
}

/// A generator of rubbish (SplitMix64).
struct Rubbish(u64);

impl Rubbish {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

pub(super) fn states(_: &World) -> Outcome {
    let process = Process::new(code::calls())?;
    let region = Region::new(2 * PAGE)?;
    let enter = number::restricted_enter;
    {
        let (mut guest, _) = with_open_state(&process.space, &region, PAGE)?;
        let wrong: [fn(&mut RestrictedState); 8] = [
            |state| state.rip = 0x8000_0000_0000,
            |state| state.rip = limits::USER_END,
            |state| state.rip = u64::MAX,
            |state| state.rsp = 0xffff_8000_0000_0000,
            |state| state.rsp = 0x8000_0000_0000,
            |state| state.fs_base = 0xffff_8000_0000_0000,
            |state| state.gs_base = 0x0000_8000_0000_0000,
            |state| state.gs_base = u64::MAX,
        ];
        for change in wrong {
            let mut state = process.start();
            change(&mut state);
            must_answer(enter, Error::Fault, run(&mut guest, &state).map(drop))?;
        }
        for wrong in [limits::USER_END, 0x8000_0000_0000, u64::MAX] {
            // SAFETY: it is refused, so nothing runs.
            must_answer(enter, Error::Invalid, unsafe { sys::restricted_enter(wrong, 0) })?;
        }
        // The last bytes that are allowed.
        let visit = run(&mut guest, &RestrictedState { rip: limits::USER_END - 1, ..process.start() })?;
        check_eq!((visit.reason, visit.state.vector), (RestrictedReason::Exception, 14));
        // An instruction that ends where the last page of the half does: the next one is the personality's, out of reach.
        check_eq!(guest.read(limits::USER_HALF - 1, &mut [0]), Err(Error::Fault));
    }
    let mut rubbish = Rubbish(2026);
    let (mut guest, page) = with_open_state(&process.space, &region, 0)?;
    let (mut entered, mut refused) = (0, 0);
    for round in 0..600 {
        for at in (0..RestrictedState::SIZE as u64).step_by(8) {
            let word = rubbish.next();
            // Most random addresses are refused at once: half of the rounds have none of those.
            let word = if round % 2 == 0 || at >= 160 { word } else { word & 0x3fff_ffff_ffff };
            let word = if round % 4 == 1 && at == 128 { CODE } else { word };
            page.write(at, &word.to_le_bytes())?;
        }
        match guest.enter_briefly() {
            Ok(RestrictedReason::Exception | RestrictedReason::Syscall) => entered += 1,
            Err(Error::Fault) => refused += 1,
            other => check!(false, "round {round}: {other:?}"),
        }
    }
    check!(entered > 100 && refused > 100, "{entered} entered, {refused} refused");
    Ok(())
}

pub(super) fn scribbled(_: &World) -> Outcome {
    let process = Process::new(code::calls())?;
    let region = Region::new(PAGE)?;
    let (mut guest, page) = with_open_state(&process.space, &region, 0)?;
    let over = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&over);
    let scribbler = thread::spawn(move || {
        let mut rubbish = Rubbish(1);
        while !stop.load(Ordering::Relaxed) {
            let word = rubbish.next();
            let at = word % (RestrictedState::SIZE as u64 / 8) * 8;
            page.write(at, &rubbish.next().to_le_bytes())?;
        }
        Ok::<_, Error>(())
    })?;
    let until = time::now() + 30_000_000;
    let mut visits = 0;
    while time::now() < until || visits < 100 {
        match run(&mut guest, &process.start()) {
            // Its copy of the state may be rubbish of the scribbler's, down to the reason.
            Ok(_) | Err(Error::Fault | Error::Invalid) => visits += 1,
            other => check!(false, "{other:?}"),
        }
    }
    over.store(true, Ordering::Relaxed);
    scribbler.join(soon())?.ok_or(Error::BadState)??;
    let visit = run(&mut guest, &process.start())?;
    check_eq!(visit.reason, RestrictedReason::Syscall);
    // The page of the state stays as long as it is bound, whatever becomes of its region.
    must_answer(number::vm_decommit, Error::BadState, region.decommit(0, PAGE))?;
    must_answer(number::vm_snapshot, Error::BadState, region.snapshot().map(drop))?;
    region.revoke()?;
    drop(region);
    // Its mapping went with the capability: only entering is left, and the state in the page is the last one.
    check_eq!(guest.enter_briefly()?, RestrictedReason::Syscall);
    Ok(())
}

pub(super) fn reaches_nothing(_: &World) -> Outcome {
    let process = Process::new(code::reads())?;
    let mut guest = guest(&process)?;
    let local = 1234_u64;
    let mine = [
        core::ptr::from_ref(&local) as u64,
        code::reads().as_ptr() as u64,
        limits::USER_HALF,
        limits::USER_END - PAGE,
        0x7fff_ffff_fff8,
        0xffff_8000_0000_0000,
        0xffff_ffff_8000_0000,
        0xffff_ffff_ffff_fff8,
    ];
    for rdi in mine {
        let visit = run(&mut guest, &RestrictedState { rdi, rax: 5, ..process.start() })?;
        check_eq!((visit.reason, visit.state.vector, visit.state.rax), (RestrictedReason::Exception, 14, 5));
        check_eq!(visit.state.fault_address, rdi);
    }
    // Nothing of the personality can be mapped below, and nothing of the guest above.
    let region = Region::new(PAGE)?;
    let spec = MapSpec { address: 0x5000_0000, flags: MapFlags::FIXED, protection: READ_WRITE, ..MapSpec::new() };
    // SAFETY: nothing of this program lies there, and the kernel refuses it.
    let mapped = unsafe { sys::vm_map(holm_rt::Handle::NONE, region.handle(), &spec) };
    must_answer(number::vm_map, Error::NotPermitted, mapped.map(drop))?;
    let spec = MapSpec { address: limits::USER_HALF, ..spec };
    must_answer(number::vm_map, Error::Invalid, process.space.map(&region, &spec).map(drop))?;
    // The personality's own system calls know only its own half.
    process.memory.write(STACK - PAGE, b"secret")?;
    guest.read(STACK - PAGE, &mut [0; 6])?;
    // SAFETY: the address is the guest's; the kernel does not follow it.
    let answer = unsafe { sys::raw(number::vm_region_create, [STACK - PAGE, 0, 0, 0, 0, 0]) };
    check_eq!(answer.result(), Err(Error::Fault));
    Ok(())
}

/// What a thread in a guest that spins leaves when it is killed there.
pub(super) fn killed_thread(world: &World) -> Outcome {
    // What it held in memory, its closure and its handles, stays by design until its unit's end. So in a child.
    let once = || -> Outcome {
        let unit = world.child("guest", &["killed"]).start()?;
        check_eq!(unit.wait(soon())?.exit_code, 0);
        Ok(())
    };
    once()?;
    let before = world.inventory()?;
    for _ in 0..4 {
        once()?;
    }
    check_eq!(world.inventory()?, before);
    Ok(())
}

pub(super) fn killed_unit(world: &World) -> Outcome {
    let once = || -> Outcome {
        let unit = world.child("guest", &["spins"]).start()?;
        let until = soon();
        while unit.info()?.cpu_time < 2_000_000 {
            check!(time::now() < until.nanos(), "the guest does not run");
            time::sleep(Duration::from_millis(1))?;
        }
        unit.kill(9)?;
        let info = unit.wait(until)?;
        check_eq!((info.exit_code, info.threads), (9, 0));
        // Regions that only its guests showed go a few steps after its end is told.
        while unit.info()?.memory_bytes > 0 {
            check!(time::now() < until.nanos(), "{} bytes are left", unit.info()?.memory_bytes);
            time::sleep(Duration::from_millis(1))?;
        }
        Ok(())
    };
    once()?;
    let before = world.inventory()?;
    for _ in 0..4 {
        once()?;
    }
    check_eq!(world.inventory()?, before);
    // A personality that touches what its guest may not touch, without saying where to go on, ends.
    let unit = world.child("guest", &["touches"]).start()?;
    check_eq!(unit.wait(soon())?.exit_reason, holm_rt::abi::ExitReason::MemoryFault);
    Ok(())
}

/// The personality in a child of these tests.
pub(crate) fn child(what: &str) -> i32 {
    let run_it = || -> Result<i32, Error> {
        let process = Process::new(code::spins())?;
        match what {
            "spins" => {
                let mut guest = guest(&process)?;
                let _ended = run(&mut guest, &process.start())?;
                Ok(4)
            }
            "touches" => {
                let _guest = guest(&process)?;
                // SAFETY: no Rust memory is there; it is for the kernel to end this unit.
                let byte = unsafe { core::ptr::without_provenance::<u8>(0x7000_0000).read_volatile() };
                Ok(i32::from(byte) + 4)
            }
            _ => {
                let spinning = super::running(code::spins(), |_| true)?;
                let until = soon();
                while spinning.thread().info()?.cpu_time < 2_000_000 && time::now() < until.nanos() {
                    time::sleep(Duration::from_millis(1))?;
                }
                spinning.thread().kill(3)?;
                let info = spinning.thread().wait(until)?;
                Ok(if info.exit_code == 3 { 0 } else { 5 })
            }
        }
    };
    run_it().unwrap_or(6)
}
