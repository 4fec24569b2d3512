//! Unix sockets in folders deeper than the 108 bytes a socket address holds.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// The folder, opened, and a short path to `name` in it.
fn short_path(dir: &Path, name: &str) -> io::Result<(rustix::fd::OwnedFd, PathBuf)> {
    if name.is_empty() || name.len() > 64 || name.contains('/') || name == ".." || name == "." {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain socket name"));
    }
    let dir = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()).into();
    Ok((dir, path))
}

/// Connects to the Unix socket `name` in the folder `dir`, however long its path is. Does not block: a listener with a
/// full queue answers [`io::ErrorKind::WouldBlock`]. The stream is non-blocking.
///
/// # Errors
/// The system's; [`io::ErrorKind::InvalidInput`] when `name` is not a plain file name of at most 64 bytes.
pub fn connect_unix_in(dir: &Path, name: &str) -> io::Result<UnixStream> {
    let (_dir, path) = short_path(dir, name)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(&path)?)?;
    Ok(socket.into())
}

/// Listens on the Unix socket `name` in the folder `dir`, replacing one that is there.
///
/// # Errors
/// As [`connect_unix_in`].
pub fn bind_unix_in(dir: &Path, name: &str) -> io::Result<UnixListener> {
    let (_dir, path) = short_path(dir, name)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_in_very_deep_folders_can_be_bound_and_reached() {
        let root = tempfile::tempdir().unwrap();
        let mut deep = root.path().to_owned();
        for _ in 0..20 {
            deep.push("a-folder-with-a-long-name");
        }
        std::fs::create_dir_all(&deep).unwrap();
        assert!(UnixListener::bind(deep.join("s")).is_err(), "the folder is not deep enough for this test");
        let first = bind_unix_in(&deep, "s").unwrap();
        connect_unix_in(&deep, "s").unwrap();
        drop(first);
        assert_eq!(connect_unix_in(&deep, "s").unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let second = bind_unix_in(&deep, "s").unwrap();
        connect_unix_in(&deep, "s").unwrap();
        drop(second);
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        let root = tempfile::tempdir().unwrap();
        for name in ["", ".", "..", "../s", "a/b"] {
            assert_eq!(connect_unix_in(root.path(), name).unwrap_err().kind(), io::ErrorKind::InvalidInput);
            assert_eq!(bind_unix_in(root.path(), name).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
