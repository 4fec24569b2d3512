//! Guest kernels: listed, and imported from Debian packages, with or without a running Holm.

use std::path::{Path, PathBuf};

use holm_api::Problem;
use holm_api::wire::{GuestImport, GuestSummary};
use holm_vmm::guest::{GuestBundle, GuestError, GuestStore};

use super::images::chain;

/// The store of guests in a state folder.
pub(super) fn open(state: &Path) -> Result<GuestStore, Problem> {
    let store = GuestStore::open(&state.join("guests"));
    store.map_err(|error| Problem::failed("cannot open the store of guests").because(chain(&error)))
}

/// Every bundle of `store`.
pub(super) fn list(store: &GuestStore) -> Result<Vec<GuestSummary>, Problem> {
    let read = || {
        let default = store.default_bundle()?.map(|bundle| bundle.id);
        Ok::<_, GuestError>(store.list()?.iter().map(|b| summary(b, default.as_deref())).collect())
    };
    read().map_err(|error| Problem::failed("cannot list the guests").because(chain(&error)))
}

/// Makes a bundle from the packages that are named, else from Debian's newest cloud kernel, and makes it the default.
pub(super) async fn import(store: &GuestStore, import: GuestImport) -> Result<GuestSummary, Problem> {
    let failed = |error: &dyn std::error::Error| Problem::failed("cannot import the guest").because(chain(error));
    let init = import.init.or_else(first_program).ok_or_else(|| {
        Problem::failed("cannot import the guest")
            .because("its first program, holm-linux-init, does not lie beside holm")
            .hint("build Holm with `cargo xtask dist`, or name a static holm-linux-init with --init")
    })?;
    let downloads = tempfile::tempdir().map_err(|error| failed(&error))?;
    let packages = if import.packages.is_empty() {
        holm_vmm::guest::apt::fetch_kernel(downloads.path()).await.map_err(|error| failed(&error))?
    } else {
        import.packages
    };
    let store = store.clone();
    let importing = tokio::task::spawn_blocking(move || store.import_debian(&packages, &init)).await;
    let bundle = importing.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    Ok(summary(&bundle, Some(&bundle.id)))
}

/// Static PID 1 of guests: named by `HOLM_GUEST_INIT`, else beside this program.
fn first_program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("HOLM_GUEST_INIT") {
        return Some(named.into());
    }
    let beside = std::env::current_exe().ok()?.with_file_name("holm-linux-init");
    beside.exists().then_some(beside)
}

fn summary(bundle: &GuestBundle, default: Option<&str>) -> GuestSummary {
    let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |meta| meta.len());
    GuestSummary {
        name: format!("linux-{}", bundle.kernel_version),
        kernel: bundle.kernel_version.clone(),
        id: bundle.id.clone(),
        size: size(&bundle.kernel) + size(&bundle.initrd),
        default: default == Some(bundle.id.as_str()),
    }
}
