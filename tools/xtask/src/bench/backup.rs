//! What a backup of a volume of 1 GiB reads and sends when 1 % of it has changed since the last one.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::installation::Installation;
use super::report::Measured;
use super::samples::Samples;
use crate::images;
use crate::workspace::cache;

/// The volume, and what is in it before anything is changed.
const MANIFEST: &str = "schema = 1\napp = \"box\"\n\n[process.box]\ncommand = [\"/bin/sleep\", \"1000000\"]\nmemory = \"96MiB\"\n\
                        mounts = { data = \"/data\" }\n\n[volume.data]\nsize = \"1GiB\"\n";
const FILES: u32 = 16;
const FILE_MIB: u32 = 16;
/// 1 % of 1 GiB, in pieces of 256 KiB that lie apart.
const CHANGED_PIECES: u32 = 41;

/// Measures.
pub(super) fn measure() -> Result<Vec<Measured>> {
    println!("backup: a volume of 1 GiB with {} MiB in it, of which 1 % of the volume changes", FILES * FILE_MIB);
    let holm = Installation::start_with(&["--backups"])?;
    let image = images::busybox(&cache(), &holm.folder().join("busybox"))?;
    let manifest = holm.site.manifest("box", MANIFEST)?;
    holm.site.ok(&["deploy", &image, "-f", &manifest])?;
    let shell = |script: &str| holm.site.ok(&["exec", "box", "--", "/bin/busybox", "sh", "-c", script]).map(drop);
    shell(&format!(
        "for i in $(/bin/busybox seq {FILES}); do /bin/busybox dd if=/dev/urandom of=/data/$i bs=1M count={FILE_MIB} 2>/dev/null; done; \
         /bin/busybox sync"
    ))?;
    let whole = backup(&holm)?;
    // Pieces in different files and places, written over as a database writes its pages.
    shell(&format!(
        "for i in $(/bin/busybox seq {CHANGED_PIECES}); do /bin/busybox dd if=/dev/urandom of=/data/$((i % {FILES} + 1)) bs=256k \
         count=1 seek=$((i * 7 % {})) conv=notrunc 2>/dev/null; done; /bin/busybox sync",
        FILE_MIB * 4
    ))?;
    let part = backup(&holm)?;
    holm.site.ok(&["backups", "verify", "box:data"])?;
    ensure!(part.only_changes, "the whole volume was read");
    let share = |bytes: f64| bytes / part.size * 100.0;
    let how = format!(
        "{:.1} MiB read and {:.1} MiB sent; the first backup read {:.1} MiB",
        part.read / 1048576.0,
        part.sent / 1048576.0,
        whole.read / 1048576.0
    );
    let samples = [
        ("read_bytes".to_owned(), Samples(vec![whole.read, part.read])),
        ("sent_bytes".to_owned(), Samples(vec![whole.sent, part.sent])),
    ];
    let value = share(part.read.max(part.sent));
    Ok(vec![Measured { name: "backup-changed", value, how, samples: samples.into() }])
}

/// What one backup took, in bytes.
struct Took {
    size: f64,
    read: f64,
    sent: f64,
    only_changes: bool,
}

fn backup(holm: &Installation) -> Result<Took> {
    let document: Value = holm.site.json(&["backups", "create", "box:data"])?;
    let number = |what: &str| document["body"][what].as_f64().with_context(|| format!("no `{what}` in {document}"));
    let only_changes = document["body"]["only_changes"] == true;
    Ok(Took { size: number("size")?, read: number("read")?, sent: number("sent")?, only_changes })
}
