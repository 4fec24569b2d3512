//! libbpf's own messages, passed on to the daemon's log: a refused program brings the verifier's words with it.

use libbpf_rs::PrintLevel;

/// From now on libbpf speaks through `tracing`.
pub fn install() {
    libbpf_rs::set_print(Some((PrintLevel::Debug, pass_on)));
}

fn pass_on(level: PrintLevel, message: String) {
    let message = message.trim_end();
    match level {
        PrintLevel::Warn => tracing::warn!(target: "libbpf", "{message}"),
        PrintLevel::Info => tracing::info!(target: "libbpf", "{message}"),
        PrintLevel::Debug => tracing::trace!(target: "libbpf", "{message}"),
    }
}
