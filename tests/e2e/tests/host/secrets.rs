//! Secrets of an app: where it finds them, that a rotation reaches it, and that they are nowhere else.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use holm_e2e::Batch;
use serde_json::Value;
use xtask::site::Ran;

use super::{busybox_image, healthy};

/// What must not be found anywhere on the host. Long enough that chance does not find it.
const OLD: &str = "old-value-5f1d9c0a7b2e4d63";
const NEW: &str = "new-value-83c2a6e1d40b97f5";
const TOKEN: &str = "token-value-61b7e0f3a9c8d254";

const MANIFEST: &str = r#"schema = 1
app = "keeper"
[process.web]
memory = "64MiB"
[process.web.health]
exec = ["/bin/sh", "-c", "test -s /run/secrets/PASSWORD"]
interval = "1s"
[process.web.stop]
grace = "2s"
[secrets]
PASSWORD = { mode = "0440" }
TOKEN = { env = true }
"#;

/// Runs `holm` with `input` on its standard input.
pub(crate) fn with_input(batch: &Batch, arguments: &[&str], input: &str) -> Result<Ran> {
    let mut command = batch.site.holm(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // Whoever refuses the command line reads nothing.
    let _ = child.stdin.take().context("no input")?.write_all(input.as_bytes());
    Ok(Ran::from(child.wait_with_output()?))
}

pub(crate) fn secrets_reach_the_app_and_nothing_else(batch: &Batch) -> Result<()> {
    let set = |name: &str, value: &str| with_input(batch, &["secrets", "set", name, "--app", "keeper"], value);
    let first = set("PASSWORD", &format!("{OLD}\n"))?;
    ensure!(first.status == 0, "a secret before the first deployment: {first:?}");
    let (image, manifest) = (busybox_image(batch)?, batch.site.manifest("keeper", MANIFEST)?);
    let refused = batch.site.run(&["deploy", &image, "-f", &manifest])?;
    ensure!(refused.status == 4 && refused.stderr.contains("holm secrets set TOKEN"), "{refused:?}");
    set("TOKEN", TOKEN)?;
    batch.site.ok(&["deploy", &image, "-f", &manifest])?;

    let inside = |script: &str| batch.site.ok(&["exec", "keeper", "--", "sh", "-c", script]);
    ensure!(inside("cat /run/secrets/PASSWORD")? == OLD, "not the value without its last line break");
    let modes = inside("ls -la /run/secrets")?;
    ensure!(modes.contains("-r--r-----") && modes.contains("-r--------"), "{modes}");
    let all: Value = serde_json::from_str(&inside("cat $HOLM_SECRETS/.all.json")?)?;
    ensure!(all["schema"] == "holm.secrets/1" && all["version"] == 2, "{all}");
    ensure!(all["secrets"]["PASSWORD"] == OLD && all["secrets"]["TOKEN"] == TOKEN, "another content");
    let mounts = inside("cat /proc/mounts")?;
    let mount = mounts.lines().find(|line| line.contains(" /run/secrets ")).context("not mounted")?;
    ensure!(mount.starts_with("tmpfs") && mount.contains(" ro,"), "{mount}");
    let touched = batch.site.run(&["exec", "keeper", "--", "touch", "/run/secrets/other"])?;
    ensure!(touched.status != 0, "the secrets can be written");
    let environment = inside("env; tr '\\0' '\\n' < /proc/1/environ")?;
    ensure!(environment.contains(&format!("TOKEN={TOKEN}")), "TOKEN is no variable");
    ensure!(!environment.contains(OLD), "PASSWORD is in an environment");

    let before = healthy(batch, "keeper")?;
    let rotated = with_input(batch, &["secrets", "rotate", "PASSWORD", "--app", "keeper"], NEW)?;
    ensure!(rotated.status == 0, "{rotated:?}");
    ensure!(healthy(batch, "keeper")?.iter().all(|name| !before.contains(name)), "no instance was replaced");
    ensure!(inside("cat /run/secrets/PASSWORD")? == NEW, "the new value did not arrive");
    let listed = batch.site.json(&["secrets", "list", "keeper"])?;
    ensure!(listed["serving"] == 3 && listed["secrets"][0]["serving"] == true, "{listed}");
    let same = with_input(batch, &["--json", "secrets", "set", "PASSWORD", "--app", "keeper"], NEW)?;
    ensure!(same.stdout.contains("\"changed\": false"), "{same:?}");
    let unset = batch.site.run(&["secrets", "unset", "PASSWORD", "--app", "keeper"])?;
    ensure!(unset.status == 4 && unset.stderr.contains("the manifest in service asks for"), "{unset:?}");

    let mut told = String::new();
    for words in [&["events", "--app", "keeper"][..], &["status", "keeper"], &["ps", "keeper"], &["releases", "keeper"]]
    {
        told += &batch.site.ok(words)?;
        told += &batch.site.ok(&[&["--json"], words].concat())?;
    }
    ensure!(told.contains("`PASSWORD`"), "the change is not in the events:\n{told}");
    let traces = traces();
    ensure!(!contains(told.as_bytes(), &traces), "a value is in what holm tells");
    nowhere_on_the_host(batch, &traces)?;
    batch.site.ok(&["destroy", "keeper", "--yes"])?;
    holm_e2e::wait_for("the sealed sets to go", || {
        let left = std::fs::read_dir(batch.site.state().join("secrets/sets"))?.count();
        Ok((left == 0).then_some(()))
    })
}

/// The values, as they are and as base64 shows them at each of the three places where they can begin.
fn traces() -> Vec<Vec<u8>> {
    let mut traces = Vec::new();
    for value in [OLD, NEW, TOKEN] {
        traces.push(value.as_bytes().to_vec());
        for shift in 0..3 {
            let encoded = base64(&[&vec![0; shift], value.as_bytes()].concat());
            // The first and last characters also depend on the neighbours.
            traces.push(encoded[4..encoded.len() - 4].to_vec());
        }
    }
    traces
}

fn base64(bytes: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let word = group.iter().chain(&[0, 0]).take(3).fold(0usize, |word, byte| word << 8 | usize::from(*byte));
        [18, 12, 6, 0].map(|shift| ALPHABET[word >> shift & 63])
    };
    bytes.chunks(3).flat_map(group).collect()
}

fn contains(bytes: &[u8], traces: &[Vec<u8>]) -> bool {
    traces.iter().any(|trace| bytes.windows(trace.len()).any(|window| window == trace.as_slice()))
}

fn nowhere_on_the_host(batch: &Batch, traces: &[Vec<u8>]) -> Result<()> {
    ensure!(contains(&base64(format!("x{OLD}y").as_bytes()), traces), "the search itself does not find base64");
    ensure!(contains(format!("x{TOKEN}y").as_bytes(), traces), "the search itself does not find text");
    let looked = search(batch.site.state(), traces)?;
    ensure!(looked >= 10, "only {looked} files were looked at");
    let mut processes = 0;
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        for file in ["cmdline", "environ"] {
            // A process may end while it is looked at, and some are not ours to read.
            let Ok(bytes) = std::fs::read(path.join(file)) else { continue };
            processes += 1;
            ensure!(!contains(&bytes, traces), "a value is in {}", path.join(file).display());
        }
    }
    ensure!(processes > 10, "only {processes} processes were looked at");
    Ok(())
}

/// Looks through every file below `folder`; images and kernels, which no secret ever reaches, excepted for their size.
fn search(folder: &Path, traces: &[Vec<u8>]) -> Result<usize> {
    let mut looked = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        let large = path.ends_with("state/images") || path.ends_with("state/guests");
        if kind.is_dir() && !large {
            looked += search(&path, traces)?;
        } else if kind.is_file() {
            let mut bytes = Vec::new();
            // A log may be replaced while it is looked at.
            let Ok(mut file) = File::open(&path) else { continue };
            file.read_to_end(&mut bytes)?;
            ensure!(!contains(&bytes, traces), "a value is in {}", path.display());
            looked += 1;
        }
    }
    Ok(looked)
}
