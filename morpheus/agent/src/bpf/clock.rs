//! A perf clock event of one thread: it counts that thread's own CPU time, so no other thread pays for it.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::BpfError;

/// `PERF_TYPE_SOFTWARE` and `PERF_COUNT_SW_CPU_CLOCK`: fixed by include/uapi/linux/perf_event.h.
const TYPE_SOFTWARE: u32 = 1;
const CPU_CLOCK: u64 = 0;
/// `PERF_FLAG_FD_CLOEXEC`.
const FLAG_CLOEXEC: u64 = 1 << 3;

/// Opens an event that fires after each `period_ns` of the thread's CPU time.
///
/// # Errors
/// When perf events are not permitted, or the thread has ended.
pub fn thread_clock(tid: u32, period_ns: u64) -> Result<OwnedFd, BpfError> {
    let attributes = libbpf_sys::perf_event_attr {
        type_: TYPE_SOFTWARE,
        size: size_of::<libbpf_sys::perf_event_attr>() as u32,
        config: CPU_CLOCK,
        __bindgen_anon_1: libbpf_sys::perf_event_attr__bindgen_ty_1 { sample_period: period_ns },
        ..Default::default()
    };
    let any_cpu: libc::c_int = -1;
    let no_group: libc::c_int = -1;
    // SAFETY: the attributes are a whole structure that says its own size and lives until the call returns; the other
    // arguments are numbers.
    let fd = unsafe {
        libc::syscall(libc::SYS_perf_event_open, &raw const attributes, tid, any_cpu, no_group, FLAG_CLOEXEC)
    };
    if fd < 0 {
        return Err(BpfError::System {
            what: "cannot open a thread's clock event",
            source: std::io::Error::last_os_error(),
        });
    }
    // SAFETY: the call returned a new descriptor that is nobody else's; descriptors fit an int.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The number of the event's descriptor, as libbpf takes it.
pub fn raw(event: BorrowedFd<'_>) -> i32 {
    event.as_raw_fd()
}
