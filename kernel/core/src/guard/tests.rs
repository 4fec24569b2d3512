//! Each guard sees what it is there for, once, and a healthy kernel gives no cause.

use std::string::String;
use std::vec::Vec;

use holm_abi::{ConfigFlags, Error, KernelConfig, TraceKind};

use super::Knobs;
use crate::kernel::Kernel;
use crate::machine::{CpuId, FrameNumber, Machine, Nanos};
use crate::sched::{Params, attention};
use crate::sim::SimMachine;
use crate::testing::memory::boot_info;
use crate::testing::world::World;
use crate::trace::tests::{reader, records};

const MS: u64 = 1_000_000;
const OFF: Knobs = Knobs {
    scrubber: false,
    scrub_pages: 1000,
    watchdog: false,
    watchdog_ms: 20,
    text_check: false,
    text_check_seconds: 1,
};

/// A kernel on `cpus` processors with these knobs, whose findings are recorded.
fn kernel(cpus: u32, knobs: Knobs) -> Kernel<SimMachine> {
    let mut machine = SimMachine::new(cpus);
    machine.text = (0..10_000u32).map(|at| (at * 7) as u8).collect();
    let mut kernel = Kernel::new(machine, &boot_info()).unwrap();
    for cpu in (0..cpus).map(CpuId) {
        kernel.kicked(cpu);
    }
    let root = kernel.units.iter().next().unwrap().0;
    reader(&mut kernel, root, &[TraceKind::Finding]);
    turn(&mut kernel, knobs);
    kernel
}

fn turn(kernel: &mut Kernel<SimMachine>, knobs: Knobs) {
    kernel.arrive(CpuId(0));
    kernel.config.guards = knobs;
    kernel.guards_renew();
    kernel.leave(CpuId(0));
}

/// Lets time pass on the first `cpus` processors; the others do nothing, whatever they are asked.
fn pass(kernel: &mut Kernel<SimMachine>, cpus: u32, length: u64) {
    let end = kernel.now().after(Nanos(length));
    loop {
        for cpu in (0..cpus).map(CpuId) {
            if kernel.machine.take_kick_of(cpu) {
                kernel.kicked(cpu);
            }
        }
        let (next, cpu) = (0..cpus).map(|cpu| (kernel.machine.timer(CpuId(cpu)), CpuId(cpu))).min().unwrap();
        let now = kernel.now();
        if next > end {
            return kernel.machine.advance(end.since(now));
        }
        kernel.machine.advance(next.since(now));
        kernel.machine.set_timer(cpu, Nanos::NEVER);
        kernel.timer(cpu);
    }
}

fn findings(kernel: &Kernel<SimMachine>) -> Vec<[u64; 4]> {
    records(kernel, TraceKind::Finding)
}

fn last_line(kernel: &Kernel<SimMachine>) -> String {
    let line = kernel.trace.log.line(kernel.trace.log.written() - 1).unwrap();
    String::from_utf8(line.text().to_vec()).unwrap()
}

/// A frame that was used and given back.
fn used_frame(kernel: &mut Kernel<SimMachine>) -> FrameNumber {
    let frame = kernel.frames.take(&kernel.machine).unwrap();
    kernel.machine.frame_write(frame, 0, b"a secret at the beginning");
    kernel.machine.frame_write(frame, 3000, b"and one behind it");
    kernel.frames.give(&mut kernel.machine, frame);
    frame
}

#[test]
fn freed_frames_are_cleared_and_a_changed_one_is_found_and_never_used() {
    let mut kernel = kernel(1, Knobs { scrubber: true, ..OFF });
    let frames: Vec<FrameNumber> = (0..5).map(|_| kernel.frames.take(&kernel.machine).unwrap()).collect();
    for frame in &frames {
        kernel.machine.frame_write(*frame, 0, &[0xee; 4096]);
        kernel.frames.give(&mut kernel.machine, *frame);
    }
    let free = kernel.frames.free();
    pass(&mut kernel, 1, 50 * MS);
    assert!(kernel.guards.scrubbed >= 20, "{}", kernel.guards.scrubbed);
    for frame in &frames {
        let mut bytes = [1; 4096];
        kernel.machine.frame_read(*frame, 0, &mut bytes);
        assert!(bytes[8..].iter().all(|byte| *byte == 0), "{frame:?} is clear");
    }
    assert_eq!((findings(&kernel), kernel.frames.free()), (Vec::new(), free));
    let bad = frames[2];
    kernel.machine.frame_write(bad, 1234, &[0x10]);
    pass(&mut kernel, 1, 50 * MS);
    assert_eq!(findings(&kernel), [[1, u64::from(bad.0), 1234, 0]]);
    let told = std::format!("free frame {:#x} was changed at byte 1234: it is used no more", bad.0);
    assert_eq!(last_line(&kernel), told);
    assert_eq!(kernel.frames.free(), free - 1);
    let rest: Vec<FrameNumber> = core::iter::from_fn(|| kernel.frames.take(&kernel.machine)).collect();
    assert_eq!(rest.len() as u64, free - 1);
    assert!(!rest.contains(&bad), "the changed frame was used again");
    assert!(frames.iter().all(|frame| *frame == bad || rest.contains(frame)), "cleared frames are used again");
}

#[test]
fn a_broken_list_of_cleared_frames_is_cut_off() {
    let mut kernel = kernel(1, Knobs { scrubber: true, ..OFF });
    let frames: Vec<FrameNumber> = (0..4).map(|_| kernel.frames.take(&kernel.machine).unwrap()).collect();
    frames.iter().for_each(|frame| kernel.frames.give(&mut kernel.machine, *frame));
    let free = kernel.frames.free();
    pass(&mut kernel, 1, 4 * MS);
    // Not the last one: its link is written anew when another comes behind it.
    kernel.machine.frame_write(frames[2], 0, &77u32.to_le_bytes());
    pass(&mut kernel, 1, 50 * MS);
    let lost = match findings(&kernel).as_slice() {
        [[1, u64::MAX, lost, 0]] => *lost,
        other => panic!("{other:?}"),
    };
    assert!((1..=4).contains(&lost), "{lost} frames are lost");
    assert_eq!(kernel.frames.free(), free - lost);
    let mut rest: Vec<FrameNumber> = core::iter::from_fn(|| kernel.frames.take(&kernel.machine)).collect();
    assert_eq!(rest.len() as u64, free - lost);
    rest.sort_unstable();
    rest.dedup();
    assert_eq!(rest.len() as u64, free - lost, "a frame has two owners");
}

#[test]
fn without_a_scrubber_frames_stay_as_they_are() {
    let mut kernel = kernel(1, OFF);
    let frame = used_frame(&mut kernel);
    pass(&mut kernel, 1, 1000 * MS);
    let mut bytes = [0; 3];
    kernel.machine.frame_read(frame, 3000, &mut bytes);
    assert_eq!(&bytes, b"and");
}

#[test]
fn changed_text_is_found_once() {
    let mut kernel = kernel(1, Knobs { text_check: true, ..OFF });
    pass(&mut kernel, 1, 3500 * MS);
    assert_eq!((kernel.guards.text_checks, findings(&kernel)), (4, Vec::new()));
    kernel.machine.text[9000] ^= 4;
    pass(&mut kernel, 1, 3000 * MS);
    let found = findings(&kernel);
    assert!(matches!(found.as_slice(), [[5, 8192, known, seen]] if known != seen), "{found:?}");
    assert_eq!(last_line(&kernel), "the kernel's text has changed within 4096 bytes from offset 0x2000");
}

#[test]
fn a_processor_that_stays_in_the_kernel_is_found() {
    let mut kernel = kernel(1, Knobs { watchdog: true, ..OFF });
    kernel.machine.console_pace = Nanos(MS);
    for bytes in [10, 30] {
        kernel.arrive(CpuId(0));
        kernel.machine.console_write(&[b'x'; 64][..bytes]);
        kernel.leave(CpuId(0));
    }
    assert_eq!(findings(&kernel), [[3, 0, 30 * MS, 0]]);
    assert_eq!(last_line(&kernel), "processor 0 was in the kernel for 30 ms");
}

#[test]
fn a_processor_that_does_not_answer_is_found() {
    let mut kernel = kernel(2, Knobs { watchdog: true, ..OFF });
    pass(&mut kernel, 2, 100 * MS);
    assert_eq!(findings(&kernel), Vec::<[u64; 4]>::new());
    let asked = kernel.now();
    kernel.arrive(CpuId(0));
    kernel.attend(CpuId(1), attention::TIMER);
    kernel.leave(CpuId(0));
    pass(&mut kernel, 1, 100 * MS);
    let found = findings(&kernel);
    let silent = match found.as_slice() {
        [[2, 1, silent, 0]] => *silent,
        other => panic!("{other:?}"),
    };
    assert!(silent > 20 * MS && silent <= kernel.now().since(asked).0, "{silent}");
    // It comes back, and is not told of again.
    pass(&mut kernel, 2, 100 * MS);
    assert_eq!(findings(&kernel), found);
}

#[test]
fn a_thread_that_starves_is_found_and_one_in_the_background_is_not() {
    let mut world = World::new(1);
    let unit = world.unit;
    reader(&mut world.kernel, unit, &[TraceKind::Finding]);
    world.inside(|kernel| {
        kernel.config.guards = Knobs { watchdog: true, ..OFF };
        kernel.guards_renew();
    });
    let fair = world.spawn(Params::default(), u64::MAX);
    let _background = world.spawn(Params { class: crate::sched::Class::Background, ..Params::default() }, u64::MAX);
    world.run_until(Nanos(100 * MS), |_, _, _| {});
    assert_eq!(findings(&world.kernel), Vec::<[u64; 4]>::new());
    let spinner = world.spawn(Params::fixed(5), u64::MAX);
    world.run_until(Nanos(300 * MS), |_, _, _| {});
    let found = findings(&world.kernel);
    let [[4, thread, waited, of]] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((*thread, *of), (fair.number(), unit.number()));
    assert!((20 * MS..=40 * MS).contains(waited), "{waited}");
    world.block(spinner, Nanos::NEVER);
    world.run_until(Nanos(400 * MS), |_, _, _| {});
    assert_eq!(findings(&world.kernel).len(), 1);
}

#[test]
fn a_healthy_kernel_gives_no_cause() {
    let on = Knobs { scrubber: true, watchdog: true, text_check: true, ..OFF };
    for cpus in [1, 3] {
        let mut kernel = kernel(cpus, on);
        for _ in 0..10 {
            used_frame(&mut kernel);
            pass(&mut kernel, cpus, 500 * MS);
        }
        assert_eq!(kernel.guards.findings, 0, "{}", last_line(&kernel));
        assert!(kernel.guards.scrubbed > 1000 && kernel.guards.text_checks >= 4);
        turn(&mut kernel, OFF);
        pass(&mut kernel, cpus, 0);
        let before = (kernel.guards.scrubbed, kernel.guards.text_checks);
        pass(&mut kernel, cpus, 5000 * MS);
        assert_eq!((kernel.guards.scrubbed, kernel.guards.text_checks), before, "switched off");
    }
}

#[test]
fn a_scrubber_that_is_always_due_lets_the_others_have_their_turn() {
    let knobs = Knobs { scrubber: true, scrub_pages: 40_000, watchdog: true, text_check: true, ..OFF };
    let mut kernel = kernel(1, knobs);
    used_frame(&mut kernel);
    for _ in 0..4000 {
        // The processor is slower than the scrubber is asked to be.
        kernel.machine.advance(Nanos(MS));
        kernel.timer(CpuId(0));
    }
    assert!(kernel.guards.text_checks >= 2, "{}", kernel.guards.text_checks);
    assert!(kernel.guards.scrubbed > 1000, "{}", kernel.guards.scrubbed);
}

#[test]
fn knobs_have_ranges() {
    let fine = KernelConfig {
        flags: ConfigFlags::ALL,
        scrub_pages: 100,
        watchdog_ms: 1000,
        text_check_seconds: 60,
        ..KernelConfig::new()
    };
    assert!(Knobs::of(&fine).is_ok());
    for wrong in [
        KernelConfig { scrub_pages: 0, ..fine },
        KernelConfig { scrub_pages: 40_001, ..fine },
        KernelConfig { watchdog_ms: 9, ..fine },
        KernelConfig { watchdog_ms: 3_600_001, ..fine },
        KernelConfig { text_check_seconds: 0, ..fine },
        KernelConfig { text_check_seconds: 86_401, ..fine },
    ] {
        assert_eq!(Knobs::of(&wrong), Err(Error::Invalid), "{wrong:?}");
        assert!(Knobs::of(&KernelConfig { flags: ConfigFlags::NONE, ..wrong }).is_ok(), "what is off is not checked");
    }
}
