//! The pages: where lines lie, what a header must say, and that the plain and the shared form agree.

use std::sync::atomic::Ordering;

use morpheus_abi::{
    ABI_VERSION, Direction, EscalationPolicy, HEARTBEAT_STALE_NS, KernelPage, LayoutError, MAX_WORKERS, PAGE_SIZE,
    PageHeader, Reason, RuntimeLine, SharedKernelPage, SharedRuntimeLine, Slot, WorkerState, YIELD_CAUSES, YieldCause,
    heartbeat_is_stale,
};
use proptest::prelude::*;

#[test]
fn slots_fill_the_page_after_the_header_and_no_more() {
    assert_eq!(MAX_WORKERS, 63);
    assert_eq!(Slot::new(63), None);
    assert_eq!(Slot::new(u32::MAX), None);
    for number in 0..63 {
        let slot = Slot::new(number).unwrap();
        assert_eq!(slot.line_offset(), (number as usize + 1) * 64);
        assert_eq!(std::mem::offset_of!(KernelPage, lines) + slot.index() * 64, slot.line_offset());
        assert!(slot.line_offset() + 64 <= PAGE_SIZE);
    }
}

#[test]
fn a_header_of_anything_else_is_refused() {
    let good = PageHeader::new(Direction::KernelToRuntime, 5, 1);
    assert_eq!(good.check(Direction::KernelToRuntime), Ok(()));
    let cases = [
        (PageHeader::default(), LayoutError::Magic(0)),
        (PageHeader { abi_version: 0, ..good }, LayoutError::Version(0)),
        (PageHeader { abi_version: ABI_VERSION + 1, ..good }, LayoutError::Version(ABI_VERSION + 1)),
        (PageHeader { size: 8192, ..good }, LayoutError::Size(8192)),
        (PageHeader { generation: 0, ..good }, LayoutError::Generation),
        (PageHeader::new(Direction::RuntimeToKernel, 5, 1), LayoutError::Direction(1)),
    ];
    for (header, error) in cases {
        assert_eq!(header.check(Direction::KernelToRuntime), Err(error));
    }
}

#[test]
fn numbers_are_total_and_round_trip() {
    for number in 0..300 {
        assert_eq!(Reason::from_number(number).map(Reason::number), (1..=5).contains(&number).then_some(number));
        assert_eq!(WorkerState::from_number(number).map(WorkerState::number), (number <= 4).then_some(number));
        assert_eq!(
            EscalationPolicy::from_number(number).map(EscalationPolicy::number),
            (number <= 1).then_some(number)
        );
    }
    for reason in Reason::ALL {
        assert_eq!(YieldCause::from(*reason).number(), reason.number());
    }
    assert!(YieldCause::ALL.iter().all(|cause| (cause.number() as usize) < YIELD_CAUSES));
}

#[test]
fn a_heartbeat_from_the_future_is_not_stale() {
    assert!(!heartbeat_is_stale(10, 5));
    assert!(!heartbeat_is_stale(10, 10 + HEARTBEAT_STALE_NS));
    assert!(heartbeat_is_stale(10, 11 + HEARTBEAT_STALE_NS));
    assert!(heartbeat_is_stale(0, HEARTBEAT_STALE_NS + 1));
}

#[test]
fn escapable_is_false_by_default() {
    assert_eq!(RuntimeLine::default().escapable, 0);
    assert_eq!(RuntimeLine::default().escalation_policy, EscalationPolicy::None.number());
}

#[test]
fn a_fresh_page_holds_no_hint() {
    let page = SharedKernelPage::zeroed();
    assert!(page.lines.iter().all(|line| line.hint_seq.load(Ordering::Relaxed) == 0));
}

proptest! {
    #[test]
    fn a_line_written_is_the_line_read(words in any::<[u32; 10]>(), yields in any::<[u32; 7]>(), last in any::<u64>()) {
        let line = RuntimeLine {
            ack_seq: words[0],
            slot_generation: words[1],
            critical_depth: words[2],
            escapable: words[3],
            escalation_policy: words[4],
            state: words[5],
            last_yield_ns: last,
            yields,
            grace_ns: words[6],
        };
        let shared = SharedRuntimeLine::zeroed();
        shared.write(&line);
        prop_assert_eq!(shared.snapshot(), line);
    }
}
