// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Observe mode: tracing programs only, no change to scheduling. A worker is hinted when somebody waits for the CPU it
 * runs on (a wake-up there, or a look at the run queue after each millisecond of its own CPU time) and when its control
 * group's quota is nearly spent. Threads that are no workers pay for one load per switch and one array look-up per wake-up.
 */
#include "maps.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* A worker that has just come to the CPU is left alone for so long, in ns. */
const volatile __u64 grace_on_cpu_ns = 500000;
/* QUOTA is given when less than this many ns of it are left for the whole group. */
const volatile __u64 quota_low_ns = 10000000;

/* Which worker runs on a CPU: process, line and generation in one number, 0 for none. A cache line each. */
struct running {
	__u64 place;
	__u64 pad[7];
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* set to the number of CPUs before loading */
	__type(key, __u32);
	__type(value, struct running);
} running SEC(".maps");

/* The place of the thread's worker, 0 for none. A number and no pointer: the compiler may carry it over branches freely. */
static __always_inline __u64 place_of(struct task_struct *task)
{
	struct morpheus_worker *worker = morpheus_worker_of(task);

	return worker ? (__u64)worker->generation << 32 | worker->process << 8 | worker->line : 0;
}

static __always_inline bool view_of(__u64 place, struct morpheus_view *view)
{
	return morpheus_view_of((place & 0xffffffff) >> 8, place & 0xff, place >> 32, view);
}

SEC("tp_btf/sched_switch")
int BPF_PROG(observe_switch, bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int prev_state)
{
	__u64 out = place_of(prev), in = place_of(next), now;
	struct morpheus_view view;
	struct running *here;
	__u32 cpu;

	if (!out && !in)
		return 0;
	cpu = bpf_get_smp_processor_id();
	here = bpf_map_lookup_elem(&running, &cpu);
	if (!here)
		return 0;
	now = bpf_ktime_get_ns();
	WRITE_ONCE(here->place, in);
	if (out && view_of(out, &view))
		morpheus_switched_out(&view, now, preempt || prev_state == 0);
	if (in && view_of(in, &view))
		morpheus_switched_in(&view, now);
	return 0;
}

/* A thread became runnable on its CPU. */
static __always_inline int woken(struct task_struct *task)
{
	__u64 own = place_of(task), place;
	struct morpheus_view view;
	struct running *there;
	__u32 cpu = task->thread_info.cpu;

	if (own && view_of(own, &view) && view.ledger->off_ns)
		view.ledger->runnable_ns = bpf_ktime_get_ns();

	there = bpf_map_lookup_elem(&running, &cpu);
	if (!there)
		return 0;
	place = READ_ONCE(there->place);
	/* Nobody of ours there, or the worker itself: woken before it was switched out. */
	if (!place || place == own)
		return 0;
	/* A kernel thread gets the CPU at once or is seen by the tick; an idle-class thread can wait by definition. */
	if ((task->flags & PF_KTHREAD) || task->policy == SCHED_IDLE_POLICY)
		return 0;
	if (view_of(place, &view))
		morpheus_hint(&view, MORPHEUS_REASON_WAITER, bpf_ktime_get_ns(), MORPHEUS_NO_DEADLINE);
	else
		/* Unregistered while it ran: forget it, unless another came meanwhile. */
		__sync_val_compare_and_swap(&there->place, place, 0);
	return 0;
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(observe_wakeup, struct task_struct *task)
{
	return woken(task);
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(observe_new, struct task_struct *task)
{
	return woken(task);
}

/*
 * Whether somebody waits on this task's CPU. Since 6.12 a sleeping task may stay on its queue ("delayed dequeue") and is
 * counted in rq.nr_running: only the count of runnable ones tells.
 */
static __always_inline bool somebody_waits(struct task_struct *task)
{
	struct cfs_rq *own = task->se.cfs_rq;
	struct cfs_rq___before_6_14 *old;
	struct rq___ext *ext;
	struct rq *rq;
	__u32 runnable = 0;

	if (!bpf_core_field_exists(own->rq) || !own)
		return false;
	rq = own->rq;
	if (!rq)
		return false;
	if (bpf_core_field_exists(rq->cfs.h_nr_runnable)) {
		runnable = rq->cfs.h_nr_runnable;
	} else {
		old = (void *)&rq->cfs;
		if (bpf_core_field_exists(old->h_nr_running))
			runnable = BPF_CORE_READ(old, h_nr_running);
		if (bpf_core_field_exists(old->h_nr_delayed))
			runnable -= BPF_CORE_READ(old, h_nr_delayed);
	}
	ext = (void *)rq;
	if (bpf_core_field_exists(ext->scx.nr_running))
		runnable += BPF_CORE_READ(ext, scx.nr_running);
	return runnable > 1;
}

/* The tightest CPU quota the task is under: ns left to its group in this period and when it is refilled. */
struct quota {
	__u64 left_ns;
	__u64 refill_ns;
};

static __always_inline bool quota_of(struct task_struct *task, struct quota *quota)
{
	struct sched_entity *entity = &task->se;
	struct cfs_rq *queue = NULL;
	bool found = false;
	__s64 local;
	__u64 left;
	int depth;

	if (!bpf_core_field_exists(queue->runtime_enabled))
		return false;
	for (depth = 0; depth < 8; depth++) {
		queue = BPF_CORE_READ(entity, cfs_rq);
		if (queue && BPF_CORE_READ(queue, runtime_enabled)) {
			left = BPF_CORE_READ(queue, tg, cfs_bandwidth.runtime);
			local = BPF_CORE_READ(queue, runtime_remaining);
			if (local > 0)
				left += local;
			if (!found || left < quota->left_ns) {
				quota->left_ns = left;
				quota->refill_ns = BPF_CORE_READ(queue, tg, cfs_bandwidth.period_timer._softexpires);
				found = true;
			}
		}
		entity = BPF_CORE_READ(entity, parent);
		if (!entity)
			break;
	}
	return found;
}

/* After each millisecond of a worker's own CPU time: a clock event of that thread, so that no other thread pays for it. */
SEC("perf_event")
int observe_tick(void *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 place = place_of(task), now, ran, slice, left = 0;
	struct quota quota = {};
	struct morpheus_view view;
	bool limited;

	if (!place || !view_of(place, &view))
		return 0;
	now = bpf_ktime_get_ns();
	morpheus_judge(&view, now, false, true);

	ran = task->se.sum_exec_runtime - task->se.prev_sum_exec_runtime;
	slice = task->se.slice;
	if (slice > ran)
		left = slice - ran;
	limited = quota_of(task, &quota);
	if (limited && quota.left_ns < left)
		left = quota.left_ns;
	WRITE_ONCE(view.kernel->budget_remaining_ns, left);

	if (now - view.ledger->on_ns >= grace_on_cpu_ns && somebody_waits(task))
		morpheus_hint(&view, MORPHEUS_REASON_WAITER, now, MORPHEUS_NO_DEADLINE);
	else if (limited && quota.left_ns < quota_low_ns)
		morpheus_hint(&view, MORPHEUS_REASON_QUOTA, now, quota.refill_ns);
	return 0;
}

/* Both happen on the thread's own CPU. Its last switch will find no worker any more, so the CPU forgets it here. */
static __always_inline int ended(struct task_struct *task)
{
	__u32 cpu = bpf_get_smp_processor_id();
	struct running *here;

	if (!morpheus_bury(task))
		return 0;
	here = bpf_map_lookup_elem(&running, &cpu);
	if (here)
		WRITE_ONCE(here->place, 0);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(observe_exit, struct task_struct *task)
{
	return ended(task);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(observe_exec, struct task_struct *task, pid_t old_pid)
{
	return ended(task);
}
