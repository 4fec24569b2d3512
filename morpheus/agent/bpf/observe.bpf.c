// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Observe mode: tracing programs only, no change to scheduling. A worker is hinted when somebody waits for the CPU it
 * runs on (a wake-up there, or a look at the run queue after each millisecond of its own CPU time), when its control
 * group's quota is nearly spent, and when its own tasks have waited because it had to wait for the CPU.
 *
 * Nothing of ours runs when threads are switched: what a worker did is in the kernel's own accounts of the thread, and is
 * copied to its line at its wake-ups and ticks. Threads that are no workers pay for a few loads per wake-up.
 *
 * Somebody who waits is a thread of a program, and not one of a small fraction of the worker's weight. The kernel's own threads are none: their work is short, the kernel's
 * scheduler lets them in by itself, and one of them always has some housekeeping to do, on an idle machine, too.
 */
#include "maps.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* QUOTA is given when less than this many ns of it are left for the whole group. */
const volatile __u64 quota_low_ns = 10000000;

/*
 * LOCAL is for workers with tasks of their own, which said at their registration how long one of these may go on: the tasks
 * shall change places after as much of the worker's own CPU time without a hint or a sleep. A connection with data waits
 * for a thread of the runtime to look, and for no CPU; nobody sees it from here. It comes earlier to a worker that waited
 * for its CPU for as long as this between two ticks: what is in its own queue waited with it. In ns.
 */
const volatile __u64 local_wait_ns = 500000;

/* A worker's ticks: so many ns of its own CPU time. src/observe.rs: TICK_NS. */
#define MORPHEUS_TICK_NS 1000000

extern struct task_struct *bpf_task_from_pid(s32 pid) __ksym;
extern void bpf_task_release(struct task_struct *task) __ksym;

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

/* What became of the latest hint, by the thread's switches since. */
static __always_inline void judge(struct morpheus_view *view, struct task_struct *task, __u64 now)
{
	bool involuntary = (__u32)task->nivcsw != view->ledger->hint_involuntary;
	bool voluntary = (__u32)task->nvcsw != view->ledger->hint_voluntary;

	morpheus_judge(view, now, involuntary || voluntary, involuntary);
}

static __always_inline __u64 run_delay(struct task_struct *task)
{
	return bpf_core_field_exists(task->sched_info.run_delay) ? task->sched_info.run_delay : 0;
}

/* Copies the thread's accounts to its line. `ran`: its CPU time in ns since the first tick. */
static __always_inline void account(struct morpheus_view *view, struct task_struct *task, __u64 now, __u64 ran)
{
	struct morpheus_ledger *ledger = view->ledger;
	struct morpheus_kernel_line *kernel = view->kernel;
	__u64 wall = now - ledger->base_ns;

	/* CPU time comes from two clocks, by a tick or a wake-up: what was off the CPU never grows less. */
	if (wall > ran && wall - ran > kernel->off_cpu_ns)
		WRITE_ONCE(kernel->off_cpu_ns, wall - ran);
	WRITE_ONCE(kernel->runqueue_wait_ns, run_delay(task) - ledger->base_delay_ns);
	WRITE_ONCE(kernel->involuntary_switches, (__u32)task->nivcsw - ledger->base_involuntary);
	judge(view, task, now);
}

static __always_inline bool hint(struct morpheus_view *view, struct task_struct *task, __u32 reason, __u64 now,
				 __u64 deadline)
{
	if (!morpheus_running(view))
		return false;
	if (morpheus_pending(view)) {
		/* Somebody else who waits comes before the worker's own tasks: the hint that is pending becomes his. */
		if (reason != MORPHEUS_REASON_WAITER || view->kernel->reason != MORPHEUS_REASON_LOCAL)
			return false;
		morpheus_overtake(view);
	}
	/* The one before, before this one takes its place. */
	judge(view, task, now);
	view->ledger->hint_voluntary = task->nvcsw;
	view->ledger->hint_involuntary = task->nivcsw;
	return morpheus_publish(view, reason, now, deadline);
}

/* The task's run queue; NULL where the kernel has no groups of threads (CONFIG_FAIR_GROUP_SCHED). */
static __always_inline struct rq *queue_of(struct task_struct *task)
{
	struct cfs_rq *own = task->se.cfs_rq;

	return bpf_core_field_exists(own->rq) && own ? own->rq : NULL;
}

/* Whether a thread may wait without anybody minding. */
static __always_inline bool can_wait(u32 flags, u32 policy, pid_t tgid)
{
	return (flags & PF_KTHREAD) || policy == SCHED_IDLE_POLICY || tgid == morpheus_agent_tgid;
}

/* Levels of control groups that are looked at. */
#define LEVELS 6
/* A thread, or the group it is in, of less than the worker's weight divided by this is light. */
#define LIGHT 20

/*
 * Whether a thread on the worker's CPU is so light beside it (nice, cpu.weight) that the kernel would hardly ever let it in:
 * it has had its share after a moment and waits nearly always, and a yield is in vain until the worker has had its own.
 * That wait is what weights are for, so nobody minds it. What counts is where the two meet: themselves in one group, else
 * their groups.
 */
static __noinline bool is_light(struct task_struct *waits, struct task_struct *works)
{
	struct sched_entity *waiter = &waits->se, *worker = &works->se;
	__u64 light, heavy;
	int level, depth, other;

	if (!bpf_core_field_exists(waiter->depth) || !bpf_core_field_exists(waiter->parent))
		return 0;
	for (level = 0; level < LEVELS; level++) {
		if (!waiter || !worker)
			return 0;
		if (BPF_CORE_READ(waiter, cfs_rq) == BPF_CORE_READ(worker, cfs_rq)) {
			light = BPF_CORE_READ(waiter, load.weight);
			heavy = BPF_CORE_READ(worker, load.weight);
			return light * LIGHT < heavy;
		}
		depth = BPF_CORE_READ(waiter, depth);
		other = BPF_CORE_READ(worker, depth);
		if (depth >= other)
			waiter = BPF_CORE_READ(waiter, parent);
		if (other >= depth)
			worker = BPF_CORE_READ(worker, parent);
	}
	return 0;
}

/* A thread became runnable on its CPU. */
static __always_inline int woken(struct task_struct *task)
{
	struct rq *rq = queue_of(task);
	struct task_struct *current;
	struct morpheus_view view;
	__u64 place;

	place = place_of(task);
	/* It was off the CPU, so the kernel's account of its CPU time is up to date. */
	if (place && view_of(place, &view) && view.ledger->base_ns)
		account(&view, task, bpf_ktime_get_ns(), task->se.sum_exec_runtime - view.ledger->base_exec_ns);

	if (!rq)
		return 0;
	current = rq->curr;
	/* The thread that has the CPU is no worker: that is all most wake-ups come to. */
	if (!current || (bpf_core_field_exists(current->bpf_storage) && !current->bpf_storage))
		return 0;
	if (can_wait(task->flags, task->policy, task->tgid))
		return 0;
	/* The verifier believes no pointer out of a queue; by its number the kernel gives the thread once more. */
	current = bpf_task_from_pid(current->pid);
	if (!current)
		return 0;
	/* The thread itself: woken before it was switched out. */
	if (current->pid != task->pid) {
		place = place_of(current);
		if (place && view_of(place, &view) && !is_light(task, current))
			hint(&view, current, MORPHEUS_REASON_WAITER, bpf_ktime_get_ns(), MORPHEUS_NO_DEADLINE);
	}
	bpf_task_release(current);
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

/* Runnable threads looked at; with more of them somebody surely waits. */
#define LOOKED_AT 16

/*
 * Whether a thread that cannot wait is among the runnable ones of this queue, `self` left out. The list changes while we
 * walk it: what is read through a stale entry is nonsense, not a fault, and costs a hint at worst.
 */
static __always_inline bool one_minds(struct rq *rq, struct task_struct *self)
{
	struct list_head *entry;
	struct task_struct *task;
	__u64 head = (__u64)&rq->cfs_tasks;
	int i;

	if (!bpf_core_field_exists(rq->cfs_tasks) || !bpf_core_field_exists(self->se.group_node))
		return true;
	entry = BPF_CORE_READ(rq, cfs_tasks.next);
	for (i = 0; i < LOOKED_AT; i++) {
		if (!entry || (__u64)entry == head)
			return false;
		task = (void *)entry - __builtin_preserve_field_info(self->se.group_node, BPF_FIELD_BYTE_OFFSET);
		if (BPF_CORE_READ(task, pid) != self->pid &&
		    !(bpf_core_field_exists(task->se.sched_delayed) && BPF_CORE_READ(task, se.sched_delayed)) &&
		    !can_wait(BPF_CORE_READ(task, flags), BPF_CORE_READ(task, policy), BPF_CORE_READ(task, tgid)) &&
		    !is_light(task, self))
			return true;
		entry = BPF_CORE_READ(entry, next);
	}
	return true;
}

/*
 * Whether somebody waits on this task's CPU. Since 6.12 a sleeping task may stay on its queue ("delayed dequeue") and is
 * counted in rq.nr_running: only the count of runnable ones tells.
 */
static __always_inline bool somebody_waits(struct task_struct *task)
{
	struct rq *rq = queue_of(task);
	struct cfs_rq___before_6_14 *old;
	struct rq___ext *ext;
	__u32 runnable = 0, others = 0;

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
		others = BPF_CORE_READ(ext, scx.nr_running);
	if (runnable + others <= 1)
		return false;
	return others || one_minds(rq, task);
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

/* Begins to count anew the worker's own time without a hint or a sleep, when there was one. `count`: its CPU time in ns. */
static __always_inline void count_rotation(struct morpheus_view *view, struct task_struct *task, __u64 count)
{
	struct morpheus_ledger *ledger = view->ledger;
	__u32 seq = view->kernel->hint_seq + (__u32)task->nvcsw;

	if (seq != ledger->rotated_seq || !ledger->rotated_count_ns) {
		ledger->rotated_seq = seq;
		ledger->rotated_count_ns = count;
	}
}

/* After each millisecond of a worker's own CPU time: a clock event of that thread, so that no other thread pays for it. */
SEC("perf_event")
int observe_tick(struct bpf_perf_event_data *context)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 place = place_of(task), now, ran, slice, delay, waited_ns, left = 0;
	struct bpf_perf_event_value clock = {};
	struct morpheus_ledger *ledger;
	struct quota quota = {};
	struct morpheus_view view;
	bool limited, whole_tick, waited, waits, rotates;
	__u32 switches;

	if (!place || !view_of(place, &view))
		return 0;
	/* The event itself counts the thread's CPU time; the scheduler's account may be as old as its own tick. */
	if (bpf_perf_prog_read_value(context, &clock, sizeof(clock)))
		return 0;
	now = bpf_ktime_get_ns();
	ledger = view.ledger;
	if (!ledger->base_ns) {
		ledger->base_exec_ns = task->se.sum_exec_runtime;
		ledger->base_delay_ns = run_delay(task);
		ledger->base_count_ns = clock.counter;
		ledger->base_involuntary = task->nivcsw;
		ledger->base_ns = now;
	}
	account(&view, task, now, clock.counter - ledger->base_count_ns);

	/* For information: the slice by the scheduler's account, and the quota. */
	ran = task->se.sum_exec_runtime - task->se.prev_sum_exec_runtime;
	slice = task->se.slice;
	if (slice > ran)
		left = slice - ran;
	limited = quota_of(task, &quota);
	if (limited && quota.left_ns < left)
		left = quota.left_ns;
	WRITE_ONCE(view.kernel->budget_remaining_ns, left);

	/*
	 * Only a worker that has had the CPU since the last tick, a whole millisecond, is asked for it, and only when somebody
	 * waited then and now: a thread that is about to be switched to is no waiter.
	 */
	switches = task->nvcsw + task->nivcsw;
	whole_tick = switches == ledger->tick_switches;
	ledger->tick_switches = switches;
	waited = ledger->tick_waiter;
	waits = somebody_waits(task);
	ledger->tick_waiter = waits;
	delay = run_delay(task);
	waited_ns = ledger->tick_delay_ns ? delay - ledger->tick_delay_ns : 0;
	ledger->tick_delay_ns = delay;
	count_rotation(&view, task, clock.counter);
	/* To the nearest tick. */
	rotates = ledger->rotation_ns &&
		  (waited_ns >= local_wait_ns ||
		   clock.counter - ledger->rotated_count_ns + MORPHEUS_TICK_NS / 2 >= ledger->rotation_ns);
	if (morpheus_pressure_is_due(ledger, now)) {
		/* Whoever waits is asked for again at the next tick. */
		if (hint(&view, task, MORPHEUS_REASON_PRESSURE, now, MORPHEUS_NO_DEADLINE))
			ledger->pressure_ns = now;
	} else if (whole_tick && waited && waits)
		hint(&view, task, MORPHEUS_REASON_WAITER, now, MORPHEUS_NO_DEADLINE);
	else if (limited && quota.left_ns < quota_low_ns)
		hint(&view, task, MORPHEUS_REASON_QUOTA, now, quota.refill_ns);
	else if (rotates)
		hint(&view, task, MORPHEUS_REASON_LOCAL, now, MORPHEUS_NO_DEADLINE);
	count_rotation(&view, task, clock.counter);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(observe_exit, struct task_struct *task)
{
	morpheus_bury(task);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(observe_exec, struct task_struct *task, pid_t old_pid)
{
	morpheus_bury(task);
	return 0;
}
