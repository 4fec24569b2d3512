//! A running Holm to measure: release build, user network, a guest to boot; ended with everything of it when dropped.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::build::{Profile, programs};
use crate::guest::kernel_packages;
use crate::images;
use crate::site::{Site, free_port};
use crate::workspace::{cache, target};

/// A throwaway installation that runs.
#[derive(Debug)]
pub(crate) struct Installation {
    /// The way to use it.
    pub(crate) site: Site,
    folder: PathBuf,
    sni: String,
    options: Vec<String>,
}

impl Installation {
    /// Builds everything, starts Holm in the background and imports the guest.
    pub(crate) fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// As [`Self::start`], with more options for `holm up`; each is given a folder of its own as its value.
    pub(crate) fn start_with(options: &[&str]) -> Result<Self> {
        let programs = programs(Profile::Release)?;
        let folder = target().join("bench");
        if folder.exists() {
            Site::leftover(programs.clone(), &folder.join("state")).clear();
            fs::remove_dir_all(&folder).with_context(|| format!("cannot clear {}", folder.display()))?;
        }
        let sni = free_port()?.to_string();
        let value = |option: &str| folder.join(option.trim_start_matches('-')).to_string_lossy().into_owned();
        let options = options.iter().flat_map(|option| [(*option).to_owned(), value(option)]).collect();
        let this = Self { site: Site::new(programs, &folder.join("state"))?, folder, sni, options };
        this.up()?;
        let packages = kernel_packages(&cache())?;
        let packages: Vec<String> = packages.iter().map(|path| path.to_string_lossy().into_owned()).collect();
        let import: Vec<&str> = ["guest", "import"].into_iter().chain(packages.iter().map(String::as_str)).collect();
        this.site.ok(&import)?;
        Ok(this)
    }

    /// Starts Holm in the background.
    pub(crate) fn up(&self) -> Result<()> {
        let up = ["up", "--detach", "--network", "user", "--sni-port", &self.sni];
        let up: Vec<&str> = up.into_iter().chain(self.options.iter().map(String::as_str)).collect();
        self.site.ok(&up).map(drop)
    }

    /// The folder of everything that belongs to it.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The example app as an image.
    pub(crate) fn hello_image(&self) -> Result<String> {
        images::hello(&self.folder.join("hello"), &self.site.programs().hello)
    }

    /// The manifest of the example app under the name `app`, with a health check every `interval` and `memory`.
    pub(crate) fn hello_manifest(
        &self,
        app: &str,
        port: u16,
        interval: &str,
        memory: &str,
        instances: u32,
    ) -> Result<String> {
        let manifest = images::hello_manifest(port, "hello")
            .replace("app = \"hello\"", &format!("app = {app:?}"))
            .replace("interval = \"1s\"", &format!("interval = {interval:?}"))
            .replace("memory = \"64MiB\"", &format!("memory = {memory:?}"))
            .replace("instances = 1", &format!("instances = {instances}"));
        self.site.manifest(app, &manifest)
    }

    /// The journal of the instance `name`, as the agent has written it.
    pub(crate) fn journal(&self, name: &str) -> PathBuf {
        self.site.state().join("agent/instances").join(name).join("journal")
    }

    /// The processes whose program is called `name`, by number, without those of the ingress.
    pub(crate) fn processes(&self, name: &str) -> Result<Vec<u32>> {
        let is_it = |pid: &u32| {
            let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            program.file_name().is_some_and(|file| file == Path::new(name))
        };
        let ingresses = self.site.ingresses()?;
        let others = self.site.processes()?.into_iter().map(|(pid, _)| pid).filter(|pid| !ingresses.contains(pid));
        Ok(others.filter(is_it).collect())
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        self.site.clear();
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            println!("cannot remove {}: {error}", self.folder.display());
        }
    }
}
