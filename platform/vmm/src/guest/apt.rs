//! Getting the distribution's cloud kernel with apt, without installing it and without privilege.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

/// What `apt-cache search` is asked for: versioned kernels of the cloud flavour.
const CLOUD_KERNELS: &str = "^linux-image-[0-9].*-cloud-amd64$";

/// Why the kernel's packages could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum AptError {
    /// A command could not be started.
    #[error("cannot run `{command}`; automatic import needs Debian's apt, otherwise give the packages by path")]
    Run {
        /// Which.
        command: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A command failed.
    #[error("`{command}` failed: {message}")]
    Failed {
        /// Which.
        command: String,
        /// The last line of what it said.
        message: String,
    },
    /// apt knows no cloud kernel.
    #[error("apt offers no cloud kernel; run `apt-get update`, or give the kernel's packages by path")]
    NoKernel,
    /// The folder for the packages cannot be read.
    #[error("cannot list the fetched packages")]
    List(#[source] std::io::Error),
}

/// Fetches the packages of the newest cloud kernel apt offers into this folder, which should be empty; the files are then
/// for [`super::GuestStore::import_debian`].
///
/// # Errors
/// See [`AptError`].
pub async fn fetch_kernel(folder: &Path) -> Result<Vec<PathBuf>, AptError> {
    let offered = run(Command::new("apt-cache").args(["search", "--names-only", CLOUD_KERNELS])).await?;
    let image = newest(&offered).ok_or(AptError::NoKernel)?;
    // Newer releases split the image's package; what it depends on then holds the kernel and the modules.
    let shown = run(Command::new("apt-cache").args(["show", "--no-all-versions", &image])).await?;
    let mut packages = kernel_packages(&shown);
    packages.push(image);
    run(Command::new("apt-get").arg("download").args(&packages).current_dir(folder)).await?;
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(AptError::List)? {
        let path = entry.map_err(AptError::List)?.path();
        if path.extension().is_some_and(|suffix| suffix == "deb") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The kernel package of the highest version in the lines `<name> - <description>`.
fn newest(offered: &str) -> Option<String> {
    offered
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with("linux-image-") && name.ends_with("-cloud-amd64"))
        .max_by_key(|name| numbers(name))
        .map(str::to_owned)
}

/// The numbers in a package's name, in order: they decide between two kernels of one flavour.
fn numbers(name: &str) -> Vec<u64> {
    let version = name.trim_start_matches("linux-image-").trim_end_matches("-cloud-amd64");
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// The versioned kernel packages among the `Depends` in apt's description of a package.
fn kernel_packages(description: &str) -> Vec<String> {
    let depends = description.lines().find_map(|line| line.strip_prefix("Depends:")).unwrap_or_default();
    let mut names: Vec<String> = depends
        .split([',', '|'])
        .filter_map(|item| item.split_whitespace().next())
        .filter(|name| {
            ["linux-image-", "linux-binary-", "linux-modules-"]
                .iter()
                .any(|kind| name.strip_prefix(kind).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())))
        })
        .map(str::to_owned)
        .collect();
    names.dedup();
    names
}

async fn run(command: &mut Command) -> Result<String, AptError> {
    let arguments: Vec<_> = command.as_std().get_args().map(|argument| argument.to_string_lossy()).collect();
    let line = format!("{} {}", command.as_std().get_program().to_string_lossy(), arguments.join(" "));
    let output = command
        .stdin(Stdio::null())
        .env("LC_ALL", "C")
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|source| AptError::Run { command: line.clone(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let message = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message").to_owned();
    Err(AptError::Failed { command: line, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_chosen_by_number_not_by_letter() {
        let offered = "linux-image-6.1.0-56-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)\n\
                       linux-image-6.12.117+deb12-cloud-amd64 - Linux 6.12\n\
                       linux-image-6.12.95+deb12-cloud-amd64 - Linux 6.12\n\
                       linux-image-6.12.99+deb12-cloud-amd64-unsigned - Linux 6.12\n";
        assert_eq!(newest(offered).as_deref(), Some("linux-image-6.12.117+deb12-cloud-amd64"));
        assert_eq!(newest(""), None);
    }

    #[test]
    fn the_kernels_packages_are_found_in_descriptions() {
        for (depends, expected) in [
            ("linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)", vec!["linux-image-6.1.0-56-cloud-amd64"]),
            (
                "kmod, linux-binary-7.2-cloud-amd64 (= 7.2), linux-modules-7.2-cloud-amd64 (= 7.2), linux-base (>= 4.12)",
                vec!["linux-binary-7.2-cloud-amd64", "linux-modules-7.2-cloud-amd64"],
            ),
            ("kmod, linux-base (>= 4.3~), initramfs-tools (>= 0.120+deb8u2) | linux-initramfs-tool", vec![]),
        ] {
            let description = format!("Package: x\nDepends: {depends}\nSection: kernel\n");
            assert_eq!(kernel_packages(&description), expected, "{depends}");
        }
        assert!(kernel_packages("").is_empty());
    }
}
