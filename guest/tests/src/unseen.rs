//! Errors that a call can answer and no test on the kernel sees, with the reason each. A pair that is neither seen nor here
//! fails the tests; whoever finds a way to provoke one takes it out.

use holm_rt::abi::Error;

/// Errors, the calls (every one when none is named), and why.
const UNSEEN: &[(Error, &[&str], &str)] = &[
    (Error::NoMemory, &[], "quotas end before the machine's memory does; the core's tests take the last frame"),
    (
        Error::Quota,
        &[
            "chan_send",
            "chan_recv",
            "chan_call",
            "chan_reply",
            "chan_reply_recv",
            "chan_recv_short",
            "chan_reply_recv_short",
            "chan_call_cap",
            "vm_unmap",
            "vm_protect",
        ],
        "not provoked yet: what the message's capabilities, or a split mapping, cost must be what is lacking",
    ),
    (Error::NoHandles, &[], "as cap_derive and ten others, which show it; one function reserves the room"),
    (
        Error::TooDeep,
        &["vm_share", "cap_grant", "chan_send", "chan_call", "chan_call_cap", "chan_reply", "chan_reply_recv"],
        "as cap_derive, which shows it; one function counts the depth",
    ),
    (
        Error::NotPermitted,
        &[
            "unit_set_attr",
            "thread_create",
            "vm_share",
            "chan_send",
            "chan_reply",
            "chan_reply_recv",
            "chan_set_attr",
            "sched_set_thread_params",
            "restricted_bind",
        ],
        "not provoked yet",
    ),
    (
        Error::BadState,
        &["thread_create", "thread_set_attr", "vm_map", "cap_grant", "sched_set_thread_params", "restricted_bind"],
        "not provoked yet: the caller's unit, or the other one, must be ending",
    ),
    (
        Error::WouldBlock,
        &["chan_call", "chan_reply_recv", "chan_send_short", "chan_call_short", "chan_call_cap"],
        "as chan_send and chan_recv, which show it",
    ),
    (
        Error::NoSpace,
        &["chan_call", "chan_send_short", "chan_call_short", "chan_call_cap", "vm_map"],
        "not provoked yet: a queue that refuses, an address space that is full",
    ),
    (Error::MessageSize, &["chan_call", "chan_reply", "chan_reply_recv"], "as chan_send and chan_recv, which show it"),
    (Error::NotFound, &["chan_reply_recv"], "as chan_reply, which shows it"),
    (Error::PeerClosed, &["chan_reply_recv", "chan_reply_recv_short"], "as chan_recv, which shows it"),
    (Error::TimedOut, &["chan_reply_recv", "console_read"], "as chan_recv, which shows it"),
    (
        Error::Deadlock,
        &["chan_call", "chan_call_short", "chan_call_cap"],
        "circles of calls are made in the core's tests",
    ),
    (Error::Interrupted, &["console_read"], "as event_wait, which shows it"),
    (Error::Canceled, &["console_read"], "the console ends with the machine"),
    (Error::Busy, &["sched_set_unit_params", "kernel_config_set"], "not provoked yet"),
    (
        Error::Fault,
        &["unit_get_labels", "event_wait", "console_read"],
        "not provoked yet: something must be there to be written",
    ),
    (Error::Invalid, &["vm_unmap"], "not provoked yet"),
    (Error::Revoked, &["event_subscribe"], "not provoked yet"),
];

/// Why an error of a call is not seen; `None` when nothing is said.
pub(crate) fn reason(call: &str, error: Error) -> Option<&'static str> {
    let pair = UNSEEN.iter().find(|(other, calls, _)| *other == error && (calls.is_empty() || calls.contains(&call)));
    pair.map(|(.., why)| *why)
}
