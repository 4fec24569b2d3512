//! Debian's `docker-registry`, run on loopback for as long as the value lives.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command::{command, output};
use crate::debian;

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    address: SocketAddr,
}

impl Registry {
    /// Starts a registry that keeps its blobs in `folder`. The program is unpacked into `cache` the first time.
    ///
    /// # Errors
    /// When the package cannot be had or the registry does not answer within 20 s.
    pub fn start(cache: &Path, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let program = debian::unpacked(&cache.join("docker-registry"), &["docker-registry"])?;
        let address = free_port()?;
        let config = folder.join("config.yml");
        let blobs = folder.join("blobs");
        let text = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {blobs:?}}}}}\n\
             http: {{addr: \"{address}\"}}\n"
        );
        fs::write(&config, text)?;
        let log = File::create(folder.join("log"))?;
        let mut serve = command(folder, program.join("usr/bin/docker-registry"), &["serve"]);
        let child = serve.arg(&config).stdout(log.try_clone()?).stderr(log).spawn();
        let child = child.context("cannot start docker-registry")?;
        let registry = Self { child, address };
        registry.wait_until_it_answers()?;
        Ok(registry)
    }

    /// `127.0.0.1:PORT`, as it stands in image names.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Pushes the image `tag` of an OCI layout folder as `name:tag` and gives `host/name:tag`.
    ///
    /// # Errors
    /// When skopeo cannot push.
    pub fn push(&self, layout: &Path, tag: &str, name: &str) -> Result<String> {
        let to = format!("{}/{name}:{tag}", self.host());
        let mut skopeo = command(layout, "skopeo", &["copy", "--quiet", "--dest-tls-verify=false"]);
        skopeo.arg(format!("oci:{}:{tag}", layout.display())).arg(format!("docker://{to}"));
        output(&mut skopeo)?;
        Ok(to)
    }

    fn wait_until_it_answers(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if asks_for_v2(self.address).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                return Ok(());
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        bail!("docker-registry does not answer on {}", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It keeps nothing that a kill could harm: its folder is thrown away.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn asks_for_v2(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET /v2/ HTTP/1.0\r\nHost: registry\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.replace("HTTP/1.0", "HTTP/1.1"))
}

/// A port on loopback that was free a moment ago.
///
/// # Errors
/// When loopback has none.
pub fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
