//! The one place with `unsafe`: forking a process into the app's mount namespace, control group and identity.

#![allow(unsafe_code, reason = "forking, and what a child does between fork and exec")]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use holm_guest_control::{ErrorBody, ErrorCode};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use rustix::thread::{Gid, LinkNameSpaceType, Uid, UnshareFlags};

use crate::users::Identity;

/// `PATH` of a process whose environment has none.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Open files of a process, as systemd's services have them, with a soft limit that suits servers.
const OPEN_FILES: Rlimit = Rlimit { current: Some(65_536), maximum: Some(524_288) };

/// Where app processes live: opened once, used for each.
pub(crate) struct Place {
    /// The app's mount namespace.
    pub(crate) mounts: OwnedFd,
    /// `cgroup.procs` of the app's control group, open for writing.
    pub(crate) app: File,
    /// The same of the group for what runs beside the app.
    pub(crate) beside: File,
}

/// What a process is to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The app itself.
    App,
    /// A command or a health check. When the whole guest is out of memory, it goes before the app.
    Beside,
}

/// A process to start.
pub(crate) struct Launch<'a> {
    pub(crate) role: Role,
    pub(crate) command: &'a [String],
    pub(crate) env: &'a BTreeMap<String, String>,
    pub(crate) identity: &'a Identity,
    /// Exists already.
    pub(crate) working_dir: &'a str,
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    /// Standard input is a terminal that shall control the new session.
    pub(crate) terminal: bool,
}

/// Starts a process as leader of a new session.
///
/// # Errors
/// [`ErrorCode::CommandNotFound`], [`ErrorCode::CannotExecute`] or [`ErrorCode::Failed`] with the reason.
pub(crate) fn launch(place: &Place, launch: Launch<'_>) -> Result<Pid, ErrorBody> {
    let failed = |code, message| ErrorBody { code, message };
    let Some((program, arguments)) = launch.command.split_first() else {
        return Err(failed(ErrorCode::Invalid, "command is empty".into()));
    };
    let working_dir = CString::new(launch.working_dir)
        .map_err(|_| failed(ErrorCode::Invalid, "working directory contains a zero byte".into()))?;
    let mounts = place.mounts.try_clone().map_err(|e| failed(ErrorCode::Failed, e.to_string()))?;
    let (group, oom_score) = match launch.role {
        Role::App => (&place.app, b"0".as_slice()),
        Role::Beside => (&place.beside, b"500".as_slice()),
    };
    let group = group.try_clone().map_err(|e| failed(ErrorCode::Failed, e.to_string()))?;
    let identity = launch.identity;
    let uid = Uid::from_raw(identity.uid);
    let gid = Gid::from_raw(identity.gid);
    let groups: Vec<Gid> = identity.groups.iter().map(|g| Gid::from_raw(*g)).collect();
    let terminal = launch.terminal;

    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(launch.env)
        .stdin(Stdio::from(launch.stdin))
        .stdout(Stdio::from(launch.stdout))
        .stderr(Stdio::from(launch.stderr));
    if !launch.env.contains_key("PATH") {
        command.env("PATH", DEFAULT_PATH);
    }
    if !launch.env.contains_key("HOME") {
        command.env("HOME", &identity.home);
    }
    let enter = move || -> io::Result<()> {
        rustix::io::write(&group, b"0")?;
        // PID 1 is exempt from the out-of-memory killer; what it starts is not.
        let score = rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&score, oom_score)?;
        rustix::process::setrlimit(Resource::Nofile, OPEN_FILES)?;
        // The default follows the memory: a guest of 64 MiB would end at 400 threads.
        rustix::process::setrlimit(Resource::Nproc, Rlimit { current: None, maximum: None })?;
        rustix::process::setsid()?;
        if terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        rustix::thread::move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
        rustix::process::chdir(working_dir.as_c_str())?;
        rustix::process::umask(Mode::from_raw_mode(0o022));
        rustix::thread::set_thread_groups(&groups)?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        Ok(())
    };
    // SAFETY: `enter` runs between fork and exec in the child. It makes raw system calls only (rustix's linux_raw
    // backend) on values it owns already: it neither allocates, nor takes a lock, nor touches another thread's state.
    unsafe { command.pre_exec(enter) };
    match command.spawn() {
        // The main loop reaps by pid; the handle holds only the pid once its pipes are ours.
        Ok(child) => match i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            Some(pid) => Ok(pid),
            None => Err(failed(ErrorCode::Failed, "the kernel gave no process id".into())),
        },
        Err(error) => Err(why_not(program, launch.env, &error)),
    }
}

fn why_not(program: &str, env: &BTreeMap<String, String>, error: &io::Error) -> ErrorBody {
    let path = env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let (code, message) = match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::NOENT) if program.contains('/') => {
            (ErrorCode::CommandNotFound, format!("`{program}` or the interpreter it names does not exist in the image"))
        }
        Some(rustix::io::Errno::NOENT) => {
            (ErrorCode::CommandNotFound, format!("`{program}` was not found in PATH ({path})"))
        }
        Some(rustix::io::Errno::ACCESS) => {
            (ErrorCode::CannotExecute, format!("`{program}` cannot be executed: permission denied"))
        }
        Some(rustix::io::Errno::NOEXEC) => (
            ErrorCode::CannotExecute,
            format!("`{program}` cannot be executed: not a program for this machine, or a script without `#!`"),
        ),
        _ => (ErrorCode::CannotExecute, format!("`{program}` cannot be executed: {error}")),
    };
    ErrorBody { code, message }
}

/// A signal by number; `None` outside 1..=64.
pub(crate) fn signal(number: i32) -> Option<Signal> {
    // SAFETY: the number is one the kernel accepts. PID 1 only sends it on; it never installs a handler for it, so
    // the signals a C library keeps for itself are not disturbed.
    (1..=64).contains(&number).then(|| unsafe { Signal::from_raw_unchecked(number) })
}

/// Gives the calling process a mount namespace of its own, a copy of the present one.
pub(crate) fn own_mounts() -> rustix::io::Result<()> {
    // SAFETY: called before any thread exists; only mount points and the working directory are unshared, no
    // file descriptors.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
}
