//! Errors that a call can answer and no test on the kernel sees, with the reason each. A pair that is neither seen nor here
//! fails the tests; whoever finds a way to provoke one takes it out.

use holm_rt::abi::Error;

/// Errors, the calls (every one when none is named), and why.
const UNSEEN: &[(Error, &[&str], &str)] = &[
    (Error::NoMemory, &[], "quotas end before the machine's memory does; the core's tests take the last frame"),
    (Error::Quota, &["chan_call"], "the page where the reply goes must be what is lacking; not provoked yet"),
    (Error::Fault, &["console_read"], "something must have been typed"),
    (Error::NotSupported, &["kernel_config_set"], "DEV and HARDENED have everything compiled in; STANDARD shows it"),
];

/// Why an error of a call is not seen; `None` when nothing is said.
pub(crate) fn reason(call: &str, error: Error) -> Option<&'static str> {
    let pair = UNSEEN.iter().find(|(other, calls, _)| *other == error && (calls.is_empty() || calls.contains(&call)));
    pair.map(|(.., why)| *why)
}
