//! The guest kernel of the demo and the tests: Debian's, downloaded once.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::{command, output};
use crate::debian;

/// The metapackage that names Debian's newest kernel for virtual machines.
const META: &str = "linux-image-cloud-amd64";

/// The packages of Debian's newest cloud kernel that apt offers, kept in `cache`.
///
/// # Errors
/// When apt cannot find or download them.
pub fn kernel_packages(cache: &Path) -> Result<Vec<PathBuf>> {
    let folder = cache.join("guest-kernel");
    let had = debian::debs_in(&folder)?;
    if !had.is_empty() {
        return Ok(had);
    }
    let shown = output(&mut command(Path::new("/"), "apt-cache", &["show", META]))?;
    let named = shown.lines().filter_map(|line| line.strip_prefix("Depends: ")?.split(' ').next());
    let newest = named.max_by_key(|package| version(package)).with_context(|| format!("apt knows no {META}"))?;
    debian::downloaded(&folder, &[newest])
}

/// The numbers of `linux-image-6.12.95+deb12-cloud-amd64`, in order.
fn version(package: &str) -> Vec<u32> {
    let numbers = package.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
    numbers.filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_kernels_have_greater_versions() {
        assert!(version("linux-image-6.12.95+deb12-cloud-amd64") > version("linux-image-6.1.0-56-cloud-amd64"));
        assert!(version("linux-image-6.1.0-56-cloud-amd64") > version("linux-image-6.1.0-9-cloud-amd64"));
    }
}
