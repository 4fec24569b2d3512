/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What we use of sched_ext, from 6.12 to 7.3, and which of its functions a kernel has.
 *
 * A function is declared under each name and shape it has had, always weak, and called through one of ours that takes the
 * first the running kernel has. A weak function whose prototype differs from the kernel's counts as absent, which also
 * covers kernels whose BTF is malformed: one made by a pahole before 1.31 shows some functions with a last argument
 * (`aux`) that only the verifier may pass, and those cannot be called at all (seen in Debian's 7.1.13, 7.2.6 to 7.2.12).
 * src/enforce/functions.rs tells people which ones their kernel lacks.
 */
#ifndef MORPHEUS_SCHED_EXT_BPF_H
#define MORPHEUS_SCHED_EXT_BPF_H

#include "maps.bpf.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* With a body: libbpf takes a mere declaration in a prototype for another type. */
struct cpumask {
	unsigned long bits[1];
};

struct sched_ext_entity {
	u32 flags;
	u32 weight;
	u64 slice;
	u64 dsq_vtime;
};

/* What a thread has in a kernel with CONFIG_SCHED_CLASS_EXT. */
struct task_struct___ext {
	struct sched_ext_entity scx;
	const struct cpumask *cpus_ptr;
	int nr_cpus_allowed;
};

enum scx_exit_kind { SCX_EXIT_NONE = 0 };

struct scx_exit_info {
	enum scx_exit_kind kind;
	s64 exit_code;
	const char *reason;
	char *msg;
};

#pragma clang attribute pop

/* The callbacks we have, all of them in 6.12 already; libbpf places each by its name. */
struct sched_ext_ops {
	s32 (*select_cpu)(struct task_struct *p, s32 prev_cpu, u64 wake_flags);
	void (*enqueue)(struct task_struct *p, u64 enq_flags);
	void (*dispatch)(s32 cpu, struct task_struct *prev);
	void (*tick)(struct task_struct *p);
	void (*runnable)(struct task_struct *p, u64 enq_flags);
	void (*running)(struct task_struct *p);
	void (*stopping)(struct task_struct *p, bool runnable);
	bool (*yield)(struct task_struct *from, struct task_struct *to);
	void (*enable)(struct task_struct *p);
	s32 (*init)(void);
	void (*exit)(struct scx_exit_info *info);
	u64 flags;
	u32 timeout_ms;
	char name[128];
};

/* The values here are never used: each is looked up in the running kernel. */
enum scx_dsq_id_flags { SCX_DSQ_LOCAL = 0x8000000000000002ULL };
enum scx_ent_flags { SCX_TASK_QUEUED = 1 };
enum scx_kick_flags { SCX_KICK_IDLE = 1 };

#define DSQ_LOCAL bpf_core_enum_value(enum scx_dsq_id_flags, SCX_DSQ_LOCAL)
#define TASK_QUEUED bpf_core_enum_value(enum scx_ent_flags, SCX_TASK_QUEUED)
#define KICK_IDLE bpf_core_enum_value(enum scx_kick_flags, SCX_KICK_IDLE)

struct bpf_iter_scx_dsq {
	u64 __opaque[6];
} __attribute__((aligned(8)));

struct bpf_iter_num {
	u64 __opaque[1];
} __attribute__((aligned(8)));

extern s32 scx_bpf_create_dsq(u64 dsq, s32 node) __weak __ksym;
extern s32 scx_bpf_dsq_nr_queued(u64 dsq) __weak __ksym;
extern void scx_bpf_kick_cpu(s32 cpu, u64 flags) __weak __ksym;
extern s32 scx_bpf_pick_idle_cpu(const struct cpumask *allowed, u64 flags) __weak __ksym;
extern bool bpf_cpumask_test_cpu(u32 cpu, const struct cpumask *mask) __weak __ksym;
extern int bpf_iter_scx_dsq_new(struct bpf_iter_scx_dsq *it, u64 dsq, u64 flags) __weak __ksym;
extern struct task_struct *bpf_iter_scx_dsq_next(struct bpf_iter_scx_dsq *it) __weak __ksym;
extern void bpf_iter_scx_dsq_destroy(struct bpf_iter_scx_dsq *it) __weak __ksym;
extern int bpf_iter_num_new(struct bpf_iter_num *it, int start, int end) __weak __ksym;
extern int *bpf_iter_num_next(struct bpf_iter_num *it) __weak __ksym;
extern void bpf_iter_num_destroy(struct bpf_iter_num *it) __weak __ksym;

/* Since 6.12, and since 6.15 for the second. */
extern s32 scx_bpf_select_cpu_dfl(struct task_struct *p, s32 prev, u64 wake_flags, bool *idle) __weak __ksym;
extern s32 scx_bpf_select_cpu_and(struct task_struct *p, s32 prev, u64 wake_flags, const struct cpumask *allowed,
				  u64 flags) __weak __ksym;

/* The CPU for a thread that wakes; *idle when it is idle and now taken. */
static __always_inline s32 select_cpu(struct task_struct *p, s32 prev, u64 wake_flags, bool *idle)
{
	s32 cpu;

	*idle = false;
	if (bpf_ksym_exists(scx_bpf_select_cpu_dfl))
		return scx_bpf_select_cpu_dfl(p, prev, wake_flags, idle);
	if (bpf_ksym_exists(scx_bpf_select_cpu_and)) {
		cpu = scx_bpf_select_cpu_and(p, prev, wake_flags, ((struct task_struct___ext *)p)->cpus_ptr, 0);
		*idle = cpu >= 0;
		return *idle ? cpu : prev;
	}
	return prev;
}

/* 6.13 gave these three the names they have now. */
extern void scx_bpf_dsq_insert(struct task_struct *p, u64 dsq, u64 slice, u64 enq_flags) __weak __ksym;
extern void scx_bpf_dispatch(struct task_struct *p, u64 dsq, u64 slice, u64 enq_flags) __weak __ksym;
extern void scx_bpf_dsq_insert_vtime(struct task_struct *p, u64 dsq, u64 slice, u64 vtime, u64 enq_flags) __weak __ksym;
extern void scx_bpf_dispatch_vtime(struct task_struct *p, u64 dsq, u64 slice, u64 vtime, u64 enq_flags) __weak __ksym;
extern bool scx_bpf_dsq_move_to_local(u64 dsq) __weak __ksym;
extern bool scx_bpf_consume(u64 dsq) __weak __ksym;

static __always_inline void dsq_insert(struct task_struct *p, u64 dsq, u64 slice, u64 enq_flags)
{
	if (bpf_ksym_exists(scx_bpf_dsq_insert))
		scx_bpf_dsq_insert(p, dsq, slice, enq_flags);
	else
		scx_bpf_dispatch(p, dsq, slice, enq_flags);
}

/* 6.19 packs the numbers of the second one into a structure, and keeps this one for a time. */
struct scx_bpf_dsq_insert_vtime_args {
	u64 dsq_id;
	u64 slice;
	u64 vtime;
	u64 enq_flags;
} __attribute__((preserve_access_index));
extern bool __scx_bpf_dsq_insert_vtime(struct task_struct *p, struct scx_bpf_dsq_insert_vtime_args *args) __weak __ksym;

static __always_inline void dsq_insert_vtime(struct task_struct *p, u64 dsq, u64 slice, u64 vtime, u64 enq_flags)
{
	if (bpf_ksym_exists(scx_bpf_dsq_insert_vtime)) {
		scx_bpf_dsq_insert_vtime(p, dsq, slice, vtime, enq_flags);
	} else if (bpf_ksym_exists(__scx_bpf_dsq_insert_vtime)) {
		struct scx_bpf_dsq_insert_vtime_args args = {
			.dsq_id = dsq, .slice = slice, .vtime = vtime, .enq_flags = enq_flags,
		};

		__scx_bpf_dsq_insert_vtime(p, &args);
	} else {
		scx_bpf_dispatch_vtime(p, dsq, slice, vtime, enq_flags);
	}
}

static __always_inline bool dsq_move_to_local(u64 dsq)
{
	if (bpf_ksym_exists(scx_bpf_dsq_move_to_local))
		return scx_bpf_dsq_move_to_local(dsq);
	return scx_bpf_consume(dsq);
}

/* 6.19; before, a scheduler writes the fields itself. */
extern bool scx_bpf_task_set_slice(struct task_struct *p, u64 slice) __weak __ksym;
extern bool scx_bpf_task_set_dsq_vtime(struct task_struct *p, u64 vtime) __weak __ksym;

static __always_inline void set_slice(struct task_struct *p, u64 slice)
{
	if (bpf_ksym_exists(scx_bpf_task_set_slice))
		scx_bpf_task_set_slice(p, slice);
	else
		((struct task_struct___ext *)p)->scx.slice = slice;
}

static __always_inline void set_vtime(struct task_struct *p, u64 vtime)
{
	if (bpf_ksym_exists(scx_bpf_task_set_dsq_vtime))
		scx_bpf_task_set_dsq_vtime(p, vtime);
	else
		((struct task_struct___ext *)p)->scx.dsq_vtime = vtime;
}

static __always_inline struct sched_ext_entity *entity(struct task_struct *p)
{
	return &((struct task_struct___ext *)p)->scx;
}

#endif
