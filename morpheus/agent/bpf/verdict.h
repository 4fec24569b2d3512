/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The guardrails as one decision: may this worker's slice be ended because it ignores a hint? Plain C without a kernel, so
 * that the tests compile it natively and try it a million times against a model.
 */
#ifndef MORPHEUS_VERDICT_H
#define MORPHEUS_VERDICT_H

/* The first that holds, in this order; src/enforce/counts.rs has the same. */
enum morpheus_verdict {
	/* The worker has no unanswered hint. */
	MORPHEUS_ANSWERED,
	/* It is not at work, or the line is of another registration. */
	MORPHEUS_WRONG_STATE,
	/* Ending its slice would help nobody. */
	MORPHEUS_NOBODY_WAITS,
	/* It has not consented. */
	MORPHEUS_NO_CONSENT,
	/* It is inside a critical section. */
	MORPHEUS_CRITICAL,
	/* It has not yet had its grace time on the CPU since the hint, or since the last escalation. */
	MORPHEUS_GRACE,
	MORPHEUS_ESCALATE,
	MORPHEUS_VERDICTS,
};

/* What is known of the worker at this tick, in the words of the pages. */
struct morpheus_case {
	/* ns on the CPU since the hint, or since the last escalation. */
	unsigned long long served_ns;
	unsigned int hint_seq;
	unsigned int ack_seq;
	unsigned int kernel_generation;
	unsigned int runtime_generation;
	unsigned int kernel_state;
	unsigned int runtime_state;
	unsigned int waiters;
	unsigned int escapable;
	unsigned int policy;
	unsigned int critical_depth;
	unsigned int grace_ns;
};

static inline __attribute__((always_inline)) enum morpheus_verdict morpheus_verdict(const struct morpheus_case *c)
{
	if (c->hint_seq == c->ack_seq)
		return MORPHEUS_ANSWERED;
	if (c->runtime_state != MORPHEUS_STATE_RUNNING ||
	    (c->kernel_state != MORPHEUS_STATE_REGISTERED && c->kernel_state != MORPHEUS_STATE_RUNNING) ||
	    !c->kernel_generation || c->kernel_generation != c->runtime_generation)
		return MORPHEUS_WRONG_STATE;
	if (!c->waiters)
		return MORPHEUS_NOBODY_WAITS;
	if (c->escapable != 1 || c->policy != MORPHEUS_POLICY_SLICE_END)
		return MORPHEUS_NO_CONSENT;
	if (c->critical_depth)
		return MORPHEUS_CRITICAL;
	if (c->served_ns < c->grace_ns)
		return MORPHEUS_GRACE;
	return MORPHEUS_ESCALATE;
}

#endif
