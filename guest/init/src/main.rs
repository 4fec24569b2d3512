//! The root unit: it has a capability for everything, starts what `init.conf` says, and offers a shell on the console.
#![cfg_attr(holm_user, no_std, no_main)]
#![forbid(unsafe_op_in_unsafe_fn)]

extern crate alloc;

mod children;
mod measure;
mod root;
mod shell;

holm_rt::entry!(root::run);
