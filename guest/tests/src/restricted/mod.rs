//! Restricted mode: guests of a small personality, and what hostile guests, states and kicks do.

mod code;
pub(crate) mod hostile;
mod personality;

use alloc::sync::Arc;
use core::time::Duration;

use holm_rt::abi::{Error, RestrictedReason, RestrictedState, ThreadState, limits, number};
use holm_rt::{Guest, JoinHandle, Space, Visit, sys, thread, time};

use crate::harness::{Failure, Outcome, Test, World, check, check_eq, eventually, must_answer, soon};
use personality::{CODE, Container, End, PAGE, Process, READ_WRITE, STACK};

pub(crate) const TESTS: &[Test] = &[
    ("restricted_guests_call_fork_and_exit", processes),
    ("restricted_registers_are_kept", registers),
    ("restricted_vector_registers_are_kept", vectors),
    ("restricted_exceptions_come_to_the_personality", exceptions),
    ("restricted_steps_and_flags_are_the_guests", single_steps),
    ("restricted_missing_pages_come_by_themselves", missing_pages),
    ("restricted_personality_reads_and_writes_its_guest", guest_memory),
    ("restricted_kick_brings_a_spinning_guest_back", kick_spinning),
    ("restricted_kicks_are_kept_and_do_not_add_up", kicks_latch),
    ("restricted_kick_interrupts_a_waiting_personality", kick_waiting),
    ("restricted_no_kick_is_lost", kicks_race),
    ("restricted_threads_share_a_space", two_threads),
    ("restricted_unmapped_pages_are_gone_at_once", unmapped),
    ("restricted_calls_in_the_wrong_state_are_refused", wrong_states),
    ("restricted_hostile_states_are_refused_or_harmless", hostile::states),
    ("restricted_state_is_written_while_the_guest_runs", hostile::scribbled),
    ("restricted_guest_reaches_nothing_of_the_personality", hostile::reaches_nothing),
    ("restricted_thread_killed_in_its_guest_leaks_nothing", hostile::killed_thread),
    ("restricted_unit_killed_in_its_guest_leaks_nothing", hostile::killed_unit),
];

/// A guest of the calling thread.
pub(crate) fn guest(process: &Process) -> Result<Guest, Error> {
    process.space.bind()
}

/// Runs the guest from a state.
pub(crate) fn run(guest: &mut Guest, state: &RestrictedState) -> Result<Visit, Error> {
    guest.set(state)?;
    guest.enter()
}

/// A thread that runs a guest: how often it was entered, and the last visit.
pub(crate) type Running = JoinHandle<Result<(u64, Visit), Error>>;

/// A thread that runs a guest with this program until `over` says so; what the last visit was.
pub(crate) fn running(code: &'static [u8], over: impl Fn(&Visit) -> bool + Send + 'static) -> Result<Running, Error> {
    thread::spawn(move || {
        let process = Process::new(code)?;
        let mut guest = guest(&process)?;
        let mut state = process.start();
        let mut visits = 0;
        loop {
            let visit = run(&mut guest, &state)?;
            visits += 1;
            if over(&visit) {
                return Ok((visits, visit));
            }
            state = visit.state;
        }
    })
}

/// What a thread answered.
pub(crate) fn joined<T>(thread: JoinHandle<Result<T, Error>>) -> Result<T, Failure> {
    thread.join(soon())?.ok_or(Failure("the thread ended without a result".into()))?.map_err(Failure::from)
}

/// Kicks a thread that may not be bound yet.
fn kick_when_bound<T>(thread: &JoinHandle<T>) -> Outcome {
    eventually("the thread to be bound", || match thread.thread().kick() {
        Err(Error::BadState) => Ok(false),
        kicked => kicked.map(|()| true),
    })
}

fn processes(_: &World) -> Outcome {
    let container = Arc::new(Container::default());
    let first = Process::new(code::everything())?;
    let mine = Arc::clone(&container);
    let end = joined(thread::spawn(move || mine.run(first))?)?;
    check_eq!(end, End::Exit(78));
    check_eq!(*container.ends.lock(), [(2, End::Exit(79)), (1, End::Exit(78))]);
    check_eq!(container.journal.lock().as_slice(), b"hello\n");
    Ok(())
}

/// A state with a different value in every register.
fn patterned(process: &Process) -> RestrictedState {
    let word = |n: u64| 0x0123_4567_89ab_cdef_u64.wrapping_mul(2 * n + 3);
    RestrictedState {
        rax: word(0),
        rbx: word(1),
        rcx: word(2),
        rdx: word(3),
        rsi: word(4),
        rdi: word(5),
        rbp: word(6),
        r8: word(8),
        r9: word(9),
        r10: word(10),
        r11: word(11),
        r12: word(12),
        r13: word(13),
        r14: word(14),
        r15: word(15),
        fs_base: STACK - PAGE,
        gs_base: STACK - 2 * PAGE,
        ..process.start()
    }
}

fn registers(_: &World) -> Outcome {
    let process = Process::new(code::calls())?;
    let mut guest = guest(&process)?;
    let before = patterned(&process);
    let mut state = before;
    for round in 1..=3 {
        let visit = run(&mut guest, &state)?;
        check_eq!(visit.reason, RestrictedReason::Syscall);
        // `inc` and `syscall`, then a jump of two bytes back to them. Flags are those of `inc`.
        let behind = CODE + 5;
        check_eq!((visit.state.rip, visit.state.rcx), (behind, behind));
        check_eq!(visit.state.r11, visit.state.rflags);
        let wanted = RestrictedState {
            rbx: before.rbx.wrapping_add(round),
            rcx: behind,
            r11: visit.state.rflags,
            rip: behind,
            rflags: visit.state.rflags,
            reason: RestrictedReason::Syscall,
            ..before
        };
        check_eq!(visit.state, wanted);
        state = visit.state;
    }
    let process = Process::new(code::bases())?;
    process.memory.write(STACK - PAGE + 8, &11_u64.to_le_bytes())?;
    process.memory.write(STACK - 2 * PAGE + 8, &12_u64.to_le_bytes())?;
    drop(guest);
    let mut guest = process.space.bind()?;
    let visit = run(&mut guest, &patterned(&process))?;
    check_eq!((visit.state.rax, visit.state.rbx), (11, 12));
    Ok(())
}

fn vectors(_: &World) -> Outcome {
    let mut process = Process::new(code::vectors())?;
    process.map(0x5000_0000, PAGE, READ_WRITE)?;
    let mut guest = guest(&process)?;
    let busy = running(code::vectors(), |visit| visit.reason != RestrictedReason::Syscall)?;
    let first = run(&mut guest, &RestrictedState { rax: 0x1122_3344_5566, rbx: 99, ..process.start() })?;
    check_eq!(first.reason, RestrictedReason::Syscall);
    // What the personality computes with vector registers, and threads that run meanwhile, must not show.
    let noise: f64 = (1..100).map(|n| core::hint::black_box(f64::from(n)) / 3.0).sum();
    time::sleep(Duration::from_millis(1))?;
    let second = run(&mut guest, &RestrictedState { rax: 0, rbx: 0, ..first.state })?;
    check_eq!(second.reason, RestrictedReason::Syscall);
    let state = second.state;
    check_eq!((state.rax, state.rbx, state.rdx, state.r12), (0x1122_3344_5566, 99, 0x7f80, 1));
    // The guest rounds to zero; the personality goes on rounding to the nearest.
    let tenth = core::hint::black_box(1.0_f64) / 10.0;
    check!((noise - 1650.0).abs() < 0.001 && tenth.to_bits() == 0x3fb9_9999_9999_999a, "rounding: {noise} {tenth}");
    // Its page is not mapped there.
    check_eq!(joined(busy)?.1.state.vector, 14);
    Ok(())
}

fn exceptions(_: &World) -> Outcome {
    let process = Process::new(code::exceptions())?;
    let mut guest = guest(&process)?;
    let upper = limits::USER_HALF + 0x40_0000;
    let page_fault = |code, address| (14, code, address);
    // rdi, then vector, error code and address.
    let cases = [
        (0, (0, 0, 0)),
        (0, (3, 0, 0)),
        (0, (6, 0, 0)),
        (0, (13, 0, 0)),
        (0, (13, 0x402, 0)),
        (0, page_fault(4, 8)),
        (0, page_fault(7, CODE + 6 * 16 + 7)),
        (0, page_fault(0x15, STACK - 16)),
        (0xffff_ffff_8000_0000, page_fault(5, 0xffff_ffff_8000_0000)),
        (0x8000_0000_0000, (13, 0, 0)),
        (0, (13, 0, 0)),
        (0, (13, 0, 0)),
        (0, (13, 0, 0)),
        (0, (13, 0, 0)),
        (0, (13, 0, 0)),
    ];
    for (place, (rdi, wanted)) in cases.into_iter().enumerate() {
        // Something of the stack must be there for the fetch from it to fail for its protection.
        let rip = CODE + 16 * place as u64;
        let start = RestrictedState { rip, rdi, rsp: STACK - 16, ..process.start() };
        let visit = run(&mut guest, &start)?;
        let state = visit.state;
        check_eq!((place, visit.reason), (place, RestrictedReason::Exception));
        let got = (state.vector, state.error_code, state.fault_address);
        let kernel = rdi >= 0xffff_8000_0000_0000 && (got.0, got.2) == (wanted.0, wanted.2);
        let fetch = wanted.1 == 0x15 && got.0 == 14 && got.1 | 1 == 0x15 && got.2 == wanted.2;
        check!(kernel || fetch || got == wanted, "case {place}: {got:x?} is not {wanted:x?}");
        check_eq!(state.rsp, start.rsp);
    }
    // A jump into the personality's half.
    let visit = run(&mut guest, &RestrictedState { rip: upper, ..process.start() })?;
    check_eq!((visit.state.vector, visit.state.fault_address, visit.state.rip), (14, upper, upper));
    Ok(())
}

fn single_steps(_: &World) -> Outcome {
    const TRAP: u64 = 0x100;
    let process = Process::new(code::spins())?;
    let mut guest = guest(&process)?;
    let mut state = RestrictedState { rflags: TRAP, rbx: 5, ..process.start() };
    for step in 1..=6_u64 {
        let visit = run(&mut guest, &state)?;
        check_eq!((visit.reason, visit.state.vector), (RestrictedReason::Exception, 1));
        check_eq!(visit.state.rbx, 5 + step.div_ceil(3));
        check_eq!(visit.state.rflags & 0x7_7300, TRAP | 0x200);
        state = visit.state;
    }
    // Flags that are not the guest's own are as they must be, whatever its state says.
    let process = Process::new(code::calls())?;
    drop(guest);
    let mut guest = process.space.bind()?;
    let visit = run(&mut guest, &RestrictedState { rflags: !TRAP, ..process.start() })?;
    check_eq!((visit.reason, visit.state.rflags & !0x4_0cd5), (RestrictedReason::Syscall, 0x202));
    Ok(())
}

fn missing_pages(_: &World) -> Outcome {
    let mut process = Process::new(code::reads())?;
    process.map(0x5000_0000, 1 << 30, READ_WRITE)?;
    let before = process.memory.info()?.committed_bytes;
    let mut guest = guest(&process)?;
    let mut state = process.start();
    for page in 0..64 {
        // Some behind 512 GiB of the root's first entries, so that tables of every level come too.
        state.rdi = 0x5000_0000 + page * 0x100_0000;
        let visit = run(&mut guest, &state)?;
        check_eq!((visit.reason, visit.state.rax), (RestrictedReason::Syscall, 0));
        state = visit.state;
    }
    check_eq!(process.memory.info()?.committed_bytes - before, 64 * PAGE);
    // What is mapped while the guest is bound is there at once, in a part of the space that had no tables before.
    process.map(0x3000_0000_0000, PAGE, READ_WRITE)?;
    guest.write(0x3000_0000_0000, &321_u64.to_le_bytes())?;
    state.rdi = 0x3000_0000_0000;
    check_eq!(run(&mut guest, &state)?.state.rax, 321);
    Ok(())
}

fn guest_memory(_: &World) -> Outcome {
    let mut process = Process::new(code::spins())?;
    process.map(0x5000_0000, 4 * PAGE, READ_WRITE)?;
    let guest = guest(&process)?;
    let text: alloc::vec::Vec<u8> = (0..3 * PAGE).map(|at| (at % 251) as u8).collect();
    guest.write(0x5000_0000 + 100, &text)?;
    let mut back = alloc::vec![0; text.len()];
    guest.read(0x5000_0000 + 100, &mut back)?;
    check!(text == back, "the guest's memory reads otherwise");
    process.memory.read(0x5000_0000 + 100, &mut back)?;
    check_eq!(&back[..100], &text[..100]);
    // What the guest cannot do the personality cannot do for it.
    let mut word = [0; 8];
    check_eq!(guest.read(0x5000_0000 + 4 * PAGE - 4, &mut word), Err(Error::Fault));
    check_eq!(guest.read(8, &mut word), Err(Error::Fault));
    check_eq!(guest.write(CODE, &word), Err(Error::Fault));
    check_eq!(guest.read(limits::USER_HALF - 4, &mut word), Err(Error::Fault));
    check_eq!(guest.read(u64::MAX - 3, &mut word), Err(Error::Fault));
    check_eq!(guest.read(0x8000_0000_0000, &mut word), Err(Error::Fault));
    guest.read(0x5000_0000 + 4 * PAGE - 8, &mut word)?;
    Ok(())
}

fn kick_spinning(_: &World) -> Outcome {
    let spinning = running(code::spins(), |visit| visit.reason == RestrictedReason::Kick)?;
    eventually("the guest to spin", || Ok(spinning.thread().info()?.cpu_time > 2_000_000))?;
    kick_when_bound(&spinning)?;
    let (visits, visit) = joined(spinning)?;
    check_eq!(visits, 1);
    check!((CODE..CODE + 16).contains(&visit.state.rip), "it came back at {:#x}", visit.state.rip);
    Ok(())
}

/// The calling thread's own handle, to kick itself with.
fn kick_self() -> Result<(), Error> {
    // The first thread of this unit is the one that runs the tests.
    sys::restricted_kick(holm_rt::Handle::initial(1))
}

fn kicks_latch(_: &World) -> Outcome {
    let process = Process::new(code::calls())?;
    let mut guest = guest(&process)?;
    for _ in 0..3 {
        kick_self()?;
    }
    let state = RestrictedState { rbx: 7, ..process.start() };
    let visit = run(&mut guest, &state)?;
    check_eq!((visit.reason, visit.state.rbx, visit.state.rip), (RestrictedReason::Kick, 7, CODE));
    let visit = run(&mut guest, &visit.state)?;
    check_eq!((visit.reason, visit.state.rbx), (RestrictedReason::Syscall, 8));
    // A new binding begins without a kick.
    kick_self()?;
    drop(guest);
    let mut guest = process.space.bind()?;
    check_eq!(run(&mut guest, &state)?.reason, RestrictedReason::Syscall);
    Ok(())
}

fn kick_waiting(_: &World) -> Outcome {
    let waiting = thread::spawn(|| {
        let space = Space::new()?;
        let mut guest = space.bind()?;
        let slept = time::sleep_until(soon());
        guest.set(&RestrictedState::new())?;
        Ok::<_, Error>((slept, guest.enter()?.reason))
    })?;
    eventually("the personality to wait", || Ok(waiting.thread().info()?.state == ThreadState::Blocked))?;
    waiting.thread().kick()?;
    let (slept, reason) = joined(waiting)?;
    check_eq!((slept, reason), (Err(Error::Interrupted), RestrictedReason::Kick));
    crate::harness::saw(number::event_wait, Error::Interrupted);
    Ok(())
}

fn kicks_race(_: &World) -> Outcome {
    const KICKS: u64 = 300;
    use core::sync::atomic::{AtomicU64, Ordering};
    let seen = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&seen);
    // Every kick is answered before the next one is sent, whatever the guest does when it comes: none may be lost.
    let guests = running(code::calls(), move |visit| {
        if visit.reason != RestrictedReason::Kick {
            return false;
        }
        let last = count.fetch_add(1, Ordering::AcqRel) + 1 == KICKS;
        thread::yield_now();
        last
    })?;
    let until = soon();
    for kick in 0..KICKS {
        while guests.thread().kick() == Err(Error::BadState) {
            thread::yield_now();
        }
        while seen.load(Ordering::Acquire) == kick {
            check!(time::now() < until.nanos(), "kick {kick} is lost");
            thread::yield_now();
        }
        check_eq!(seen.load(Ordering::Acquire), kick + 1);
    }
    check!(joined(guests)?.0 >= KICKS, "too few visits");
    Ok(())
}

fn two_threads(_: &World) -> Outcome {
    let mut process = Process::new(code::adds())?;
    process.map(0x5000_0000, PAGE, READ_WRITE)?;
    let process = Arc::new(process);
    let add = || {
        let process = Arc::clone(&process);
        thread::spawn(move || {
            let mut guest = process.space.bind()?;
            run(&mut guest, &RestrictedState { rdi: 0x5000_0000, ..process.start() }).map(|visit| visit.reason)
        })
    };
    let threads = [add()?, add()?];
    let count = || -> Result<u64, Error> {
        let mut word = [0; 8];
        process.memory.read(0x5000_0000, &mut word)?;
        Ok(u64::from_le_bytes(word))
    };
    let until = soon();
    for thread in &threads {
        // Both must run: one is kicked when the other has gone on alone for a while.
        let before = count()?;
        while count()? < before + 1000 {
            check!(time::now() < until.nanos(), "nobody adds");
            time::sleep(Duration::from_millis(1))?;
        }
        kick_when_bound(thread)?;
        thread.thread().wait(until)?;
    }
    for thread in threads {
        check_eq!(joined(thread)?, RestrictedReason::Kick);
    }
    Ok(())
}

fn unmapped(_: &World) -> Outcome {
    let mut process = Process::new(code::reads())?;
    process.map(0x5000_0000, PAGE, READ_WRITE)?;
    let mut guest = guest(&process)?;
    guest.write(0x5000_0000, &5_u64.to_le_bytes())?;
    let state = RestrictedState { rdi: 0x5000_0000, ..process.start() };
    check_eq!(run(&mut guest, &state)?.state.rax, 5);
    process.space.protect(0x5000_0000, PAGE, holm_rt::abi::Protection::READ)?;
    check_eq!(guest.write(0x5000_0000, &[1]), Err(Error::Fault));
    check_eq!(run(&mut guest, &state)?.state.rax, 5);
    process.space.unmap(0x5000_0000, PAGE)?;
    check_eq!(guest.read(0x5000_0000, &mut [0]), Err(Error::Fault));
    let visit = run(&mut guest, &state)?;
    check_eq!((visit.reason, visit.state.fault_address), (RestrictedReason::Exception, 0x5000_0000));
    Ok(())
}

fn wrong_states(_: &World) -> Outcome {
    // SAFETY: the thread is not bound, so nothing is entered.
    let entered = unsafe { sys::restricted_enter(limits::USER_HALF, 0) };
    must_answer(number::restricted_enter, Error::BadState, entered)?;
    must_answer(number::restricted_unbind, Error::BadState, sys::restricted_unbind())?;
    must_answer(number::restricted_kick, Error::BadState, kick_self())?;
    Ok(())
}
