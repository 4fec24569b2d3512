/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps both modes share, and the few steps on them: find a thread's worker, its two lines and its ledger; publish a
 * hint; judge what became of it. No map is keyed by anything but a thread (through the kernel's own task) or a small
 * index that the agent hands out: the kernel side knows worker threads, never a runtime's tasks.
 */
#ifndef MORPHEUS_MAPS_BPF_H
#define MORPHEUS_MAPS_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "morpheus_abi.h"

/* Processes served at once; index 0 is never a process. src/bpf/layout.rs has the same number. */
#define MORPHEUS_PROCESSES 1024
/* Lines of a page, the header's included. */
#define MORPHEUS_LINES (MORPHEUS_MAX_WORKERS + 1)
/* Buckets of the latency histogram: bucket n counts [2^n, 2^(n+1)) ns, the last one everything above. */
#define MORPHEUS_BUCKETS 32
#define MORPHEUS_REASONS 6

/* What the kernel's task carries: where the worker's lines are. src/bpf/layout.rs: WorkerKey. */
struct morpheus_worker {
	/* Index in the page maps, above 0. */
	__u32 process;
	/* Element of the pages: slot + 1. */
	__u32 line;
	/* The slot's generation; a line of another generation is somebody else's. */
	__u32 generation;
	/* 1 once the thread is exiting or has executed another program. */
	__u32 gone;
};

/* What only the agent reads of a worker; one element per line. src/bpf/layout.rs: Ledger. */
struct morpheus_ledger {
	/* CLOCK_MONOTONIC in ns of the last switch to the CPU, 0 for none since registration. */
	__u64 on_ns;
	/* ... and off it. 0 while on it. */
	__u64 off_ns;
	/* Since when it could run but does not; 0 when it runs or sleeps. */
	__u64 runnable_ns;
	/* Latencies from hint to yield: their sum. */
	__u64 latency_sum_ns;
	/* Hints given, by reason; element 0 is unused. */
	__u32 hints[MORPHEUS_REASONS];
	/* Hints the worker took, those still pending when the kernel took the CPU away, those overtaken by a block or by a
	 * weightier one. */
	__u32 taken;
	__u32 ignored;
	__u32 moot;
	/* The last hint whose end has been judged. */
	__u32 judged_seq;
	/* The slot's generation this ledger belongs to. */
	__u32 generation;
	/* Observe mode: somebody waited at the latest tick. */
	__u32 tick_waiter;
	__u32 latency[MORPHEUS_BUCKETS];
	/* Observe mode: the thread's accounts at its first tick. base_ns 0: there was none yet. */
	__u64 base_ns;
	__u64 base_exec_ns;
	__u64 base_delay_ns;
	__u64 base_count_ns;
	__u32 base_involuntary;
	/* ... its switches when the latest hint was given, and at the latest tick. */
	__u32 hint_voluntary;
	__u32 hint_involuntary;
	__u32 tick_switches;
	/* When it was last told of the system's pressure. */
	__u64 pressure_ns;
	/* Observe mode: how long it had waited for a CPU by the latest tick, since the thread began. */
	__u64 tick_delay_ns;
	/* Observe mode: its CPU time by its clock when its tasks last had a reason to change places: a hint, or its sleep. */
	__u64 rotated_count_ns;
	/* The CPU time after which it wants LOCAL, 0 for one without tasks of its own; the agent writes it. */
	__u32 rotation_ns;
	/* The hint and the sleeps up to which rotated_count_ns counts: their numbers added. */
	__u32 rotated_seq;
};

_Static_assert(sizeof(struct morpheus_worker) == 16, "src/bpf/layout.rs: WorkerKey");
_Static_assert(sizeof(struct morpheus_ledger) == 288, "src/bpf/layout.rs: Ledger");

/* Sizes, not types: clang gives only forward declarations of types that nothing but an inner map names.
 * An element of page 0, of page 1: the header is element 0, a worker's line element slot + 1. */
struct morpheus_kernel_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MORPHEUS_LINES);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct morpheus_kernel_line));
};
struct morpheus_runtime_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MORPHEUS_LINES);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct morpheus_runtime_line));
};
struct morpheus_ledger_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MORPHEUS_LINES);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct morpheus_ledger));
};

/* Thread -> worker. The agent writes it through a pidfd of the thread; the kernel frees it with the thread. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct morpheus_worker);
} workers SEC(".maps");

/*
 * Process index -> page 0, page 1, ledgers. Page 0 is frozen once it has its header: from then on no process can write it,
 * neither through a mapping nor by an update, the agent included; only programs can. (A descriptor opened read-only
 * would be simpler, but the kernel maps no BPF array through one.) The agent fills them; a process gets descriptors of its own two pages only. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MORPHEUS_PROCESSES);
	__type(key, __u32);
	__array(values, struct morpheus_kernel_map);
} kernel_pages SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MORPHEUS_PROCESSES);
	__type(key, __u32);
	__array(values, struct morpheus_runtime_map);
} runtime_pages SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MORPHEUS_PROCESSES);
	__type(key, __u32);
	__array(values, struct morpheus_ledger_map);
} ledgers SEC(".maps");

#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile typeof(x) *)&(x) = (v))

/* A worker with everything that belongs to it. */
struct morpheus_view {
	struct morpheus_kernel_line *kernel;
	struct morpheus_runtime_line *runtime;
	struct morpheus_ledger *ledger;
};

/* The thread's worker, or NULL. Nearly all threads are none: for them this is one load. */
static __always_inline struct morpheus_worker *morpheus_worker_of(struct task_struct *task)
{
	struct morpheus_worker *worker;

	if (bpf_core_field_exists(task->bpf_storage) && !task->bpf_storage)
		return NULL;
	worker = bpf_task_storage_get(&workers, task, NULL, 0);
	return worker && !worker->gone ? worker : NULL;
}

/* The lines and the ledger of a place. False when the place is free or belongs to a later registration. */
static __always_inline bool morpheus_view_of(__u32 process, __u32 line, __u32 generation, struct morpheus_view *view)
{
	void *page;

	if (!line)
		return false;
	page = bpf_map_lookup_elem(&kernel_pages, &process);
	if (!page)
		return false;
	view->kernel = bpf_map_lookup_elem(page, &line);
	page = bpf_map_lookup_elem(&runtime_pages, &process);
	if (!page)
		return false;
	view->runtime = bpf_map_lookup_elem(page, &line);
	page = bpf_map_lookup_elem(&ledgers, &process);
	if (!page)
		return false;
	view->ledger = bpf_map_lookup_elem(page, &line);
	if (!view->kernel || !view->runtime || !view->ledger)
		return false;
	return view->kernel->slot_generation == generation;
}

/* Whether the worker may be hinted at all: at work, by its own word, in this registration. */
static __always_inline bool morpheus_running(const struct morpheus_view *view)
{
	return READ_ONCE(view->runtime->state) == MORPHEUS_STATE_RUNNING &&
	       READ_ONCE(view->runtime->slot_generation) == view->kernel->slot_generation &&
	       view->kernel->state != MORPHEUS_STATE_DEAD;
}

/* Whether the latest hint has not been taken yet. */
static __always_inline bool morpheus_pending(const struct morpheus_view *view)
{
	return READ_ONCE(view->runtime->ack_seq) != view->kernel->hint_seq;
}

/* Gives a hint. True when it was given: not to a worker in the wrong state. */
static __always_inline bool morpheus_publish(struct morpheus_view *view, __u32 reason, __u64 now, __u64 deadline)
{
	struct morpheus_kernel_line *kernel = view->kernel;

	if (reason >= MORPHEUS_REASONS || !morpheus_running(view))
		return false;
	WRITE_ONCE(kernel->reason, reason);
	WRITE_ONCE(kernel->hint_time_ns, now);
	WRITE_ONCE(kernel->deadline_ns, deadline);
	/* A fully ordered exchange: whoever sees the number sees the three fields. */
	__sync_lock_test_and_set(&kernel->hint_seq, kernel->hint_seq + 1);
	__sync_fetch_and_add(&view->ledger->hints[reason], 1);
	return true;
}

/* The same, unless the worker still has one. */
static __always_inline bool morpheus_hint(struct morpheus_view *view, __u32 reason, __u64 now, __u64 deadline)
{
	return !morpheus_pending(view) && morpheus_publish(view, reason, now, deadline);
}

/* The pending hint is about to be replaced by a weightier one: as if it had been overtaken by a sleep. */
static __always_inline void morpheus_overtake(struct morpheus_view *view)
{
	__u32 seq = view->kernel->hint_seq, judged = view->ledger->judged_seq;

	if (judged != seq && __sync_val_compare_and_swap(&view->ledger->judged_seq, judged, seq) == judged)
		view->ledger->moot++;
}

static __always_inline __u32 morpheus_bucket(__u64 ns)
{
	__u32 bucket = 0;

	if (ns >> 32)
		return MORPHEUS_BUCKETS - 1;
	if (ns >> 16) {
		bucket += 16;
		ns >>= 16;
	}
	if (ns >> 8) {
		bucket += 8;
		ns >>= 8;
	}
	if (ns >> 4) {
		bucket += 4;
		ns >>= 4;
	}
	if (ns >> 2) {
		bucket += 2;
		ns >>= 2;
	}
	if (ns >> 1)
		bucket += 1;
	return bucket;
}

/* Whether the worker asked for this switch itself: it wrote the time of a yield since it came to the CPU. */
static __always_inline bool morpheus_yielded(const struct morpheus_view *view)
{
	__u64 yield = READ_ONCE(view->runtime->last_yield_ns);

	return yield && yield >= view->ledger->on_ns;
}

/*
 * Once per hint: what became of it? Called when the worker leaves the CPU, and now and then while it runs.
 * `left`: it leaves; `runnable`: it could have run on.
 */
static __always_inline void morpheus_judge(struct morpheus_view *view, __u64 now, bool left, bool runnable)
{
	struct morpheus_ledger *ledger = view->ledger;
	__u64 given = view->kernel->hint_time_ns, yield;
	__u32 seq = view->kernel->hint_seq, judged = ledger->judged_seq, bucket;
	bool pending = morpheus_pending(view);

	if (judged == seq || (pending && !left))
		return;
	/* Another CPU may be at the same: one of the two counts. */
	if (__sync_val_compare_and_swap(&ledger->judged_seq, judged, seq) != judged)
		return;
	if (!pending) {
		yield = READ_ONCE(view->runtime->last_yield_ns);
		/* The page is the worker's: its word counts only where it can be true. */
		if (yield < given || yield > now)
			yield = now;
		ledger->taken++;
		ledger->latency_sum_ns += yield - given;
		bucket = morpheus_bucket(yield - given);
		if (bucket < MORPHEUS_BUCKETS)
			ledger->latency[bucket]++;
	} else if (runnable) {
		ledger->ignored++;
	} else {
		ledger->moot++;
	}
}

/* The worker comes to the CPU. */
static __always_inline void morpheus_switched_in(struct morpheus_view *view, __u64 now)
{
	struct morpheus_ledger *ledger = view->ledger;
	struct morpheus_kernel_line *kernel = view->kernel;

	if (ledger->off_ns && now > ledger->off_ns)
		WRITE_ONCE(kernel->off_cpu_ns, kernel->off_cpu_ns + now - ledger->off_ns);
	if (ledger->runnable_ns && now > ledger->runnable_ns)
		WRITE_ONCE(kernel->runqueue_wait_ns, kernel->runqueue_wait_ns + now - ledger->runnable_ns);
	ledger->off_ns = 0;
	ledger->runnable_ns = 0;
	ledger->on_ns = now;
}

/* The worker leaves the CPU. */
static __always_inline void morpheus_switched_out(struct morpheus_view *view, __u64 now, bool runnable)
{
	struct morpheus_ledger *ledger = view->ledger;
	struct morpheus_kernel_line *kernel = view->kernel;

	morpheus_judge(view, now, true, runnable);
	if (runnable && !morpheus_yielded(view))
		WRITE_ONCE(kernel->involuntary_switches, kernel->involuntary_switches + 1);
	ledger->off_ns = now;
	ledger->runnable_ns = runnable ? now : 0;
}

/* The thread ends or becomes another program: no more hints, and its line says so. False when it is no worker. */
static __always_inline bool morpheus_bury(struct task_struct *task)
{
	struct morpheus_worker *worker = morpheus_worker_of(task);
	struct morpheus_view view;

	if (!worker)
		return false;
	worker->gone = 1;
	if (morpheus_view_of(worker->process, worker->line, worker->generation, &view))
		WRITE_ONCE(view.kernel->state, MORPHEUS_STATE_DEAD);
	return true;
}

/* What the agent has done to page 0 in its stead, through BPF_PROG_RUN. src/bpf/command.rs: Command. */
#define MORPHEUS_COMMAND_BEAT 1 /* the heartbeat of a process's page is now_ns */
#define MORPHEUS_COMMAND_OPEN 2 /* the line is this generation's, all else zero */
#define MORPHEUS_COMMAND_CLOSE 3 /* the line has no living worker, if it is this generation's */
#define MORPHEUS_COMMAND_RETIRE 4 /* no line has one, and the heartbeat is of long ago */
#define MORPHEUS_COMMAND_PRESSURE 5 /* the system is short of CPU until now_ns */
struct morpheus_command {
	__u32 kind;
	__u32 process;
	__u32 line;
	__u32 generation;
	__u64 now_ns;
};
_Static_assert(sizeof(struct morpheus_command) == 24, "src/bpf/command.rs: Command");

/* The agent's own process, as the kernel numbers it. Its heartbeat can wait: nobody is asked to yield for it. */
__u32 morpheus_agent_tgid;

/* The system is short of CPU until then, CLOCK_MONOTONIC in ns; 0 for never yet. src/pressure.rs decides. */
__u64 morpheus_pressure_until_ns;
/* A worker is told once in this time. */
#define MORPHEUS_PRESSURE_PERIOD_NS 1000000000ULL

static __always_inline bool morpheus_pressure_is_due(const struct morpheus_ledger *ledger, __u64 now)
{
	return now < READ_ONCE(morpheus_pressure_until_ns) && now - ledger->pressure_ns >= MORPHEUS_PRESSURE_PERIOD_NS;
}

SEC("syscall")
int morpheus_agent(struct morpheus_command *command)
{
	__u32 kind = command->kind, process = command->process, line = command->line, generation = command->generation;
	struct morpheus_page_header *header;
	struct morpheus_kernel_line *kernel;
	void *page;

	morpheus_agent_tgid = bpf_get_current_pid_tgid() >> 32;
	if (kind == MORPHEUS_COMMAND_PRESSURE) {
		WRITE_ONCE(morpheus_pressure_until_ns, command->now_ns);
		return 0;
	}
	page = bpf_map_lookup_elem(&kernel_pages, &process);
	if (!page)
		return -2; /* ENOENT */
	if (kind == MORPHEUS_COMMAND_OPEN || kind == MORPHEUS_COMMAND_CLOSE) {
		if (!line)
			return -22; /* EINVAL: the header */
		kernel = bpf_map_lookup_elem(page, &line);
		if (!kernel)
			return -22;
		if (kind == MORPHEUS_COMMAND_CLOSE) {
			if (kernel->slot_generation == generation)
				WRITE_ONCE(kernel->state, MORPHEUS_STATE_DEAD);
			return 0;
		}
		/* Without a generation nobody's; then empty; then the new owner's. */
		WRITE_ONCE(kernel->slot_generation, 0);
		WRITE_ONCE(kernel->hint_seq, 0);
		WRITE_ONCE(kernel->hint_time_ns, 0);
		WRITE_ONCE(kernel->deadline_ns, 0);
		WRITE_ONCE(kernel->off_cpu_ns, 0);
		WRITE_ONCE(kernel->runqueue_wait_ns, 0);
		WRITE_ONCE(kernel->budget_remaining_ns, 0);
		WRITE_ONCE(kernel->involuntary_switches, 0);
		WRITE_ONCE(kernel->escalations, 0);
		WRITE_ONCE(kernel->reason, MORPHEUS_REASON_NONE);
		WRITE_ONCE(kernel->state, MORPHEUS_STATE_REGISTERED);
		__sync_lock_test_and_set(&kernel->slot_generation, generation);
		return 0;
	}
	if (kind == MORPHEUS_COMMAND_RETIRE) {
		for (line = 1; line < MORPHEUS_LINES; line++) {
			kernel = bpf_map_lookup_elem(page, &line);
			if (kernel && kernel->slot_generation)
				WRITE_ONCE(kernel->state, MORPHEUS_STATE_DEAD);
		}
	} else if (kind != MORPHEUS_COMMAND_BEAT) {
		return -22;
	}
	line = 0;
	header = bpf_map_lookup_elem(page, &line);
	if (header)
		WRITE_ONCE(header->heartbeat_ns, kind == MORPHEUS_COMMAND_BEAT ? command->now_ns : 0);
	return 0;
}

#endif
