//! The socket file: bound and reached through its folder's descriptor, so that no path is too deep for it.
//!
//! A socket address holds 108 bytes of path; `/proc/self/fd/N/holm.sock` always fits.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};

/// The socket's name in the state folder.
pub const NAME: &str = "holm.sock";

fn open_folder(state: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(state, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn short_path(folder: &OwnedFd, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

/// Binds the socket in the folder `state`, for its owner and `group` only (`None`: the group of this process); the folder
/// is then the group's too, so that its members reach the socket. A socket that a dead Holm left is replaced.
///
/// # Errors
/// [`io::ErrorKind::AddrInUse`] when another Holm answers there; else what the file system says.
pub async fn bind(state: &Path, group: Option<u32>) -> io::Result<UnixListener> {
    match connect(state).await {
        Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
        Err(error) => return Err(error),
    }
    let folder = open_folder(state)?;
    // Bound under another name first: nobody can connect before the mode is right, and a left-over is replaced at once.
    let fresh = short_path(&folder, &format!("holm.sock.{}", std::process::id()));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    if let Some(group) = group {
        std::os::unix::fs::chown(&fresh, None, Some(group))?;
        std::os::unix::fs::chown(state, None, Some(group))?;
    }
    fs::set_permissions(&fresh, Permissions::from_mode(0o660))?;
    fs::rename(&fresh, short_path(&folder, NAME))?;
    Ok(listener)
}

/// Connects to the socket in the folder `state`.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] or [`io::ErrorKind::ConnectionRefused`] when no Holm runs there.
pub async fn connect(state: &Path) -> io::Result<UnixStream> {
    let folder = open_folder(state)?;
    UnixStream::connect(short_path(&folder, NAME)).await
}

/// Removes the socket, so that clients see at once that nobody is there.
///
/// # Errors
/// What the file system says; a missing socket is fine.
pub fn remove(state: &Path) -> io::Result<()> {
    match fs::remove_file(state.join(NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
