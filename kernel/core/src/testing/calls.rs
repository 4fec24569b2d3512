//! Arbitrary system calls: whatever the registers hold, the kernel answers and stays whole.

use proptest::prelude::*;

use crate::machine::{CpuId, Machine, Nanos};
use crate::testing::ipc::{self, PAGE};

/// Words that mean something more often than random ones.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0u64..4,
        4 => (0u64..12).prop_map(|slot| 0x1_0000 | slot),
        3 => (0u64..0x4000).prop_map(|offset| PAGE + offset),
        1 => any::<u64>(),
        1 => (0u32..64).prop_map(|bit| 1u64 << bit),
        1 => Just(u64::MAX),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_system_calls_never_panic(
        fill in prop::collection::vec((0u64..0x1000, word()), 0..40),
        calls in prop::collection::vec((prop_oneof![9 => 0u64..170, 1 => any::<u64>()], prop::array::uniform6(word())), 1..120),
    ) {
        let (mut kernel, units, callers) = ipc::kernel(2, 3);
        for unit in &units {
            for (at, word) in &fill {
                // Structs are found at the beginning of the page: version 1, a plausible size, anything.
                let header = (64u64 + at % 128) << 32 | 1;
                kernel.copy_out(*unit, PAGE + at * 4 % 0x3000, &header.to_le_bytes()).unwrap();
                kernel.copy_out(*unit, PAGE + at * 4 % 0x3000 + 8, &word.to_le_bytes()).unwrap();
            }
        }
        for caller in callers.iter().flatten() {
            // They were made running for tests of calls alone; here they are scheduled.
            let thread = kernel.threads.get_mut(caller.thread).unwrap();
            thread.state = crate::thread::ThreadState::Created;
            kernel.thread_start(caller.thread).unwrap();
        }
        let cpus = kernel.machine.cpus();
        for (number, words) in calls {
            for cpu in (0..cpus).map(CpuId) {
                while kernel.machine.timer(cpu) <= kernel.now() {
                    kernel.machine.set_timer(cpu, Nanos::NEVER);
                    kernel.timer(cpu);
                }
                if let Some(current) = kernel.sched.cpus[cpu.0 as usize].current {
                    let registers = &mut kernel.running(current).unwrap().registers;
                    registers.rax = number;
                    [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9] = words;
                    kernel.system_call(cpu);
                }
                while let Some(kicked) = kernel.machine.take_kick() {
                    kernel.kicked(kicked);
                }
                prop_assert_eq!(kernel.broken_invariant(cpu), None);
            }
            if kernel.halt.is_some() {
                break;
            }
            kernel.machine.advance(Nanos(50_000));
        }
    }
}
