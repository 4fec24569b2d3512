//! Building the file system of an image from cached layers, beside `umoci unpack` and `mkfs.erofs` on the same image.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use holm_image::ImageConfig;
use holm_image::pack::{Compression, LayerBuilder, add_image};

use super::report::Measured;
use super::samples::Samples;
use crate::build;
use crate::command::{command, output};
use crate::debian;
use crate::workspace::{cache, target};

/// Builds that are measured, of each side.
const ROUNDS: usize = 5;

/// The layers, lowest first, each of some Debian packages.
const LAYERS: [(&str, &[&str]); 4] = [
    ("base", &["libc6", "libstdc++6", "libssl3", "zlib1g", "libcrypt1", "bash", "coreutils", "perl-base", "libicu72"]),
    ("python", &["python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "python3.11"]),
    ("perl", &["perl-modules-5.36", "libperl5.36", "git", "vim-runtime"]),
    ("nginx", &["nginx", "nginx-common", "libpcre2-8-0", "media-types"]),
];

/// Measures.
pub(super) fn measure() -> Result<Vec<Measured>> {
    println!("image: {ROUNDS} builds beside umoci and mkfs.erofs");
    let prepare = build::release_example("holm-image", "prepare", None)?;
    let folder = target().join("bench-image");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let measured = compare(&prepare, &folder);
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    Ok(vec![measured?])
}

fn compare(prepare: &Path, folder: &Path) -> Result<Measured> {
    let layout = folder.join("layout");
    pack(&layout)?;
    let store = folder.join("store");
    // The first build brings the layers into the store; it is not counted.
    ours(prepare, folder, &layout, &store)?;
    let (mut our_ms, mut their_ms, mut umoci_ms) = (Samples::default(), Samples::default(), Samples::default());
    let mut file_mib = 0.0;
    for round in 0..ROUNDS {
        let mut one = |ours_first: bool| -> Result<()> {
            if ours_first {
                our_ms.0.push(ours(prepare, folder, &layout, &store)?);
            } else {
                let (unpack, all, bytes) = theirs(folder, &layout)?;
                umoci_ms.0.push(unpack);
                their_ms.0.push(all);
                file_mib = bytes as f64 / f64::from(1 << 20);
            }
            Ok(())
        };
        one(round % 2 == 0)?;
        one(round % 2 != 0)?;
    }
    let ratio = their_ms.with(&our_ms, |theirs, ours| theirs / ours);
    let (least, most) = ratio.range();
    let how = format!(
        "median of {ROUNDS} pairs ({least:.2} to {most:.2}); ours {:.0} ms, theirs {:.0} ms (umoci {:.0}); {} layers, {file_mib:.0} MiB as EROFS",
        our_ms.median(),
        their_ms.median(),
        umoci_ms.median(),
        LAYERS.len(),
    );
    let value = ratio.median();
    let samples = [("ratio", ratio), ("ours_ms", our_ms), ("theirs_ms", their_ms), ("umoci_ms", umoci_ms)];
    let samples = samples.into_iter().map(|(name, samples)| (name.to_owned(), samples)).collect();
    Ok(Measured { name: "image-build", value, how, samples })
}

/// Packs the packages into a layout, each layer gzipped as registries hold them.
fn pack(layout: &Path) -> Result<()> {
    let mut layers = Vec::new();
    for (name, packages) in LAYERS {
        let unpacked = debian::unpacked(&cache().join("bench-image").join(name), packages)?;
        let mut layer = LayerBuilder::new();
        layer.tree(&unpacked, "")?;
        layers.push(layer.to_tar());
    }
    add_image(layout, "1", &layers, Compression::Gzip, &ImageConfig::default())?;
    Ok(())
}

/// Runs `program` and gives the time it took, in ms.
fn timed(folder: &Path, program: &Path, arguments: &[&str]) -> Result<f64> {
    let began = Instant::now();
    output(&mut command(folder, program, arguments))?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// One build of ours, the layers being in the store and the image not.
fn ours(prepare: &Path, folder: &Path, layout: &Path, store: &Path) -> Result<f64> {
    for built in files_in(&store.join("images"))? {
        fs::remove_file(built)?;
    }
    let reference = format!("oci:{}:1", layout.display());
    let took = timed(folder, prepare, &[&reference, &store.to_string_lossy()])?;
    ensure!(!files_in(&store.join("images"))?.is_empty(), "no image was built");
    Ok(took)
}

fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let paths = paths.filter(|path| path.as_ref().map_or(true, |path| path.extension().is_some_and(|e| e == "erofs")));
    paths.collect()
}

/// The same with the usual tools: gives the time of `umoci unpack`, that of both, and the size of the file.
fn theirs(folder: &Path, layout: &Path) -> Result<(f64, f64, u64)> {
    let (bundle, file) = (folder.join("bundle"), folder.join("theirs.erofs"));
    let image = format!("{}:1", layout.display());
    let mut unpack = vec!["unpack", "--image", &image];
    if !rustix::process::geteuid().is_root() {
        unpack.push("--rootless");
    }
    let (bundle_name, root) = (bundle.to_string_lossy().into_owned(), bundle.join("rootfs"));
    unpack.push(&bundle_name);
    let unpacking = timed(folder, Path::new("umoci"), &unpack)?;
    let making =
        timed(folder, Path::new("mkfs.erofs"), &["--quiet", &file.to_string_lossy(), &root.to_string_lossy()])?;
    let bytes = fs::metadata(&file)?.len();
    fs::remove_dir_all(bundle)?;
    fs::remove_file(file)?;
    Ok((unpacking, unpacking + making, bytes))
}
