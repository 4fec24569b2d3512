//! A throwaway installation of Holm, used through its command line as a person would.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use holm_process::Process;
use serde_json::Value;

use crate::build::Programs;

/// One installation: a state folder, and the `holm` that works on it.
#[derive(Debug)]
pub struct Site {
    programs: Programs,
    state: PathBuf,
    prefix: Vec<String>,
}

/// What a command wrote, and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// The exit status; -1 when a signal ended it.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Runs `command` to its end, whatever the end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn of(command: &mut Command) -> Result<Self> {
        command.output().map(Self::from).context("cannot start holm")
    }

    /// The standard output of `holm` with `arguments`.
    ///
    /// # Errors
    /// When it ended with another status than 0; the message has what it wrote.
    pub fn ok(self, arguments: &[&str]) -> Result<String> {
        if self.status != 0 {
            bail!("`holm {}` ended with status {}\n{}{}", arguments.join(" "), self.status, self.stdout, self.stderr);
        }
        Ok(self.stdout)
    }
}

impl From<Output> for Ran {
    fn from(Output { status, stdout, stderr }: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { status: status.code().unwrap_or(-1), stdout: text(stdout), stderr: text(stderr) }
    }
}

impl Site {
    /// An installation with its state in `folder`, which must not hold one yet.
    ///
    /// # Errors
    /// When the folder is not empty or cannot be made.
    pub fn new(programs: Programs, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        if fs::read_dir(folder)?.next().is_some() {
            bail!("{} is not empty: an earlier run may still be there; end it with `holm down`", folder.display());
        }
        Ok(Self { programs, state: folder.to_owned(), prefix: Vec::new() })
    }

    /// What an earlier run may have left in `folder`; for [`clear`](Self::clear) only.
    pub(crate) fn leftover(programs: Programs, folder: &Path) -> Self {
        Self { programs, state: folder.to_owned(), prefix: Vec::new() }
    }

    /// Runs every command inside the network namespace `name`.
    #[must_use]
    pub fn in_namespace(mut self, name: &str) -> Self {
        self.prefix = ["ip", "netns", "exec", name].map(str::to_owned).to_vec();
        self
    }

    /// The state folder.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The programs this installation runs.
    #[must_use]
    pub const fn programs(&self) -> &Programs {
        &self.programs
    }

    /// `program` with `arguments`, in the installation's network namespace when it has one.
    #[must_use]
    pub fn outside(&self, program: &str, arguments: &[&str]) -> Command {
        let mut line = self.prefix.iter().map(String::as_str).chain([program]).chain(arguments.iter().copied());
        let mut command = Command::new(line.next().unwrap_or(program));
        command.args(line).stdin(Stdio::null());
        command
    }

    /// `holm` with `arguments`, not started yet.
    #[must_use]
    pub fn holm(&self, arguments: &[&str]) -> Command {
        self.holm_of(&self.programs.holm, arguments)
    }

    /// The same with another file of the program.
    #[must_use]
    pub fn holm_of(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = self.outside(&program.to_string_lossy(), arguments);
        command
            .env("HOLM_STATE", &self.state)
            .env("HOLM_GUEST_INIT", &self.programs.init)
            .env("NO_COLOR", "1")
            .current_dir(&self.state);
        command
    }

    /// Runs `holm` with `arguments` to its end, whatever the end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, arguments: &[&str]) -> Result<Ran> {
        Ran::of(&mut self.holm(arguments))
    }

    /// Runs `holm` with `arguments` and gives its standard output.
    ///
    /// # Errors
    /// When it ends with another status than 0; the message has what it wrote.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        self.run(arguments)?.ok(arguments)
    }

    /// Runs `holm` with `arguments` and `--json`, and gives the document.
    ///
    /// # Errors
    /// When it fails or writes something else than one JSON document.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let mut with_json = vec!["--json"];
        with_json.extend_from_slice(arguments);
        let text = self.ok(&with_json)?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Writes a manifest into the state folder's neighbourhood and gives its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn manifest(&self, name: &str, text: &str) -> Result<String> {
        let folder = self.state.with_extension("manifests");
        fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{name}.toml"));
        fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// Processes that belong to this installation: its state folder stands in their command line or is their folder.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn processes(&self) -> Result<Vec<(u32, String)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            // A process may end while it is looked at.
            let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let folder = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            if folder.starts_with(&self.state) || line.contains(&*self.state.to_string_lossy()) {
                found.push((pid, line));
            }
        }
        Ok(found)
    }

    /// Those of them that are the ingress: two while one takes over from another.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn ingresses(&self) -> Result<Vec<u32>> {
        let all = self.processes()?.into_iter().filter(|(_, line)| line.contains(" ingress --socket "));
        Ok(all.map(|(pid, _)| pid).collect())
    }

    /// Folders for processor shares that this installation has made and not removed.
    #[must_use]
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let Ok(id) = fs::read_to_string(self.state.join("host-id")) else { return Vec::new() };
        let of_root = |root: &str| Path::new(root).join(format!("holm-{}", id.trim()));
        let both = ["/sys/fs/cgroup", "/sys/fs/cgroup/cpu"].map(of_root);
        both.into_iter().filter(|folder| folder.exists()).collect()
    }

    /// Ends what is left of this installation, without asking it.
    pub fn clear(&self) {
        let _ = self.run(&["down"]);
        for (pid, _) in self.processes().unwrap_or_default() {
            if let Ok(Some(process)) = Process::open(pid) {
                let _ = process.kill();
            }
        }
    }
}

/// A port of the IPv6 wildcard address that was free a moment ago.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))?.local_addr()?.port())
}

/// `[::1]:port`.
#[must_use]
pub fn loopback(port: u16) -> SocketAddr {
    (Ipv6Addr::LOCALHOST, port).into()
}
