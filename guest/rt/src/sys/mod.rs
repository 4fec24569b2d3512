//! The border to the kernel: the one module with `unsafe` code. Everything it offers to the rest of the crate is safe,
//! except what its name says.

mod clock;
mod entry;
mod heap;
mod lock;
mod mem;
mod memory;
mod message;
mod restricted;
mod stubs;
mod threads;
#[cfg(holm_user)]
mod unwind;

pub(crate) use clock::monotonic;
pub use entry::{Answer, raw};
pub use entry::{ShortAnswer, end, ticks};
pub(crate) use entry::{startup_bytes, startup_info};
pub use lock::{Guard, Mutex};
pub use memory::Mapping;
pub(crate) use message::{CapSlots, Parcel, Room, call, receive, reply_receive};
pub use restricted::{Guest, VectorState, Visit};
pub(crate) use restricted::{map_guest, protect_guest, unmap_guest};
pub use stubs::*;
pub(crate) use threads::spawn;
