//! Owns Morpheus for tokio: which of a runtime's threads are workers, and where its tasks yield when the kernel asks. May
//! not touch pages or sockets (the crate `morpheus` does), nor tokio's insides.
//!
//! ```
//! let mut builder = tokio::runtime::Builder::new_multi_thread();
//! morpheus_tokio::install(&mut builder);
//! let runtime = builder.enable_all().build()?;
//! runtime.block_on(async {
//!     tokio::spawn(async {
//!         for _chunk in 0..1000 {
//!             // ... some microseconds of work ...
//!             morpheus_tokio::checkpoint().await;
//!         }
//!     })
//!     .await
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A hint asks for one of two things. A task-yield lets the runtime's other tasks run and keeps the CPU; a thread-yield
//! gives the CPU to another thread. [`checkpoint`] does both for `WAITER` and `SLICE_END`, and the first alone for the
//! other reasons. Nothing yields inside a [`morpheus::critical`] section. A worker keeps its fair share of the CPU: a
//! thread-yield too soon after a costly one is left out, and the task-yield alone stays (see [`morpheus::yield_for`]).
//!
//! | reason | `checkpoint().await` | [`checkpoint_blocking`] |
//! | --- | --- | --- |
//! | `WAITER`, `SLICE_END` | task-yield and thread-yield | thread-yield |
//! | `LOCAL`, `QUOTA`, `PRESSURE` | task-yield | returned to the caller |

#![forbid(unsafe_code)]

mod checkpoint;
mod cooperative;
pub mod hooks;
#[cfg(feature = "tower")]
mod layer;

pub use checkpoint::{checkpoint, checkpoint_blocking};
pub use cooperative::{Cooperative, cooperative};
pub use hooks::{install, install_with};
#[cfg(feature = "tower")]
pub use layer::{CooperativeLayer, CooperativeService};
