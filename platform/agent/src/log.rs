//! What an app wrote, kept on disk within a bound and read back as lines.
//!
//! The guest numbers its records from 0; a record is written under that number, so a restarted agent knows where to go
//! on, and a hole in the numbers is a loss that readers are told of. The oldest quarter goes when the bound is reached.

mod line;
mod query;
mod segment;
mod store;

pub use line::{LogLine, LogStream};
pub use query::{LogLines, LogQuery};
pub(crate) use segment::Record;
pub(crate) use store::{LogStore, LogView, last_lines};
