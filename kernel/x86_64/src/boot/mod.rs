//! Boot: from the loader to the first thread.
//!
//! [`entry`] turns on long mode and calls [`start`] here, which makes, in this order: the console, the memory map
//! ([`pvh`]), the list of processors ([`processors`]), the kernel's page tables, the heap, this processor's own things, the
//! clock, the other processors ([`start_cpu`]), and at last the core's kernel, which it enters for the first time.

mod entry;
mod processors;
mod pvh;
mod start_cpu;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::ptr::NonNull;

use holm_kernel_core::kernel::BootInfo;
use holm_kernel_core::machine::{Halt, Nanos};
use holm_kernel_core::{CpuId, Kernel};

use crate::cpu::{self, Features};
use crate::machine::X86;
use crate::memory::boot_frames::{BootFrames, OutOfMemory};
use crate::memory::paging::{KernelSpace, Kind};
use crate::memory::space::Spaces;
use crate::memory::{DIRECT, KERNEL, PAGE, Physical, heap, image};
use crate::percpu::PerCpu;
use crate::serial::{self, say};
use crate::time::calibrate::Calibration;
use crate::time::clock::Clock;
use crate::time::rtc;
use crate::trap::{interrupts, leave, segments, stubs};
use crate::{apic, lock, power};
use processors::Processors;
use pvh::Loader;

/// The heap gets this part of memory, within the bounds below.
const HEAP_PART: u64 = 16;
const HEAP_LEAST: u64 = 2 << 20;
const HEAP_MOST: u64 = 256 << 20;
/// The interrupt line of the serial console.
const SERIAL_LINE: u32 = 4;

/// Says why the machine cannot boot and what to do, and ends.
fn cannot_boot(why: impl fmt::Display, hint: &str) -> ! {
    say!("holm: cannot boot: {why}");
    say!("hint: {hint}");
    power::stop(Halt::PowerOff(power::CANNOT_BOOT))
}

/// As above, for want of memory.
fn no_memory(frames: u64) -> ! {
    cannot_boot(format_args!("{} KiB of memory are too little", frames / 1024), "give the machine at least 16 MiB")
}

/// The first Rust, on boot's stack, with the boot tables loaded: `info` is the physical address of the start information,
/// `began` the time stamp counter at the first instruction.
extern "C" fn start(info: u64, began: u64) -> ! {
    serial::start();
    let features = Features::read();
    // SAFETY: one processor runs.
    unsafe { interrupts::fill() };
    let loader =
        Loader::new(info).unwrap_or_else(|why| cannot_boot(why, "start the kernel with a loader that knows PVH"));
    let archive =
        loader.archive().unwrap_or_else(|why| cannot_boot(why, "start the kernel with a loader that knows PVH"));
    let processors = Processors::find(loader.acpi());
    let mut frames = BootFrames::new();
    let image = image();
    for (start, length) in loader.memory() {
        frames.add(start, length);
    }
    let total = frames.total();
    frames.reserve(image.start - KERNEL, image.end - KERNEL);
    for (start, end) in loader.taken().into_iter().chain(archive) {
        frames.reserve(start, end);
    }
    let Ok(memory) = Memory::make(&mut frames, &loader, archive, &processors, features) else { no_memory(total) };
    let command_line: Vec<u8> = loader.command_line().collect();

    // The boot tables, and with them the loader's information, are left here.
    // SAFETY: the root maps the whole kernel, this stack with it, as what it is.
    unsafe { cpu::load_root(memory.root.0) };
    if !features.x2apic {
        apic::use_memory(memory.local_apic);
    }
    // SAFETY: called once, on the kernel's own tables.
    unsafe { start_cpu::set_up(memory.first, features) };
    apic::mask_pic();
    let calibration = Calibration::begin(features);
    // SAFETY: the line of the serial port of every PC; the controller is mapped there.
    unsafe { apic::route(memory.io_apic, SERIAL_LINE, memory.first.apic, apic::SERIAL) };
    let realtime = rtc::seconds();
    let (hertz, timer) = calibration.finish().unwrap_or_else(|_| {
        cannot_boot(
            "nothing says how fast the time stamp counter counts",
            "give the machine a PIT, or a processor that tells its rate (CPUID 0x15 or 0x40000010)",
        )
    });
    let clock: &'static Clock = Box::leak(Box::new(Clock::new(began, hertz, timer)));
    clock.start_timer();
    let cpus = start_others(&memory, clock);
    say!(
        "holm {}: {} of {} processors, {} MiB of memory, {} MiB free",
        env!("CARGO_PKG_VERSION"),
        cpus,
        memory.others.len() + 1,
        total >> 20,
        frames.free() >> 20,
    );
    let realtime = Nanos(realtime.unwrap_or(0).saturating_mul(1_000_000_000).saturating_sub(clock.now().0));
    let machine = X86::new(cpus, features, clock, realtime, Spaces::new(memory.root));
    let archive = archive.map(|(start, end)| {
        // SAFETY: the archive is memory that boot has taken out of what it gives away, in the direct map for good.
        unsafe { core::slice::from_raw_parts(Physical(start).direct::<u8>().cast_const(), (end - start) as usize) }
    });
    let info = BootInfo { memory: frames.left().collect(), archive, command_line, heap: memory.heap };
    let kernel = Kernel::new(machine, &info).unwrap_or_else(|why| {
        cannot_boot(why, "make a boot archive with `cargo xtask kernel build` and give it as -initrd")
    });
    // SAFETY: this is boot, once.
    let mut kernel = unsafe { lock::start(kernel) };
    let next = kernel.kicked(memory.first.id);
    stubs::first_exit(leave::leave(kernel, memory.first, next))
}

/// What boot makes of memory.
struct Memory {
    root: Physical,
    local_apic: u64,
    io_apic: u64,
    /// Bytes of the heap.
    heap: u64,
    first: &'static PerCpu,
    others: Vec<&'static PerCpu>,
}

impl Memory {
    /// Makes the kernel's page tables (not yet loaded), the heap, and what each processor has for itself.
    fn make(
        frames: &mut BootFrames,
        loader: &Loader,
        archive: Option<(u64, u64)>,
        processors: &Processors,
        features: Features,
    ) -> Result<Self, OutOfMemory> {
        let size =
            (frames.total() / HEAP_PART).clamp(HEAP_LEAST, HEAP_MOST).min(frames.largest_low() / 2) / PAGE * PAGE;
        let heap_at = frames.take(size / PAGE)?;
        // SAFETY: just taken for good, and in the direct map: by the boot tables now, by the kernel's later.
        unsafe { heap::start(heap_at.direct(), size as usize) };
        let mut space = KernelSpace::new(frames, features.huge_pages)?;
        let image = image();
        for (start, length) in loader.memory() {
            space.map_direct(start, start.saturating_add(length), image)?;
        }
        // Some firmware puts the archive partly into memory that it reserves.
        let in_memory = |at: u64| loader.memory().any(|(start, length)| at >= start && at - start < length);
        let (start, end) = archive.unwrap_or_default();
        for at in (start / PAGE..end.div_ceil(PAGE)).map(|page| page * PAGE).filter(|at| !in_memory(*at)) {
            space.map(DIRECT + at, Physical(at), Kind::Data)?;
        }
        space.map_image(image)?;
        let local_apic = space.map_device(0, apic::address())?;
        let io_apic = space.map_device(1, processors.io_apic)? + processors.io_apic % PAGE;
        let mut cpus = Vec::new();
        // The processor that runs this is the first. Before its controller is set up, only CPUID says which one it is.
        let here = core::arch::x86_64::__cpuid(1).ebx >> 24;
        let others = processors.apics().iter().copied().filter(|apic| *apic != here);
        for (number, apic) in core::iter::once(here).chain(others).enumerate() {
            cpus.try_reserve(1).map_err(|_| OutOfMemory)?;
            cpus.push(processor(&mut space, number as u32, apic)?);
        }
        let others = cpus.split_off(1);
        let first = cpus.pop().ok_or(OutOfMemory)?;
        // Roots of user programs copy the kernel's entries once: no entry may come later.
        Ok(Self { root: space.root(), local_apic, io_apic, heap: size, first, others })
    }
}

/// Makes the stacks and the structure of a processor.
fn processor(space: &mut KernelSpace<'_>, number: u32, apic: u32) -> Result<&'static PerCpu, OutOfMemory> {
    for (start, pages) in segments::stacks(number) {
        for page in 0..pages {
            let frame = space.frame()?;
            space.map(start + page * PAGE, frame, Kind::Data)?;
        }
    }
    let at = space.frames(PerCpu::FRAMES)?;
    let at = NonNull::new(at.direct::<PerCpu>()).ok_or(OutOfMemory)?;
    // SAFETY: frames taken for good, enough for the structure, in the direct map and aligned to a page.
    Ok(unsafe { PerCpu::new(CpuId(number), apic, segments::stack_end(number, 0)).publish(at) })
}

/// Starts the other processors and says how many run in all. One that does not answer ends the count: numbers have no gaps.
fn start_others(memory: &Memory, clock: &'static Clock) -> u32 {
    let mut running = 1;
    for cpu in &memory.others {
        if !start_cpu::start(cpu, memory.root, clock) {
            say!(
                "holm: processor {} (APIC {}) does not start; it and those after it are left alone",
                cpu.id.0,
                cpu.apic
            );
            break;
        }
        running += 1;
    }
    running
}
