/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Made from morpheus/abi/src by `cargo run -p morpheus-abi --example c_header`; a test compares. Do not edit. */
#ifndef MORPHEUS_ABI_H
#define MORPHEUS_ABI_H

#ifndef __VMLINUX_H__
#include <linux/types.h>
#endif

#define MORPHEUS_MAGIC 0x5355454850524f4dULL
#define MORPHEUS_ABI_VERSION 1
#define MORPHEUS_PAGE_SIZE 4096
#define MORPHEUS_LINE_SIZE 64
#define MORPHEUS_MAX_WORKERS 63
#define MORPHEUS_HEARTBEAT_PERIOD_NS 500000000ULL
#define MORPHEUS_HEARTBEAT_STALE_NS 1500000000ULL
#define MORPHEUS_NO_DEADLINE 0ULL
#define MORPHEUS_DIRECTION_KERNEL_TO_RUNTIME 0
#define MORPHEUS_DIRECTION_RUNTIME_TO_KERNEL 1
#define MORPHEUS_FLAG_OBSERVE 1
#define MORPHEUS_FLAG_ENFORCE 2
#define MORPHEUS_FLAG_RUNQUEUE_WAIT 4
#define MORPHEUS_FLAG_BUDGET 8
#define MORPHEUS_YIELD_CAUSES 7
#define MORPHEUS_REASON_NONE 0

/* Why the kernel asks a worker to yield. 0 is no hint. */
/* Another thread needs this CPU: give up the thread at the next boundary between tasks. */
#define MORPHEUS_REASON_WAITER 1
/* The worker's own queue starves: rotate tasks inside the runtime; the CPU need not be given up. */
#define MORPHEUS_REASON_LOCAL 2
/* The slice is nearly over: start no critical section, better yield now than be cut off. */
#define MORPHEUS_REASON_SLICE_END 3
/* The control group's CPU quota is nearly spent; the deadline is when it is refilled. Shed or delay work. */
#define MORPHEUS_REASON_QUOTA 4
/* The whole system is short of CPU. Shed work. */
#define MORPHEUS_REASON_PRESSURE 5

/* Where a worker or its slot is in its life. */
/* Nothing registered, or the worker has not yet written its line. */
#define MORPHEUS_STATE_INIT 0
/* Registered, but not to be hinted: parked, or not yet at work. */
#define MORPHEUS_STATE_REGISTERED 1
/* At work: the only state in which hints and escalations are given. */
#define MORPHEUS_STATE_RUNNING 2
/* About to unregister: no more hints. */
#define MORPHEUS_STATE_QUIESCING 3
/* The thread is gone or has unregistered. */
#define MORPHEUS_STATE_DEAD 4

/* Why a worker yielded: the index of its count in `yields`. */
/* Without a hint. */
#define MORPHEUS_YIELD_VOLUNTARY 0
/* For a WAITER hint. */
#define MORPHEUS_YIELD_WAITER 1
/* For a LOCAL hint: tasks were rotated, the thread was kept. */
#define MORPHEUS_YIELD_LOCAL 2
/* For a SLICE_END hint. */
#define MORPHEUS_YIELD_SLICE_END 3
/* For a QUOTA hint. */
#define MORPHEUS_YIELD_QUOTA 4
/* For a PRESSURE hint. */
#define MORPHEUS_YIELD_PRESSURE 5
/* Not done: it was asked for inside a critical section, or too soon after one that cost the worker time. */
#define MORPHEUS_YIELD_WITHHELD 6

/* What a publisher may do to an escapable worker that ignores a hint beyond its grace time. */
/* Nothing. */
#define MORPHEUS_POLICY_NONE 0
/* End its current slice. */
#define MORPHEUS_POLICY_SLICE_END 1

/* First 64 bytes of both pages. The publisher writes both before it hands them over; only page 0's is ever trusted. */
struct morpheus_page_header {
	/* MORPHEUS_MAGIC. */
	__u64 magic;
	/* MORPHEUS_ABI_VERSION; a reader refuses any other. */
	__u32 abi_version;
	/* Bytes of the page: MORPHEUS_PAGE_SIZE. */
	__u32 size;
	/* MORPHEUS_FLAG_* bits: what the publisher does. */
	__u32 flags;
	/* MORPHEUS_DIRECTION_*: which of the two pages this is. */
	__u32 direction;
	/* The publisher's run: another number after each restart, never 0. */
	__u64 generation;
	/* CLOCK_MONOTONIC in ns, written by the publisher every MORPHEUS_HEARTBEAT_PERIOD_NS. Page 0 only. */
	__u64 heartbeat_ns;
	/* Zero. */
	__u64 reserved_a;
	/* Zero. */
	__u64 reserved_b;
	/* Zero. */
	__u64 reserved_c;
} __attribute__((aligned(64)));
_Static_assert(sizeof(struct morpheus_page_header) == 64, "morpheus_page_header");
_Static_assert(__builtin_offsetof(struct morpheus_page_header, magic) == 0, "morpheus_page_header.magic");
_Static_assert(__builtin_offsetof(struct morpheus_page_header, abi_version) == 8, "morpheus_page_header.abi_version");
_Static_assert(__builtin_offsetof(struct morpheus_page_header, size) == 12, "morpheus_page_header.size");
_Static_assert(__builtin_offsetof(struct morpheus_page_header, flags) == 16, "morpheus_page_header.flags");
_Static_assert(__builtin_offsetof(struct morpheus_page_header, direction) == 20, "morpheus_page_header.direction");
_Static_assert(__builtin_offsetof(struct morpheus_page_header, generation) == 24, "morpheus_page_header.generation");
_Static_assert(__builtin_offsetof(struct morpheus_page_header, heartbeat_ns) == 32, "morpheus_page_header.heartbeat_ns");
_Static_assert(__builtin_offsetof(struct morpheus_page_header, reserved_a) == 40, "morpheus_page_header.reserved_a");
_Static_assert(__builtin_offsetof(struct morpheus_page_header, reserved_b) == 48, "morpheus_page_header.reserved_b");
_Static_assert(__builtin_offsetof(struct morpheus_page_header, reserved_c) == 56, "morpheus_page_header.reserved_c");

/* A worker's line in page 0, kernel to runtime. A hint is published by writing reason, hint_time_ns and deadline_ns and
 * then hint_seq with release ordering; it is pending while hint_seq differs from the worker's ack_seq. */
struct morpheus_kernel_line {
	/* Number of the latest hint to this slot; grows by one, wraps, starts at 0 with each slot generation. */
	__u32 hint_seq;
	/* Which registration the line belongs to: changes each time the slot is given away, never 0 while registered. */
	__u32 slot_generation;
	/* When the latest hint was given: CLOCK_MONOTONIC in ns. */
	__u64 hint_time_ns;
	/* CLOCK_MONOTONIC in ns by which the worker should have yielded (WAITER, LOCAL, SLICE_END) or at which the quota
	 * is refilled (QUOTA); MORPHEUS_NO_DEADLINE when there is none. */
	__u64 deadline_ns;
	/* Total ns off the CPU since registration, for whatever reason. */
	__u64 off_cpu_ns;
	/* Total ns since registration in which the worker could have run but waited for a CPU; 0 when not measured. */
	__u64 runqueue_wait_ns;
	/* Information only, never enforced: ns left of the worker's slice or quota; 0 when not measured. */
	__u64 budget_remaining_ns;
	/* Times since registration the worker was switched out while it could have run on; wraps. */
	__u32 involuntary_switches;
	/* Times since registration the publisher ended the worker's slice because a hint was ignored; wraps. */
	__u32 escalations;
	/* MORPHEUS_REASON_* of the latest hint. */
	__u32 reason;
	/* MORPHEUS_STATE_*: the publisher's view of the slot. INIT: free. DEAD: the thread is gone. */
	__u32 state;
} __attribute__((aligned(64)));
_Static_assert(sizeof(struct morpheus_kernel_line) == 64, "morpheus_kernel_line");
_Static_assert(__builtin_offsetof(struct morpheus_kernel_line, hint_seq) == 0, "morpheus_kernel_line.hint_seq");
_Static_assert(__builtin_offsetof(struct morpheus_kernel_line, slot_generation) == 4, "morpheus_kernel_line.slot_generation");
_Static_assert(__builtin_offsetof(struct morpheus_kernel_line, hint_time_ns) == 8, "morpheus_kernel_line.hint_time_ns");
_Static_assert(__builtin_offsetof(struct morpheus_kernel_line, deadline_ns) == 16, "morpheus_kernel_line.deadline_ns");
_Static_assert(__builtin_offsetof(struct morpheus_kernel_line, off_cpu_ns) == 24, "morpheus_kernel_line.off_cpu_ns");
_Static_assert(__builtin_offsetof(struct morpheus_kernel_line, runqueue_wait_ns) == 32, "morpheus_kernel_line.runqueue_wait_ns");
_Static_assert(__builtin_offsetof(struct morpheus_kernel_line, budget_remaining_ns) == 40, "morpheus_kernel_line.budget_remaining_ns");
_Static_assert(__builtin_offsetof(struct morpheus_kernel_line, involuntary_switches) == 48, "morpheus_kernel_line.involuntary_switches");
_Static_assert(__builtin_offsetof(struct morpheus_kernel_line, escalations) == 52, "morpheus_kernel_line.escalations");
_Static_assert(__builtin_offsetof(struct morpheus_kernel_line, reason) == 56, "morpheus_kernel_line.reason");
_Static_assert(__builtin_offsetof(struct morpheus_kernel_line, state) == 60, "morpheus_kernel_line.state");

/* A worker's line in page 1, runtime to kernel. Written by the worker's own thread only. On registration the worker
 * sets ack_seq to the kernel line's hint_seq, then the other fields, slot_generation and last, with release ordering,
 * state. The publisher believes the line only while slot_generation equals the kernel line's. */
struct morpheus_runtime_line {
	/* The latest hint_seq the worker has taken. */
	__u32 ack_seq;
	/* The kernel line's slot_generation at registration. */
	__u32 slot_generation;
	/* Nested critical sections the worker is in. While above 0 the publisher never escalates. */
	__u32 critical_depth;
	/* 1 when the worker consents to escalation outside critical sections; 0, the default, when not. */
	__u32 escapable;
	/* MORPHEUS_POLICY_*: what escalation may do. */
	__u32 escalation_policy;
	/* MORPHEUS_STATE_*: the worker's own state. Hints and escalations only in RUNNING. */
	__u32 state;
	/* When the worker last yielded: CLOCK_MONOTONIC in ns; 0 for never. */
	__u64 last_yield_ns;
	/* Yields counted by MORPHEUS_YIELD_* cause; each wraps. */
	__u32 yields[7];
	/* ns between an unanswered hint and the earliest escalation. */
	__u32 grace_ns;
} __attribute__((aligned(64)));
_Static_assert(sizeof(struct morpheus_runtime_line) == 64, "morpheus_runtime_line");
_Static_assert(__builtin_offsetof(struct morpheus_runtime_line, ack_seq) == 0, "morpheus_runtime_line.ack_seq");
_Static_assert(__builtin_offsetof(struct morpheus_runtime_line, slot_generation) == 4, "morpheus_runtime_line.slot_generation");
_Static_assert(__builtin_offsetof(struct morpheus_runtime_line, critical_depth) == 8, "morpheus_runtime_line.critical_depth");
_Static_assert(__builtin_offsetof(struct morpheus_runtime_line, escapable) == 12, "morpheus_runtime_line.escapable");
_Static_assert(__builtin_offsetof(struct morpheus_runtime_line, escalation_policy) == 16, "morpheus_runtime_line.escalation_policy");
_Static_assert(__builtin_offsetof(struct morpheus_runtime_line, state) == 20, "morpheus_runtime_line.state");
_Static_assert(__builtin_offsetof(struct morpheus_runtime_line, last_yield_ns) == 24, "morpheus_runtime_line.last_yield_ns");
_Static_assert(__builtin_offsetof(struct morpheus_runtime_line, yields) == 32, "morpheus_runtime_line.yields");
_Static_assert(__builtin_offsetof(struct morpheus_runtime_line, grace_ns) == 60, "morpheus_runtime_line.grace_ns");

struct morpheus_kernel_page {
	struct morpheus_page_header header;
	struct morpheus_kernel_line lines[MORPHEUS_MAX_WORKERS];
};
_Static_assert(sizeof(struct morpheus_kernel_page) == MORPHEUS_PAGE_SIZE, "morpheus_kernel_page");

struct morpheus_runtime_page {
	struct morpheus_page_header header;
	struct morpheus_runtime_line lines[MORPHEUS_MAX_WORKERS];
};
_Static_assert(sizeof(struct morpheus_runtime_page) == MORPHEUS_PAGE_SIZE, "morpheus_runtime_page");

#endif
