//! What this program does as a child of a test.

use alloc::vec::Vec;

use holm_rt::abi::{Protection, ThreadAttr, ThreadAttrMask};
use holm_rt::{Channel, Deadline, Region, println, startup};

/// The program's beginning.
pub(crate) fn begin() -> i32 {
    let arguments: Vec<&str> = startup::arguments().collect();
    match arguments.get(1..).unwrap_or_default() {
        [] => i32::from(crate::harness::run(&[]) > 0),
        ["run", words @ ..] => i32::from(crate::harness::run(words) > 0),
        ["exit", code] => code.parse().unwrap_or(99),
        ["arguments", rest @ ..] => arguments_arrived(rest),
        ["fault", kind] => fault(kind),
        ["spin"] => loop {
            core::hint::spin_loop();
        },
        ["sleep"] => loop {
            let _woken = holm_rt::time::sleep_until(Deadline::NEVER);
        },
        ["echo"] => echo(),
        ["agent"] => crate::agent::serve(),
        ["threads", count] => many_threads(count.parse().unwrap_or(0)),
        ["hog"] => hog(),
        ["worker"] => worker(),
        ["laden"] => crate::pieces::laden(),
        ["large", words @ ..] => crate::large::arrived(words),
        ["sender"] => crate::large::send_for_ever(),
        ["starved", what] => crate::starved::child(what),
        ["guest", what] => crate::restricted::hostile::child(what),
        ["fuzz", seed, count] => crate::fuzz::child(seed.parse().unwrap_or(1), count.parse().unwrap_or(0)),
        _ => {
            println!("usage: tests run [NAME…]");
            64
        }
    }
}

/// 0 when arguments and environment are those that `units::arguments_environment_and_caps_arrive` gave.
fn arguments_arrived(rest: &[&str]) -> i32 {
    if rest != ["one", "", "three words here"] {
        return 1;
    }
    if startup::variable("COLOUR") != Some("blue") || startup::variable("EMPTY") != Some("") {
        return 2;
    }
    if startup::initial_named("second") != Some(holm_rt::Handle::initial(3)) {
        return 3;
    }
    if startup::initial().count() != 2 || startup::variable("ABSENT").is_some() {
        return 4;
    }
    0
}

/// Does what no program may do.
fn fault(kind: &str) -> i32 {
    static CONSTANT: [u8; 16] = [7; 16];
    // SAFETY: none of these accesses and instructions is sound, and none returns: they are there for the kernel to end this
    // unit, which has nothing that anybody needs.
    unsafe {
        match kind {
            "read" => _ = core::ptr::without_provenance::<u8>(8).read_volatile(),
            "write" => core::ptr::from_ref(&CONSTANT).cast_mut().cast::<u8>().write_volatile(1),
            "kernel" => _ = core::ptr::without_provenance::<u8>(0xffff_ffff_8000_0000).read_volatile(),
            "execute" => {
                let stack = [0xc3u8; 16];
                core::arch::asm!("call {}", in(reg) core::ptr::from_ref(&stack), clobber_abi("C"));
            }
            "noncanonical" => core::arch::asm!("mov rax, 0x800000000000", "jmp rax", options(noreturn)),
            "illegal" => core::arch::asm!("ud2", options(noreturn)),
            "privileged" => core::arch::asm!("cli"),
            "port" => core::arch::asm!("out 0xf4, al", in("al") 0u8),
            "divide" => core::arch::asm!("div {0:e}", in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _),
            "breakpoint" => core::arch::asm!("int3"),
            "stack" => return deep(0) as i32,
            _ => {}
        }
    }
    98
}

/// Uses up the stack.
#[inline(never)]
#[expect(unconditional_recursion, reason = "it ends in the guard page")]
fn deep(level: u64) -> u64 {
    let room = core::hint::black_box([level; 64]);
    deep(level + 1) + room.iter().sum::<u64>()
}

/// Answers every call with the same payload until the callers are gone.
fn echo() -> i32 {
    let Some(channel) = startup::take_named::<Channel>("serve") else { return 3 };
    let mut reply = None;
    let mut payload = Vec::new();
    loop {
        match channel.reply_receive(reply.take(), &payload, 4096, Deadline::NEVER) {
            Ok(message) => {
                reply = message.reply;
                payload = message.payload;
            }
            Err(_) => return 0,
        }
    }
}

/// Starts threads up to the quota: answers how many it got.
fn many_threads(count: usize) -> i32 {
    let mut threads = Vec::new();
    for _ in 0..count {
        match holm_rt::thread::spawn(|| holm_rt::time::sleep_until(Deadline::NEVER)) {
            Ok(thread) => threads.push(thread),
            Err(holm_rt::Error::Quota) => break,
            Err(error) => return 1000 + error.code(),
        }
    }
    threads.len() as i32
}

/// Touches memory until there is no more.
fn hog() -> i32 {
    let Ok(region) = Region::new(1 << 32) else { return 3 };
    let Ok(mapping) = region.map(Protection::READ | Protection::WRITE) else { return 4 };
    for offset in (0..1u64 << 32).step_by(4096) {
        if mapping.write(offset, &[1]).is_err() {
            return 5;
        }
    }
    6
}

/// Counts up a number in the shared region `count` for ever, on processor 0.
fn worker() -> i32 {
    let attr = ThreadAttr { mask: ThreadAttrMask::AFFINITY, affinity: 1, ..ThreadAttr::new() };
    if holm_rt::sys::thread_set_attr(holm_rt::Handle::NONE, &attr).is_err() {
        return 6;
    }
    let Some(region) = startup::take_named::<Region>("count") else { return 3 };
    let Ok(mapping) = region.map(Protection::READ | Protection::WRITE) else { return 4 };
    let Ok(count) = mapping.atomic_u64(0) else { return 5 };
    loop {
        count.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
    }
}
