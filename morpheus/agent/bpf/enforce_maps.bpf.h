/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the scheduler keeps: the agent's settings, the kernel's reason for its end, counts of its decisions, and the state of
 * CPUs, cache domains and workers' patience.
 */
#ifndef MORPHEUS_ENFORCE_MAPS_BPF_H
#define MORPHEUS_ENFORCE_MAPS_BPF_H

#include "sched_ext.bpf.h"
#include "verdict.h"

#define MORPHEUS_CPUS 1024

/* What the agent decides before loading. src/enforce/settings.rs writes these bytes. */
struct morpheus_settings {
	/* Length of a slice and of a tick in ns. */
	u64 slice_ns;
	u64 tick_ns;
	/* Cache domains, at least 1. */
	u32 domain_count;
	/* For tests of the kernel's watchdog: this thread is never put on a queue. 0 for none. */
	u32 never_run_tid;
	/* The domain of each CPU, below domain_count. */
	u16 domain_of_cpu[MORPHEUS_CPUS];
};
_Static_assert(sizeof(struct morpheus_settings) == 24 + 2 * MORPHEUS_CPUS, "src/enforce/settings.rs");
const volatile struct morpheus_settings settings SEC(".rodata.settings") = {
	.slice_ns = 12000000,
	.tick_ns = 4000000,
	.domain_count = 1,
};

/* Why the kernel ended the scheduler: `kind` is written last and is 0 while it runs. src/enforce/exit.rs reads these bytes. */
struct morpheus_exit {
	u64 code;
	u32 kind;
	u32 reserved;
	char reason[128];
	char message[512];
};
_Static_assert(sizeof(struct morpheus_exit) == 656, "src/enforce/exit.rs");
struct morpheus_exit exit_info SEC(".bss.exit");

/* Indices of `counts`, after the verdicts. src/enforce/counts.rs has the same. */
enum {
	/* Hints given. */
	COUNT_HINTS = MORPHEUS_VERDICTS,
	/* Slices extended for a critical section. */
	COUNT_DEFERRED,
	/* Extended slices that ended as soon as the section was left. */
	COUNT_DEFERRAL_ENDED,
	/* Times a hint was due, but the worker was in the wrong state, or still had one. */
	COUNT_HINT_WITHHELD,
	/* Looks at a worker past its hint's time for whose CPU nobody waited. */
	COUNT_UNWANTED,
	COUNTS,
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, u32);
	__type(value, u64);
} counts SEC(".maps");

static __always_inline void count(u32 what)
{
	u64 *value = bpf_map_lookup_elem(&counts, &what);

	if (value)
		++*value;
}

/* What runs on a CPU. Written by that CPU only. */
struct here {
	/* Since when the current thread's time is not yet charged. */
	u64 charged_ns;
	/* When its slice began. */
	u64 slice_began_ns;
	/* Its worker's process, line and generation; line 0 for none. */
	u32 process;
	u32 line;
	u32 generation;
	/* 1 once the slice has been extended. */
	u32 extended;
	/* 1 when the thread has given up its turn, or been made to: whoever waits is next, be its clock what it may. */
	u32 leaves;
	u32 reserved;
	/* Times the CPU looked for work. */
	u64 turns;
	u64 pad[2];
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* set to the number of CPUs before loading */
	__type(key, u32);
	__type(value, struct here);
} cpus SEC(".maps");

/* The clock of a domain: the greatest virtual time that has run there. A cache line each. */
struct domain {
	u64 clock;
	u64 pad[7];
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* set to the number of domains before loading */
	__type(key, u32);
	__type(value, struct domain);
} domains SEC(".maps");

/* The grace time a worker has had: of the hint `seq`, `served_ns` on the CPU. Gone with the thread. */
struct patience {
	u64 served_ns;
	u32 seq;
	u32 generation;
};
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct patience);
} patiences SEC(".maps");

#endif
