//! The database apart from a running control plane: copied beside it, and read when there is none.

use std::path::Path;

use holm_model::state::State;

use crate::store::{Reader, Store, StoreError};

/// Copies the database of the folder `dir` as it is now to the new file `to`. A control plane that uses it goes on.
///
/// # Errors
/// [`StoreError`]; `to` may hold a part of the copy then.
pub fn copy_database(dir: &Path, to: &Path) -> Result<(), StoreError> {
    Reader::open(dir)?.copy_to(to)
}

/// Opens the database of the folder `dir`, which no control plane may use, makes it when there is none, brings an older
/// one up to date, and gives its state.
///
/// # Errors
/// [`StoreError`], as when a control plane opens it.
pub fn load_state(dir: &Path) -> Result<State, StoreError> {
    Store::open(dir)?.load()
}
