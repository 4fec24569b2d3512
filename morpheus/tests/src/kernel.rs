//! Debian's cloud kernel with sched_ext: fetched by apt with sources, lists and state of its own, so that the machine's apt
//! stays as it is; checked against the distribution's keyring; unpacked, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{output, target};

/// Where the kernels are.
const SOURCES: &str = "Types: deb
URIs: http://deb.debian.org/debian
Suites: trixie-backports
Components: main
Architectures: amd64
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
";

/// The first of these that the suite offers is used. Others of 7.1 and 7.2 have malformed type information, so that no
/// scheduler can be loaded: see the agent's `enforce::functions`.
const WANTED: [&str; 2] = ["linux-binary-7.2.11+deb13-cloud-amd64", "linux-binary-7.2.6+deb13-cloud-amd64"];

/// From this version on all of the suite's kernels are well-formed.
const WELL_FORMED: [u32; 2] = [7, 3];

/// A kernel on this machine's disk.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The package, which names the version.
    pub package: String,
    /// The bootable file.
    pub image: PathBuf,
}

/// The kernel for the tests; fetched once.
///
/// # Errors
/// When apt is not there, offers no usable kernel, or cannot download or verify it.
pub fn fetched() -> Result<Kernel> {
    let folder = target().join("holm-cache/morpheus-kernel");
    let chosen = folder.join("package");
    if let Ok(package) = fs::read_to_string(&chosen)
        && let Ok(image) = image_in(&folder.join("unpacked"))
    {
        return Ok(Kernel { package, image });
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot clear {}", folder.display()))?;
    }
    let apt = Apt::new(&folder.join("apt"))?;
    output(apt.command("apt-get").args(["update", "-qq"])).context("cannot list the kernels of Debian's backports")?;
    let offered = output(apt.command("apt-cache").args(["search", "--names-only", "^linux-binary-7.*-cloud-amd64$"]))?;
    let package = choose(&offered).with_context(|| format!("Debian offers none of {}", WANTED.join(", ")))?;
    let debs = folder.join("debs");
    fs::create_dir_all(&debs)?;
    output(apt.command("apt-get").args(["download", "-qq", &package]).current_dir(&debs))
        .with_context(|| format!("cannot download {package}"))?;
    let deb = fs::read_dir(&debs)?.next().context("apt downloaded nothing")??.path();
    let unpacked = folder.join("unpacked");
    output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&unpacked))?;
    fs::remove_dir_all(&debs)?;
    let image = image_in(&unpacked)?;
    fs::write(chosen, &package)?;
    Ok(Kernel { package, image })
}

/// The package to use, of the lines `<name> - <description>`.
fn choose(offered: &str) -> Option<String> {
    let names: Vec<&str> = offered.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let wanted = WANTED.into_iter().find(|name| names.contains(name));
    let newest =
        || names.into_iter().filter(|name| numbers(name)[..] >= WELL_FORMED[..]).max_by_key(|name| numbers(name));
    wanted.or_else(newest).map(str::to_owned)
}

/// The numbers in a package's name, in order.
fn numbers(package: &str) -> Vec<u32> {
    package.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// The kernel in an unpacked package: older ones have it in /boot, newer ones beside their modules.
fn image_in(unpacked: &Path) -> Result<PathBuf> {
    for folder in [unpacked.join("boot"), unpacked.join("usr/lib/modules")] {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry?.path();
            let image = if path.is_dir() { path.join("vmlinuz") } else { path };
            let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("vmlinuz") && image.is_file() {
                return Ok(image);
            }
        }
    }
    anyhow::bail!("no kernel in {}", unpacked.display())
}

/// apt with everything of its own but the keyring.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(folder: &Path) -> Result<Self> {
        ensure!(
            Path::new("/usr/share/keyrings/debian-archive-keyring.gpg").exists(),
            "the test kernel is Debian's: its package debian-archive-keyring is needed to verify it"
        );
        for part in ["lists/partial", "state", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        fs::write(folder.join("debian.sources"), SOURCES)?;
        fs::write(folder.join("status"), "")?;
        Ok(Self { folder: folder.to_owned() })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let own = [
            ("Dir::Etc::SourceList", "debian.sources"),
            ("Dir::State", "state"),
            ("Dir::State::Lists", "lists"),
            ("Dir::State::Status", "status"),
            ("Dir::Cache", "cache"),
        ];
        for (option, place) in own {
            command.arg("-o").arg(format!("{option}={}", self.folder.join(place).display()));
        }
        command.args(["-o", "Dir::Etc::SourceParts=/dev/null", "-o", "APT::Sandbox::User=root"]);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::choose;

    #[test]
    fn well_formed_kernels_are_chosen() {
        let line = |version: &str| format!("linux-binary-{version}+deb13-cloud-amd64 - Linux for cloud\n");
        let all = ["7.0.13", "7.2.11", "7.2.12", "7.2.6", "7.3.4"].map(line).concat();
        assert_eq!(choose(&all).unwrap(), "linux-binary-7.2.11+deb13-cloud-amd64");
        let later = ["7.2.12", "7.3.4", "7.10.2", "7.3.10"].map(line).concat();
        assert_eq!(choose(&later).unwrap(), "linux-binary-7.10.2+deb13-cloud-amd64");
        assert_eq!(choose(&["7.1.13", "7.2.12"].map(line).concat()), None);
    }
}
