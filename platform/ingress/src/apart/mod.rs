//! The ingress as a process of its own: it serves the last table it was given, whatever becomes of its caller.
//!
//! [`serve`] runs in that process and [`Apart`] stands for it in the caller's. They talk over a Unix socket that only the
//! user of both can open. A caller that begins finds the ingress of the one before and goes on with it; it starts one
//! where there is none, or where it has died. An ingress of another program file is replaced: the new one gets the old
//! one's listening sockets, with the connections that wait in them, and the old one ends with its last connection.
//!
//! | module | concept |
//! | --- | --- |
//! | `wire` | what the two say to each other |
//! | `pass` | listening sockets from process to process |
//! | [`serve`] | the process that serves |
//! | [`Apart`] | its caller |
//! | `own` | names by which ingresses that were replaced are found |
//! | `link` | one connection between them, as the caller has it |

mod caller;
mod link;
mod own;
mod pass;
mod serve;
mod wire;

pub use caller::{Apart, Launch};
pub(crate) use pass::Listening;
pub use serve::serve;
