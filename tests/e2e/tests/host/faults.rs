//! Disks and files that fail under a running host: a clear error, apps go on, and all is well once the fault is gone.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use holm_e2e::{Batch, wait_for};
use xtask::client;
use xtask::site::free_port;

use super::upgrade::{end_service, try_up};
use super::{busybox_image, deploy_hello, healthy, qemu_of};

/// A file system that is mounted until this is dropped.
struct Mounted<'p>(&'p Path);

impl<'p> Mounted<'p> {
    fn new(words: &[&str], at: &'p Path) -> Result<Self> {
        mount(words, at)?;
        Ok(Self(at))
    }
}

fn mount(words: &[&str], at: &Path) -> Result<()> {
    let status = Command::new("mount").args(words).arg(at).status().context("cannot start mount")?;
    ensure!(status.success(), "mount {} {}: {status}", words.join(" "), at.display());
    Ok(())
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // Nothing better is left to do when it fails.
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

/// Writes zeros to `path` until the disk is full.
fn fill(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    for piece in [1 << 20, 1 << 12, 1] {
        let zeros = vec![0; piece];
        while file.write_all(&zeros).is_ok() {}
    }
    Ok(())
}

/// Damages the file of the image `digest`, which nobody uses, without changing its size; the image is found and built again
/// when `use_it` needs it.
pub(crate) fn damaged_and_built_again<T>(
    batch: &Batch,
    digest: &str,
    use_it: impl FnOnce() -> Result<T>,
) -> Result<()> {
    let hex = digest.strip_prefix("sha256:").with_context(|| format!("`{digest}` is not a digest"))?;
    let path = batch.site.state().join("images/images").join(format!("{hex}.erofs"));
    let whole = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    let file = OpenOptions::new().write(true).open(&path)?;
    file.write_all_at(&[0xa5; 8192], whole.len() as u64 / 2)?;
    drop(file);
    ensure!(fs::read(&path)? != whole, "it was not damaged");
    use_it()?;
    ensure!(fs::read(&path)? == whole, "it was not built again");
    let log = batch.log();
    ensure!(log.lines().any(|line| line.contains(hex) && line.contains("is damaged; it is built again")), "{log}");
    Ok(())
}

/// An app with a volume.
const WRITER: &str = r#"schema = 1
app = "writer"
[process.web]
memory = "64MiB"
mounts = { data = "/data" }
[process.web.stop]
grace = "2s"
drain = "0s"
[volume.data]
size = "64MiB"
"#;

/// Writes more to it than a full disk has, and what it should be.
const WRITES: [&str; 6] = [
    "exec",
    "writer",
    "--",
    "sh",
    "-euc",
    "dd if=/dev/urandom of=/tmp/noise bs=1M count=8; cd /tmp; md5sum noise > /data/sums; cp noise /data; sync",
];

/// A command that is ended when this is dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It has ended by itself, unless the test fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn failing_disks_are_told_and_apps_go_on(_: &Batch) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        writeln!(std::io::stderr(), "skipped: only root can mount a disk")?;
        return Ok(());
    }
    let sni = free_port()?.to_string();
    let up = ["--network", "user", "--accel", "tcg", "--sni-port", &sni, "--memory", "1GiB", "--disk", "200MiB"];
    let batch = Batch::new(&up)?;
    let _disk = Mounted::new(&["-t", "tmpfs", "-o", "size=200m,mode=0750", "tmpfs"], batch.site.state())?;
    let done = on_a_disk_of_its_own(&batch);
    let log = batch.log();
    batch.site.clear();
    done.with_context(|| format!("Holm's log:\n{log}"))
}

fn on_a_disk_of_its_own(batch: &Batch) -> Result<()> {
    let state = batch.site.state();
    batch.begin()?;
    let port = free_port()?;
    deploy_hello(batch, "steady", "steady", port)?;
    let name = healthy(batch, "steady")?.pop().context("no healthy instance")?;
    let (vm, answer) = (qemu_of(batch, &name)?, client::get(port, "/")?);
    let goes_on = |when: &str| -> Result<()> {
        ensure!(qemu_of(batch, &name)? == vm, "another microVM was started {when}");
        wait_for("an answer", || Ok((client::get(port, "/").ok().as_ref() == Some(&answer)).then_some(())))
    };
    let add = ["route", "add", "--app", "steady", "web", "--port", "8080", "--sni", "steady.example"];
    batch.site.ok(&["deploy", &busybox_image(batch)?, "-f", &batch.site.manifest("writer", WRITER)?])?;
    let writer = healthy(batch, "writer")?.pop().context("no healthy instance")?;
    let its_vm = qemu_of(batch, &writer)?;

    // Full, and empty again.
    fill(&state.join("filler"))?;
    let mut writing = Ended(batch.site.holm(&WRITES).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?);
    let refused = batch.site.run(&add)?;
    ensure!(refused.status == 1 && refused.stderr.contains("full"), "on a full disk: {refused:?}");
    let doctor = batch.site.run(&["doctor"])?;
    ensure!(doctor.status == 1 && doctor.stdout.contains(": 0 MiB free"), "{doctor:?}");
    goes_on("on a full disk")?;
    let paused = || {
        let told = batch.site.run(&["doctor"])?.stdout;
        Ok(told.lines().any(|line| line.contains("paused until there is room") && line.contains(&writer)).then_some(()))
    };
    wait_for("a writer that is paused", paused)?;
    let explained = batch.site.ok(&["explain", &writer])?;
    ensure!(explained.contains("paused since the host's disk is full"), "{explained}");
    ensure!(writing.0.try_wait()?.is_none(), "it has written to a full disk");
    goes_on("beside one that is paused")?;
    fs::remove_file(state.join("filler"))?;
    batch.site.ok(&add).context("once there is room again")?;
    goes_on("after the disk was full")?;
    let wrote = wait_for("what was to be written", || Ok(writing.0.try_wait()?))?;
    ensure!(wrote.success() && qemu_of(batch, &writer)? == its_vm, "the writer did not go on: {wrote}");
    wait_for("a writer that is healthy again", || Ok((healthy(batch, "writer")? == [writer.clone()]).then_some(())))?;
    let sums = batch.site.ok(&[
        "exec",
        "writer",
        "--",
        "sh",
        "-c",
        "cd /data && md5sum -c sums && echo 3 > /proc/sys/vm/drop_caches && md5sum -c sums",
    ]);
    ensure!(sums?.matches("noise: OK").count() == 2, "what was written is not what is read");
    batch.site.ok(&["destroy", "writer", "--yes"])?;

    // Read-only at the next start, and not any more.
    end_service(batch)?;
    let path = state.to_string_lossy();
    let read_only = Mounted::new(&["--bind", &path], state)?;
    mount(&["-o", "remount,bind,ro"], state)?;
    let refused = try_up(batch)?;
    ensure!(refused.status == 1 && refused.stderr.contains("Read-only file system"), "{refused:?}");
    ensure!(qemu_of(batch, &name)? == vm, "a Holm that could not start ended a microVM");
    drop(read_only);
    batch.up().context("once the disk can be written")?;
    goes_on("after the disk was read-only")?;

    // A page of the database is damaged; the operator puts a copy back.
    end_service(batch)?;
    let database = state.join("holm.db");
    let copy = fs::read(&database)?;
    let mut file = OpenOptions::new().write(true).open(&database)?;
    file.seek(SeekFrom::Start(2 * 4096))?;
    file.write_all(&[0xa5; 4096])?;
    drop(file);
    let refused = try_up(batch)?;
    ensure!(refused.status == 1 && refused.stderr.contains("damaged"), "on a damaged database: {refused:?}");
    ensure!(qemu_of(batch, &name)? == vm, "a Holm that could not start ended a microVM");
    fs::write(&database, copy)?;
    batch.up().context("with the copy")?;
    goes_on("after the database was damaged")?;
    let routes = batch.site.ok(&["route", "list", "steady"])?;
    ensure!(routes.contains("steady.example"), "the acknowledged route is gone:\n{routes}");
    batch.site.ok(&["down"]).map(drop)
}
