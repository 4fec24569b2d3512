//! Volumes on real microVMs: Redis of Debian packages keeps its data over everything that befalls it. Backups go to an S3
//! server on loopback.

use std::io::Write;
use std::path::Path;
use std::process::{Child, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holm_e2e::{Batch, Test, run, wait_for};
use holm_s3_server::{SECRET, Server};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use xtask::images;
use xtask::site::Ran;
use xtask::workspace::cache;

const TESTS: [Test; 5] = [
    ("data_survive_kills_and_rollouts_and_never_have_two_writers", survives),
    ("a_volume_grows_while_its_instance_runs", grows),
    ("a_snapshot_is_what_the_volume_was", snapshot),
    ("a_backup_sends_what_changed_verifies_and_restores", backup),
    ("what_cannot_be_is_refused", refused),
];

fn main() -> ExitCode {
    // Lives as long as the tests: `run` ends with the value that ends the program.
    let mut server = None;
    let port = xtask::site::free_port().unwrap_or(8443).to_string();
    let up = ["--network", "user", "--sni-port", &port, "--backups", "s3://bucket/some/folder", "--disk", "2GiB"];
    let batch = Batch::new(&up).and_then(|mut batch| {
        let buckets = batch.path().join("buckets");
        std::fs::create_dir_all(buckets.join("bucket"))?;
        let serving = server.insert(Server::start(&buckets)?);
        batch.environment = serving.environment().to_vec();
        Ok(batch)
    });
    run(batch, Batch::begin, &TESTS, ("down_leaves_the_volumes_and_nothing_else", down))
}

fn manifest(app: &str, note: &str) -> String {
    format!(
        "schema = 1\napp = {app:?}\n\n[process.db]\nmemory = \"96MiB\"\nmounts = {{ data = \"/data\" }}\n\n\
         [process.db.health]\ntcp = {{ port = 6379 }}\ninterval = \"1s\"\n\n[process.db.stop]\ngrace = \"10s\"\ndrain = \"0s\"\n\n\
         [volume.data]\nsize = \"64MiB\"\n\n[config]\nNOTE = {note:?}\n"
    )
}

fn deploy(batch: &Batch, app: &str, note: &str) -> Result<()> {
    let folder = batch.path().join("redis");
    // Packed once for all.
    let image = match folder.exists() {
        true => format!("oci:{}:1", folder.display()),
        false => images::redis(&cache(), &folder)?,
    };
    let manifest = batch.site.manifest(app, &manifest(app, note))?;
    batch.site.ok(&["deploy", &image, "-f", &manifest]).map(drop)
}

/// What Redis answers to a command.
fn redis(batch: &Batch, app: &str, words: &[&str]) -> Result<String> {
    let mut line = vec!["exec", app, "--", "/usr/bin/redis-cli"];
    line.extend_from_slice(words);
    batch.site.ok(&line).map(|said| said.trim().to_owned())
}

/// The instances of `app` that have not ended.
fn open(batch: &Batch, app: &str) -> Result<Vec<Value>> {
    let shown = batch.site.json(&["ps", app])?;
    Ok(shown["instances"].as_array().cloned().unwrap_or_default())
}

fn healthy(batch: &Batch, app: &str) -> Result<Option<String>> {
    let found = open(batch, app)?.into_iter().find(|i| i["phase"] == "healthy" && i["retired"].is_null());
    Ok(found.and_then(|i| i["instance"].as_str().map(str::to_owned)))
}

/// Waits until an instance serves that is not `but`.
fn served_again(batch: &Batch, app: &str, but: &str) -> Result<()> {
    wait_for("another instance", || Ok(healthy(batch, app)?.filter(|name| name != but))).map(drop)
}

fn kill(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("not a process id")?;
    kill_process(pid, Signal::KILL).context("cannot kill")
}

/// The processes of the installation whose command line has `word`.
fn processes(batch: &Batch, word: &str) -> Result<Vec<u32>> {
    let found = batch.site.processes()?;
    Ok(found.into_iter().filter(|(_, line)| line.contains(word)).map(|(pid, _)| pid).collect())
}

fn survives(batch: &Batch) -> Result<()> {
    deploy(batch, "keeper", "one")?;
    ensure!(redis(batch, "keeper", &["set", "word", "first"])? == "OK", "cannot write");

    let name = healthy(batch, "keeper")?.context("nothing serves")?;
    for pid in processes(batch, "/keeper.db.")? {
        kill(pid)?;
    }
    served_again(batch, "keeper", &name)?;
    ensure!(redis(batch, "keeper", &["get", "word"])? == "first", "lost with its microVM");

    let name = healthy(batch, "keeper")?.context("nothing serves")?;
    deploy(batch, "keeper", "two")?;
    ensure!(open(batch, "keeper")?.len() == 1, "the old instance is still there beside the new one");
    ensure!(healthy(batch, "keeper")?.is_some_and(|new| new != name), "the rollout replaced nothing");
    ensure!(redis(batch, "keeper", &["get", "word"])? == "first", "lost with a rollout");

    for pid in processes(batch, "/holm up ")? {
        kill(pid)?;
    }
    wait_for("Holm's end", || Ok((batch.site.run(&["status"])?.status == 3).then_some(())))?;
    batch.up()?;
    // Adopted again, its guest answers.
    let word = wait_for("Redis", || Ok(redis(batch, "keeper", &["get", "word"]).ok()))?;
    ensure!(word == "first", "lost with Holm's death: {word}");
    Ok(())
}

fn grows(batch: &Batch) -> Result<()> {
    let blocks = || -> Result<u64> {
        let shown = batch.site.ok(&["exec", "keeper", "--", "/bin/busybox", "df", "-k", "/data"])?;
        let last = shown.lines().last().unwrap_or_default();
        last.split_whitespace().nth(1).and_then(|size| size.parse().ok()).with_context(|| format!("no size in {shown}"))
    };
    let (before, instance) = (blocks()?, healthy(batch, "keeper")?);
    batch.site.ok(&["volumes", "grow", "keeper:data", "--size", "256MiB"])?;
    wait_for("a larger file system", || Ok((blocks()? > before * 3).then_some(())))?;
    ensure!(healthy(batch, "keeper")? == instance, "it was restarted");
    ensure!(redis(batch, "keeper", &["get", "word"])? == "first", "lost by growing");
    let shown = batch.site.json(&["volumes", "inspect", "keeper:data"])?.to_string();
    ensure!(shown.contains("268435456"), "{shown}");
    Ok(())
}

/// The files of volumes on the host.
fn files(batch: &Batch) -> Result<Vec<String>> {
    let files = std::fs::read_dir(batch.site.state().join("volumes"))?;
    let names = files.flatten().map(|file| file.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| name != "snapshots").collect())
}

/// Destroys an app with its volumes, and waits until nothing of them is left.
fn destroy(batch: &Batch, app: &str) -> Result<()> {
    batch.site.ok(&["destroy", app, "--yes", "--volumes"])?;
    wait_for("the end of the volume", || {
        let listed = batch.site.ok(&["volumes", "list"])?;
        Ok((!listed.contains(&format!("{app}:data")) && files(batch)?.len() == 1).then_some(()))
    })
}

fn moment(document: &Value) -> Result<String> {
    let found = document["body"]["moment"].as_str();
    found.map(str::to_owned).with_context(|| format!("no moment in {document}"))
}

fn snapshot(batch: &Batch) -> Result<()> {
    let taken = batch.site.json(&["snapshots", "create", "keeper:data"])?;
    ensure!(taken["body"]["frozen"] == true, "{taken}");
    redis(batch, "keeper", &["set", "word", "second"])?;
    let promised = || -> Result<u64> {
        batch.site.json(&["status"])?["disk"]["promised"].as_u64().context("nothing is said of the disk")
    };
    let with_snapshot = promised()?;
    let name = format!("keeper:data@{}", moment(&taken)?);
    batch.site.ok(&["snapshots", "restore", &name, "--to", "copy:data"])?;
    deploy(batch, "copy", "one")?;
    ensure!(redis(batch, "copy", &["get", "word"])? == "first", "not what it was");
    ensure!(redis(batch, "keeper", &["get", "word"])? == "second", "the volume itself was changed");
    // Of what is promised, the snapshot is all that goes with it.
    let with_copy = promised()?;
    batch.site.ok(&["snapshots", "delete", &name])?;
    ensure!(promised()? < with_copy && with_copy > with_snapshot, "{with_snapshot} {with_copy} {}", promised()?);
    // With its volumes: nothing of it is left.
    destroy(batch, "copy")
}

fn backup(batch: &Batch) -> Result<()> {
    let whole = batch.site.json(&["backups", "create", "keeper:data"])?;
    ensure!(whole["body"]["only_changes"] == false, "{whole}");
    redis(batch, "keeper", &["set", "word", "third"])?;
    let part = batch.site.json(&["backups", "create", "keeper:data"])?;
    let bytes = |document: &Value, what: &str| document["body"][what].as_u64().unwrap_or(u64::MAX);
    ensure!(part["body"]["only_changes"] == true && bytes(&part, "read") < 8 << 20, "{part}");
    redis(batch, "keeper", &["set", "word", "fourth"])?;
    batch.site.ok(&["backups", "verify", "keeper:data"])?;
    let first = format!("keeper:data@{}", moment(&whole)?);
    batch.site.ok(&["backups", "verify", &first])?;
    ensure!(chunks(batch)? > 0, "they are not in the bucket");
    credentials_stay_with_holm(batch)?;
    batch.site.ok(&["backups", "restore", "keeper:data", "--to", "back:data"])?;
    deploy(batch, "back", "one")?;
    ensure!(redis(batch, "back", &["get", "word"])? == "third", "not what it was");
    destroy(batch, "back")?;
    batch.site.ok(&["backups", "prune", "keeper:data", "--keep", "1"])?;
    let left = batch.site.ok(&["backups", "list"])?;
    ensure!(!left.contains(&first) && left.contains("keeper:data@"), "{left}");
    throttled(batch)?;
    batch.site.ok(&["backups", "verify", "keeper:data"]).map(drop)
}

/// A backup that may move little at a time keeps to that, and the app writes all along.
fn throttled(batch: &Batch) -> Result<()> {
    const MIB: u64 = 4;
    // Random, so that compression takes nothing away.
    let noise = format!("bs=1M count={MIB}");
    let write = format!("/bin/busybox dd if=/dev/urandom of=/data/noise {noise} && /bin/busybox sync");
    batch.site.ok(&["exec", "keeper", "--", "/bin/busybox", "sh", "-c", &write])?;

    let before = chunks(batch)?;
    let began = Instant::now();
    let mut command = batch.site.holm(&["--json", "backups", "create", "keeper:data", "--rate", "1"]);
    let mut making = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot start holm")?;
    let answered = answers_until_it_ends(batch, &mut making);
    let made = Ran::from(making.wait_with_output()?).ok(&["backups", "create"])?;
    let (took, answered) = (began.elapsed(), answered?);
    ensure!(answered > 0, "nothing was asked of the app while the backup was made");
    let sent = chunks(batch)? - before;
    ensure!(sent >= MIB << 20, "{sent} bytes were sent: {made}");
    let least = Duration::from_micros(sent * 1_000_000 / (1 << 20));
    ensure!(took >= least, "{sent} bytes at 1 MiB/s take {least:?}, and took {took:?}");
    writeln!(std::io::stderr(), "{answered} writes beside a backup of {sent} bytes in {took:?}")?;
    Ok(())
}

/// Writes to the app until the backup is made, and says how often that was acknowledged before.
fn answers_until_it_ends(batch: &Batch, making: &mut Child) -> Result<u32> {
    // The copy of the volume that is made first is there until the backup is.
    let under_way = || files(batch).map(|names| names.iter().any(|name| name.contains("scratch")));
    wait_for("a backup that is under way", || Ok((making.try_wait()?.is_some() || under_way()?).then_some(())))?;
    let mut answered = 0;
    while under_way()? {
        ensure!(redis(batch, "keeper", &["incr", "beside"])?.parse::<u32>().is_ok(), "it was not written");
        answered += u32::from(under_way()?);
    }
    Ok(answered)
}

/// Bytes of the chunks in the bucket.
fn chunks(batch: &Batch) -> Result<u64> {
    fn bytes(folder: &Path) -> std::io::Result<u64> {
        std::fs::read_dir(folder)?.try_fold(0, |sum, entry| {
            let entry = entry?;
            let size = if entry.file_type()?.is_dir() { bytes(&entry.path())? } else { entry.metadata()?.len() };
            Ok(sum + size)
        })
    }
    let folder = batch.path().join("buckets/bucket/some/folder/chunks");
    bytes(&folder).with_context(|| format!("cannot read {}", folder.display()))
}

/// The store's secret is in the environment of `holm up`, which needs it, and of no other process of the installation.
fn credentials_stay_with_holm(batch: &Batch) -> Result<()> {
    let mut knows = Vec::new();
    for (pid, line) in batch.site.processes()? {
        // One that has ended knows nothing.
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        ensure!(!line.contains(SECRET), "it stands in a command line: {line}");
        if String::from_utf8_lossy(&environment).contains(SECRET) {
            knows.push(line);
        }
    }
    ensure!(knows.len() == 1 && knows[0].contains("/holm up "), "who knows the secret: {knows:#?}");
    Ok(())
}

fn refused(batch: &Batch) -> Result<()> {
    for (line, expected) in [
        (&["volumes", "delete", "keeper:data", "--yes"][..], "has it"),
        (&["volumes", "grow", "keeper:data", "--size", "64MiB"], "only grows"),
        (&["volumes", "create", "keeper:data", "--size", "64MiB"], "already"),
        (&["volumes", "grow", "keeper:data", "--size", "2GiB"], "of the host's 2048 MiB are not promised yet"),
        (&["volumes", "create", "keeper:more", "--size", "2GiB"], "there is no room on the disk for `keeper:more`"),
        (&["volumes", "inspect", "keeper:other"], "there is no volume"),
        (&["scale", "--app", "keeper", "db=2"], "one writer"),
        (&["snapshots", "restore", "keeper:data@20260131T120000.000Z", "--to", "a:b"], "no snapshot"),
        (&["backups", "restore", "keeper:data@20260131T120000.000Z", "--to", "a:b"], "no backup"),
        (&["backups", "restore", "keeper:data", "--to", "keeper:data"], "already"),
    ] {
        let ran = batch.site.run(line)?;
        ensure!(ran.status != 0 && ran.stderr.contains(expected), "{line:?}: {ran:?}");
    }
    Ok(())
}

fn down(batch: &Batch) -> Result<()> {
    batch.site.ok(&["down"])?;
    let left = batch.site.processes()?;
    ensure!(left.is_empty(), "{left:?}");
    let names = files(batch)?;
    ensure!(names.len() == 1 && names[0].ends_with(".img") && !names[0].starts_with('.'), "{names:?}");
    Ok(())
}
