/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The part of the kernel's types our programs read. Written by hand from a 6.18 and a 7.2 kernel; every structure is
 * relocated when a program is loaded (CO-RE), so only the names must agree with the running kernel, not the places.
 * A field that some kernels lack is read behind bpf_core_field_exists().
 */
#ifndef __VMLINUX_H__
#define __VMLINUX_H__

typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u8 u8;
typedef __s8 s8;
typedef __u16 u16;
typedef __s16 s16;
typedef __u32 u32;
typedef __s32 s32;
typedef __u64 u64;
typedef __s64 s64;
typedef _Bool bool;
typedef int pid_t;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef __s64 ktime_t;
enum { false = 0, true = 1 };

#define NULL ((void *)0)

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_ARRAY_OF_MAPS = 12,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
};

enum {
	BPF_F_NO_PREALLOC = 1U << 0,
	BPF_F_MMAPABLE = 1U << 10,
};

enum {
	BPF_LOCAL_STORAGE_GET_F_CREATE = 1ULL << 0,
};

/* include/uapi/linux/bpf.h: the kernel's promise to user space, nothing to relocate. */
struct bpf_perf_event_data;
struct bpf_perf_event_value {
	__u64 counter;
	__u64 enabled;
	__u64 running;
};

/* Per-task flags and policies: fixed values (include/linux/sched.h, include/uapi/linux/sched.h). */
#define PF_KTHREAD 0x00200000
#define SCHED_IDLE_POLICY 5

#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
#endif

struct bpf_local_storage;
struct cfs_rq;
struct task_group;

struct thread_info {
	u32 cpu;
};

struct list_head {
	struct list_head *next;
};

struct load_weight {
	unsigned long weight;
};

struct sched_entity {
	struct load_weight load;
	int depth;
	struct list_head group_node;
	unsigned char sched_delayed;
	u64 sum_exec_runtime;
	u64 prev_sum_exec_runtime;
	u64 slice;
	struct sched_entity *parent;
	struct cfs_rq *cfs_rq;
};

struct sched_info {
	unsigned long long run_delay;
};

struct task_struct {
	struct thread_info thread_info;
	unsigned int __state;
	unsigned int flags;
	unsigned int policy;
	struct sched_entity se;
	struct sched_info sched_info;
	unsigned long nvcsw;
	unsigned long nivcsw;
	pid_t pid;
	pid_t tgid;
	struct bpf_local_storage *bpf_storage;
};

struct hrtimer {
	ktime_t _softexpires;
};

struct cfs_bandwidth {
	u64 quota;
	u64 runtime;
	struct hrtimer period_timer;
};

struct task_group {
	struct cfs_bandwidth cfs_bandwidth;
};

struct cfs_rq {
	unsigned int h_nr_runnable;
	struct rq *rq;
	struct task_group *tg;
	int runtime_enabled;
	s64 runtime_remaining;
};

/* Before 6.14. h_nr_delayed: 6.13 only. */
struct cfs_rq___before_6_14 {
	unsigned int h_nr_running;
	unsigned int h_nr_delayed;
};

struct scx_rq {
	u32 nr_running;
};

struct rq {
	struct cfs_rq cfs;
	struct list_head cfs_tasks;
	struct task_struct *curr;
};

/* Kernels with CONFIG_SCHED_CLASS_EXT. */
struct rq___ext {
	struct scx_rq scx;
};

#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute pop
#endif

#endif
