// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Enforce mode: our scheduler, for every thread of the normal class.
 *
 * One queue per cache domain, ordered by virtual time: a thread's clock runs slower the more weight it has, and the thread
 * whose clock is furthest behind runs next. A CPU whose own queue is empty takes from the others; one whose queue is much
 * shorter than the longest sometimes does, so that no domain is left behind.
 *
 * A worker is treated like any thread, but for three things, all decided by the tick on its own CPU, where its page cannot
 * change meanwhile: at about 65 % of its slice it is hinted if somebody waits; inside a critical section its slice is
 * extended once, by one slice; and when it has consented, ignores a hint and has had its grace time, the slice ends early.
 * All a worker loses by that is the rest of this slice.
 */
#include "sched_ext.bpf.h"
#include "enforce_maps.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline u32 domain_of(s32 cpu)
{
	return settings.domain_of_cpu[cpu & (MORPHEUS_CPUS - 1)];
}

static __always_inline struct domain *domain_at(u32 index)
{
	return bpf_map_lookup_elem(&domains, &index);
}

static __always_inline struct here *here_at(u32 cpu)
{
	return bpf_map_lookup_elem(&cpus, &cpu);
}

static __always_inline bool before(u64 a, u64 b)
{
	return (s64)(a - b) < 0;
}

/* ns of CPU time as virtual time of this thread. The weight is 1..=10000, 100 for nice 0. */
static __always_inline u64 scaled(struct task_struct *p, u64 ns)
{
	u32 weight = entity(p)->weight;

	return ns * 100 / (weight ? weight : 1);
}

/*
 * A thread's clock among those of a domain. It may lag by one slice, so that sleeping saves up no claim, and lead by what
 * two slices cost it: more can only come from another domain, whose clock is another.
 */
static __always_inline u64 clamped(struct task_struct *p, u64 clock)
{
	u64 own = entity(p)->dsq_vtime, lead = clock + 2 * scaled(p, settings.slice_ns);

	if (before(own, clock - settings.slice_ns))
		return clock - settings.slice_ns;
	return before(lead, own) ? lead : own;
}

/* A slice of this thread begins: the domain's clock is not behind it. */
static __always_inline void begin_slice(struct task_struct *p, struct here *here, struct domain *domain, u64 now)
{
	if (before(domain->clock, entity(p)->dsq_vtime))
		domain->clock = clamped(p, domain->clock);
	here->charged_ns = now;
	here->slice_began_ns = now;
	here->extended = 0;
	here->leaves = 0;
}

/* Charges the thread for its time on this CPU until now. */
static __always_inline void charge(struct task_struct *p, struct here *here, u64 now)
{
	struct domain *domain = domain_at(domain_of(bpf_get_smp_processor_id()));

	if (domain && here->charged_ns && now > here->charged_ns)
		set_vtime(p, clamped(p, domain->clock) + scaled(p, now - here->charged_ns));
	here->charged_ns = now;
}

SEC("struct_ops")
s32 BPF_PROG(enforce_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool idle;
	s32 cpu = select_cpu(p, prev_cpu, wake_flags, &idle);

	if (idle && !(settings.never_run_tid && p->pid == settings.never_run_tid))
		dsq_insert(p, DSQ_LOCAL, settings.slice_ns, 0);
	return cpu;
}

SEC("struct_ops")
void BPF_PROG(enforce_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct task_struct___ext *ext = (struct task_struct___ext *)p;
	struct domain *domain;
	s32 cpu = p->thread_info.cpu;
	u32 index = domain_of(cpu);
	u64 vtime;

	if (settings.never_run_tid && p->pid == settings.never_run_tid)
		return;
	/* The kernel's own threads of one CPU do short work that others wait for, and can go nowhere else. */
	if ((p->flags & PF_KTHREAD) && ext->nr_cpus_allowed == 1) {
		dsq_insert(p, DSQ_LOCAL, settings.slice_ns, enq_flags);
		return;
	}
	domain = domain_at(index);
	if (!domain)
		return;
	vtime = clamped(p, domain->clock);
	dsq_insert_vtime(p, index, settings.slice_ns, vtime, enq_flags);
	/* A CPU may have become idle since one was looked for, or none was. */
	scx_bpf_kick_cpu(cpu, KICK_IDLE);
	if (bpf_ksym_exists(scx_bpf_pick_idle_cpu) && ext->nr_cpus_allowed > 1) {
		cpu = scx_bpf_pick_idle_cpu(ext->cpus_ptr, 0);
		if (cpu >= 0)
			scx_bpf_kick_cpu(cpu, KICK_IDLE);
	}
}

/* The domain with the longest queue, if that is much longer than this one's; else `own`. */
static __always_inline u32 busiest(u32 own)
{
	s32 longest = 2 * scx_bpf_dsq_nr_queued(own) + 4, queued;
	u32 found = own;
	int i;

	bpf_for(i, 0, settings.domain_count) {
		queued = scx_bpf_dsq_nr_queued(i);
		if (queued > longest) {
			longest = queued;
			found = i;
		}
	}
	return found;
}

/*
 * Whether this thread's clock is behind that of the next one that could run on this CPU, so that another slice is its due.
 * Not so when nobody waits, or when the queue cannot be looked into.
 */
static __always_inline bool is_ahead_of_queue(struct task_struct *p, u32 cpu, u64 queue)
{
	u64 own = entity(p)->dsq_vtime;
	struct task_struct *next;
	u32 looked = 0;

	if (!bpf_ksym_exists(bpf_iter_scx_dsq_new))
		return false;
	bpf_for_each(scx_dsq, next, queue, 0) {
		if (bpf_cpumask_test_cpu(cpu, ((struct task_struct___ext *)next)->cpus_ptr))
			return before(own, entity(next)->dsq_vtime);
		if (++looked == 64)
			return false;
	}
	return false;
}

/* A new slice for the thread that runs and was just charged. */
static __always_inline void go_on(struct task_struct *p, struct here *here, u32 own)
{
	struct domain *domain = domain_at(own);

	if (domain)
		begin_slice(p, here, domain, here->charged_ns);
	set_slice(p, settings.slice_ns);
}

SEC("struct_ops")
void BPF_PROG(enforce_dispatch, s32 cpu, struct task_struct *prev)
{
	u32 own = domain_of(cpu), other;
	struct here *here = here_at(cpu);
	bool competes;
	int i;

	if (!here)
		return;
	if (settings.domain_count > 1 && (++here->turns & 3) == 0) {
		other = busiest(own);
		if (other != own && dsq_move_to_local(other))
			return;
	}
	/* The kernel asks before it has put the thread that ran back on the queue: it still competes. */
	competes = prev && (entity(prev)->flags & TASK_QUEUED);
	if (competes) {
		charge(prev, here, bpf_ktime_get_ns());
		if (!here->leaves && is_ahead_of_queue(prev, cpu, own)) {
			go_on(prev, here, own);
			return;
		}
	}
	if (dsq_move_to_local(own))
		return;
	if (settings.domain_count > 1) {
		bpf_for(i, 1, settings.domain_count) {
			other = own + i;
			if (other >= settings.domain_count)
				other -= settings.domain_count;
			if (dsq_move_to_local(other))
				return;
		}
	}
	if (competes)
		go_on(prev, here, own);
}

/* sched_yield: the rest of the slice is given up. */
SEC("struct_ops")
bool BPF_PROG(enforce_yield, struct task_struct *from, struct task_struct *to)
{
	struct here *here = here_at(bpf_get_smp_processor_id());

	if (here)
		here->leaves = 1;
	set_slice(from, 0);
	return false;
}

static __always_inline bool view_here(const struct here *here, struct morpheus_view *view)
{
	return here->line && morpheus_view_of(here->process, here->line, here->generation, view);
}

SEC("struct_ops")
void BPF_PROG(enforce_runnable, struct task_struct *p, u64 enq_flags)
{
	struct morpheus_worker *worker = morpheus_worker_of(p);
	struct morpheus_view view;

	if (worker && morpheus_view_of(worker->process, worker->line, worker->generation, &view) && view.ledger->off_ns &&
	    !view.ledger->runnable_ns)
		view.ledger->runnable_ns = bpf_ktime_get_ns();
}

SEC("struct_ops")
void BPF_PROG(enforce_running, struct task_struct *p)
{
	s32 cpu = bpf_get_smp_processor_id();
	struct here *here = here_at(cpu);
	struct domain *domain = domain_at(domain_of(cpu));
	struct morpheus_worker *worker = morpheus_worker_of(p);
	u64 now = bpf_ktime_get_ns();
	struct morpheus_view view;

	if (!here || !domain)
		return;
	begin_slice(p, here, domain, now);
	here->line = 0;
	if (!worker)
		return;
	here->process = worker->process;
	here->line = worker->line;
	here->generation = worker->generation;
	if (view_here(here, &view))
		morpheus_switched_in(&view, now);
}

/* Adds to the grace time the worker has had since its hint, and gives the sum. */
static __always_inline u64 served(struct task_struct *p, const struct here *here, const struct morpheus_view *view, u64 ns)
{
	struct patience *patience = bpf_task_storage_get(&patiences, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!patience)
		return 0;
	if (patience->seq != view->kernel->hint_seq || patience->generation != here->generation) {
		patience->seq = view->kernel->hint_seq;
		patience->generation = here->generation;
		patience->served_ns = 0;
	} else {
		patience->served_ns += ns;
	}
	return patience->served_ns;
}

static __always_inline void start_over(struct task_struct *p)
{
	struct patience *patience = bpf_task_storage_get(&patiences, p, NULL, 0);

	if (patience)
		patience->served_ns = 0;
}

/* Somebody who may run on this CPU waits, on its own queue or in its domain. */
static __always_inline bool somebody_waits(u32 cpu)
{
	struct task_struct *p;
	u64 own = domain_of(cpu);
	u32 looked = 0;

	if (scx_bpf_dsq_nr_queued(DSQ_LOCAL) > 0)
		return true;
	if (scx_bpf_dsq_nr_queued(own) <= 0)
		return false;
	if (!bpf_ksym_exists(bpf_iter_scx_dsq_new))
		return true;
	bpf_for_each(scx_dsq, p, own, 0) {
		if (bpf_cpumask_test_cpu(cpu, ((struct task_struct___ext *)p)->cpus_ptr))
			return true;
		/* So many threads that are bound to other CPUs stand before it that it need not hurry. */
		if (++looked == 64)
			return false;
	}
	return false;
}

SEC("struct_ops")
void BPF_PROG(enforce_tick, struct task_struct *p)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct here *here = here_at(cpu);
	struct morpheus_case facts = {};
	struct morpheus_view view;
	enum morpheus_verdict verdict;
	u64 now, ran, left;

	if (!here || !view_here(here, &view))
		return;
	now = bpf_ktime_get_ns();
	facts.served_ns = served(p, here, &view, now - here->charged_ns);
	charge(p, here, now);
	left = entity(p)->slice;
	ran = now - here->slice_began_ns;
	WRITE_ONCE(view.kernel->budget_remaining_ns, left);
	morpheus_judge(&view, now, false, true);

	facts.waiters = somebody_waits(cpu);
	facts.hint_seq = view.kernel->hint_seq;
	facts.kernel_generation = view.kernel->slot_generation;
	facts.kernel_state = view.kernel->state;
	facts.ack_seq = READ_ONCE(view.runtime->ack_seq);
	facts.runtime_generation = READ_ONCE(view.runtime->slot_generation);
	facts.runtime_state = READ_ONCE(view.runtime->state);
	facts.escapable = READ_ONCE(view.runtime->escapable);
	facts.policy = READ_ONCE(view.runtime->escalation_policy);
	facts.critical_depth = READ_ONCE(view.runtime->critical_depth);
	facts.grace_ns = READ_ONCE(view.runtime->grace_ns);
	verdict = morpheus_verdict(&facts);
	if (verdict < MORPHEUS_VERDICTS && verdict != MORPHEUS_ANSWERED)
		count(verdict);

	if (verdict == MORPHEUS_ESCALATE) {
		WRITE_ONCE(view.kernel->escalations, view.kernel->escalations + 1);
		start_over(p);
		here->leaves = 1;
		set_slice(p, 0);
		return;
	}
	if (!facts.waiters) {
		if (ran + settings.tick_ns / 2 >= settings.slice_ns * 65 / 100)
			count(COUNT_UNWANTED);
		return;
	}
	if (here->extended) {
		/* The slice proper is over: what was lent for the section ends with it. */
		if (!facts.critical_depth) {
			count(COUNT_DEFERRAL_ENDED);
			here->leaves = 1;
			set_slice(p, 0);
		}
		return;
	}
	if (!left) {
		if (facts.critical_depth && morpheus_running(&view)) {
			here->extended = 1;
			count(COUNT_DEFERRED);
			set_slice(p, settings.slice_ns);
			if (morpheus_hint(&view, MORPHEUS_REASON_SLICE_END, now, now + settings.slice_ns))
				count(COUNT_HINTS);
		}
		return;
	}
	/* The tick nearest to 65 % of the slice, and those after it. */
	if (ran + settings.tick_ns / 2 < settings.slice_ns * 65 / 100)
		return;
	if (morpheus_hint(&view, MORPHEUS_REASON_WAITER, now, now + left))
		count(COUNT_HINTS);
	else
		count(COUNT_HINT_WITHHELD);
}

SEC("struct_ops")
void BPF_PROG(enforce_stopping, struct task_struct *p, bool runnable)
{
	struct here *here = here_at(bpf_get_smp_processor_id());
	struct morpheus_view view;
	u64 now;

	if (!here)
		return;
	now = bpf_ktime_get_ns();
	if (view_here(here, &view)) {
		served(p, here, &view, now - here->charged_ns);
		morpheus_switched_out(&view, now, runnable);
	}
	charge(p, here, now);
	here->line = 0;
}

SEC("struct_ops")
void BPF_PROG(enforce_enable, struct task_struct *p)
{
	struct domain *domain = domain_at(domain_of(p->thread_info.cpu));

	if (domain)
		set_vtime(p, domain->clock);
}

SEC("struct_ops.s")
s32 BPF_PROG(enforce_init)
{
	s32 error, i;

	bpf_for(i, 0, settings.domain_count) {
		error = scx_bpf_create_dsq(i, -1);
		if (error)
			return error;
	}
	return 0;
}

SEC("struct_ops")
void BPF_PROG(enforce_exit, struct scx_exit_info *info)
{
	bpf_probe_read_kernel_str(exit_info.reason, sizeof(exit_info.reason), info->reason);
	bpf_probe_read_kernel_str(exit_info.message, sizeof(exit_info.message), info->msg);
	exit_info.code = info->exit_code;
	__sync_lock_test_and_set(&exit_info.kind, info->kind);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(enforce_thread_exit, struct task_struct *task)
{
	morpheus_bury(task);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(enforce_exec, struct task_struct *task, pid_t old_pid)
{
	morpheus_bury(task);
	return 0;
}

_Static_assert(__builtin_offsetof(struct sched_ext_ops, timeout_ms) == 96, "src/enforce/settings.rs");

SEC(".struct_ops.link")
struct sched_ext_ops morpheus_ops = {
	.select_cpu = (void *)enforce_select_cpu,
	.enqueue = (void *)enforce_enqueue,
	.dispatch = (void *)enforce_dispatch,
	.yield = (void *)enforce_yield,
	.tick = (void *)enforce_tick,
	.runnable = (void *)enforce_runnable,
	.running = (void *)enforce_running,
	.stopping = (void *)enforce_stopping,
	.enable = (void *)enforce_enable,
	.init = (void *)enforce_init,
	.exit = (void *)enforce_exit,
	/* The kernel's watchdog: no thread waits longer, or the system's own scheduler takes over. At most 30000. */
	.timeout_ms = 30000,
	.name = "morpheus",
};
