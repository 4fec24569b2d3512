//! What touches BPF: the embedded programs, the maps both modes share, the pages, and perf events. All `unsafe` of the
//! crate is in `pages`, `clock`, `command` and the server's `credentials`; what is decided about workers is elsewhere and knows nothing of BPF.

pub mod clock;
pub mod command;
pub mod layout;
pub mod log;
pub mod maps;
pub mod pages;

/// The observe programs as clang made them; relocated when loaded.
pub const OBSERVE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/observe.bpf.o"));

/// The scheduler, likewise.
pub const ENFORCE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/enforce.bpf.o"));

/// A step of talking to the kernel that failed.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// libbpf could not do something; its own words are in the source.
    #[error("{what}")]
    Libbpf {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: libbpf_rs::Error,
    },
    /// A system call failed.
    #[error("{what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The embedded object lacks a map or a program, or one has another size: the build is broken.
    #[error("the BPF object has no fitting {0}")]
    Object(&'static str),
}

impl BpfError {
    pub(crate) fn libbpf(what: &'static str) -> impl FnOnce(libbpf_rs::Error) -> Self {
        move |source| Self::Libbpf { what, source }
    }
    pub(crate) fn system<E: Into<std::io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { what, source: source.into() }
    }
}
