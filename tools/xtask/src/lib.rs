//! Tools for developing Holm, as a library: the end-to-end tests use the same registry, images and throwaway installations
//! as the demo. It may not be used by anything that is shipped.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a tool that a developer watches")]

pub mod bench;
pub mod build;
pub mod client;
mod command;
mod debian;
pub mod demo;
mod deny;
pub mod fuzz;
pub mod guest;
pub mod images;
pub mod kernel;
mod links;
pub mod load;
pub mod morpheus;
pub mod registry;
pub mod site;
pub mod soak;
pub mod test;
pub mod workspace;
