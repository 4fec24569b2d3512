//! The machine's cache domains: CPUs that share their last level of cache. A thread moves cheaply inside one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::settings::SettingsError;

/// CPU numbers the scheduler's tables hold. `MORPHEUS_CPUS`.
pub(super) const CPUS: usize = 1024;

/// Which domain each CPU is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domains {
    /// Number of domains, at least 1.
    pub count: u16,
    /// By CPU number: a number below `count`.
    pub of_cpu: Vec<u16>,
}

impl Domains {
    /// Groups CPUs by the list of those that share their last cache. CPUs that show none (absent ones, or a virtual
    /// machine that hides its caches) form one domain together.
    fn grouped(shared: &[Option<String>]) -> Self {
        let mut known: BTreeMap<Option<&str>, u16> = BTreeMap::new();
        let of_cpu = shared
            .iter()
            .map(|list| {
                // Fewer domains than CPUs, of which there are at most 1024.
                let next = known.len() as u16;
                *known.entry(list.as_deref()).or_insert(next)
            })
            .collect();
        Self { count: (known.len() as u16).max(1), of_cpu }
    }
}

/// Reads the domains of `cpus`, which is `/sys/devices/system/cpu`.
///
/// # Errors
/// When the CPUs cannot be listed, or there are too many.
pub(super) fn read(cpus: &Path) -> Result<Domains, SettingsError> {
    let topology = |what: String| SettingsError::Topology(what);
    let possible = fs::read_to_string(cpus.join("possible")).map_err(|error| topology(error.to_string()))?;
    let highest = highest(&possible).ok_or_else(|| topology(format!("{possible:?} is no list of CPUs")))?;
    if highest >= CPUS {
        return Err(SettingsError::Cpus(highest + 1));
    }
    let shared: Vec<_> = (0..=highest).map(|cpu| last_cache(&cpus.join(format!("cpu{cpu}/cache")))).collect();
    Ok(Domains::grouped(&shared))
}

/// The greatest number in a list like `0-3,8`.
fn highest(list: &str) -> Option<usize> {
    list.trim().split([',', '-']).map(|number| number.parse().ok()).collect::<Option<Vec<usize>>>()?.into_iter().max()
}

/// The CPUs that share the cache of the highest level.
fn last_cache(caches: &Path) -> Option<String> {
    let indices = fs::read_dir(caches).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let levels = indices.filter_map(|index| {
        let level: u32 = fs::read_to_string(index.join("level")).ok()?.trim().parse().ok()?;
        Some((level, index))
    });
    let (_, last) = levels.max()?;
    Some(fs::read_to_string(last.join("shared_cpu_list")).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_with_the_same_last_cache_are_one_domain() {
        let list = |text: &str| Some(text.to_owned());
        let domains = Domains::grouped(&[list("0-1"), list("0-1"), list("2-3"), list("2-3"), None]);
        assert_eq!(domains, Domains { count: 3, of_cpu: vec![0, 0, 1, 1, 2] });
        assert_eq!(Domains::grouped(&[None, None]), Domains { count: 1, of_cpu: vec![0, 0] });
    }

    #[test]
    fn last_level_counts_whatever_its_index() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("possible"), "0-1\n").unwrap();
        for (index, level, shared) in [("index0", "1", "0"), ("index3", "3", "0-1"), ("index2", "2", "0")] {
            for cpu in ["cpu0", "cpu1"] {
                let place = folder.path().join(cpu).join("cache").join(index);
                fs::create_dir_all(&place).unwrap();
                fs::write(place.join("level"), level).unwrap();
                fs::write(place.join("shared_cpu_list"), shared).unwrap();
            }
        }
        assert_eq!(read(folder.path()).unwrap(), Domains { count: 1, of_cpu: vec![0, 0] });
    }

    #[test]
    fn lists_of_cpus_are_read() {
        for (list, expected) in [("0\n", Some(0)), ("0-3", Some(3)), ("0-3,8-11,5", Some(11)), ("", None), ("a", None)]
        {
            assert_eq!(highest(list), expected, "{list:?}");
        }
    }
}
