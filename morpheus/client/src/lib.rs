//! Owns a process's side of Morpheus: which threads are workers, where their lines lie, and the checkpoint. May not touch
//! async runtimes (the adapters do), BPF, or anything of the agent but its socket and the two pages.
//!
//! A worker thread asks [`hint_pending`] as often as it likes: a thread-local pointer and two relaxed loads. When it
//! answers yes, [`take_hint`] says why, and the worker yields where it suits it:
//!
//! ```
//! use morpheus::{Reason, Worker, WorkerConfig};
//!
//! let _worker = Worker::register(WorkerConfig::new("crunch"));
//! for _chunk in 0..1000 {
//!     // ... some microseconds of work ...
//!     if let Some(hint) = morpheus::take_hint() {
//!         morpheus::yield_for(&hint);
//!     }
//! }
//! ```
//!
//! Without an agent all this costs the same and does nothing: there is no error path. One thread of the process
//! (`morpheus-watch`, started with the first worker) notices when the agent goes or comes, and workers then move by
//! themselves at their next checkpoint. A dead or hung agent looks like no hints.
//!
//! A worker that answers hints keeps its fair share of the CPU: after a [`yield_for`] that cost it time it gives up the CPU
//! again only when it has run as long. [`WorkerConfig::polite`] is for work that may starve.
//!
//! Critical sections ([`critical`]) hold off everything Morpheus itself does. They do not hold off the kernel's own
//! preemption, and the kernel's slice extension (`PR_RSEQ_SLICE_EXTENSION`, Linux 7.0) is not used: it needs a restartable
//! sequence registered with more than the 32 bytes the C library of a supported system may have registered, and only the
//! C library can change that.

mod clock;
mod domain;
mod hint;
mod lines;
mod pace;
mod refusal;
mod socket;
mod sys;
mod usage;
mod watch;
mod worker;

pub use hint::{Critical, Hint, critical, hint_pending, in_critical, record_yield, take_hint, yield_for, yield_thread};
pub use lines::at_first_checkpoint;
pub use morpheus_abi::protocol::Refusal;
pub use morpheus_abi::{Reason, YieldCause};
pub use refusal::NotAvailable;
pub use usage::{Usage, usage};
pub use worker::{Worker, WorkerConfig};
