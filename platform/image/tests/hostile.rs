//! Hostile and broken images: each is refused with its reason and leaves no file behind.

#![allow(clippy::drop_non_drop, reason = "a closure of one line drops the editor it got")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail and say why")]

use std::path::Path;

use holm_image::pack::{Compression, LayerBuilder, add_image};
use holm_image::{Digest, ImageConfig, ImageRef, ImageStore, Limits, StoreOptions};

fn small_limits() -> Limits {
    Limits { unpacked_bytes: 4 << 20, entries: 100, layers: 4, metadata_bytes: 64 << 10, ..Limits::default() }
}

/// The error's whole chain in one line, and what is left in the store.
async fn refusal(layout: &Path) -> (String, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions { limits: small_limits(), ..StoreOptions::default() };
    let store = ImageStore::open(folder.path(), options).await.unwrap();
    let reference: ImageRef = format!("oci:{}", layout.display()).parse().unwrap();
    let chain = |error: &dyn std::error::Error| {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(source) = next {
            text = format!("{text}: {source}");
            next = source.source();
        }
        text
    };
    let text = match store.resolve(&reference).await {
        Err(error) => chain(&error),
        Ok(resolved) => match store.prepare(&resolved, |_| {}).await {
            Err(error) => chain(&error),
            Ok(_) => "accepted".to_owned(),
        },
    };
    let mut left = Vec::new();
    for part in ["images", "tmp"] {
        for entry in std::fs::read_dir(folder.path().join(part)).unwrap() {
            left.push(format!("{part}/{}", entry.unwrap().file_name().display()));
        }
    }
    (text, left)
}

async fn refusal_of_layers(layers: &[Vec<u8>], compression: Compression) -> (String, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    add_image(folder.path(), "v1", layers, compression, &ImageConfig::default()).unwrap();
    refusal(folder.path()).await
}

fn layer(fill: impl FnOnce(&mut LayerBuilder)) -> Vec<u8> {
    let mut layer = LayerBuilder::new();
    fill(&mut layer);
    layer.to_tar()
}

#[tokio::test]
async fn hostile_layers_are_refused_with_their_reason() {
    let whole = layer(|l| drop(l.file("a", vec![1; 5000])));
    let mut flipped = whole.clone();
    flipped[0] = b'b';
    let mut strange = LayerBuilder::new();
    strange.fifo("x");
    let mut strange = strange.to_tar();
    strange[156] = b'Z';
    let sum: u32 = (0..512).map(|i| if (148..156).contains(&i) { 32 } else { u32::from(strange[i]) }).sum();
    strange[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let cases = [
        ("parent in a path", layer(|l| drop(l.file("a/../../etc/passwd", "x"))), "contains `..`"),
        ("parent in a hard link", layer(|l| drop(l.hard_link("a", "../etc/passwd"))), "contains `..`"),
        ("hard link to nothing", layer(|l| drop(l.hard_link("a", "/etc/passwd"))), "`/etc/passwd` does not exist"),
        (
            "hard link to a folder",
            layer(|l| {
                l.folder("d");
                l.hard_link("a", "d");
            }),
            "`d` is a folder",
        ),
        ("hard link to itself", layer(|l| drop(l.hard_link("a", "a"))), "`a` does not exist"),
        (
            "symlink loop",
            layer(|l| {
                l.symlink("a", "b");
                l.symlink("b", "a");
                l.file("a/x", "x");
            }),
            "loop of symlinks",
        ),
        (
            "file as a parent",
            layer(|l| {
                l.file("a", "");
                l.file("a/x", "x");
            }),
            "not a folder",
        ),
        ("root as a file", layer(|l| drop(l.file(".", "x"))), "root is not a folder"),
        ("whiteout of the parent", layer(|l| drop(l.file("a/.wh...", ""))), "names no entry"),
        ("whiteout of nothing", layer(|l| drop(l.file("a/.wh.", ""))), "names no entry"),
        ("reserved folder", layer(|l| drop(l.file(".wh.a/b", ""))), "reserved"),
        ("long name", layer(|l| drop(l.file(vec![b'n'; 256], ""))), "limit is 255"),
        ("long path", layer(|l| drop(l.file("d/".repeat(2100), ""))), "limit is 4096"),
        ("empty symlink", layer(|l| drop(l.symlink("a", ""))), "symlink's target"),
        ("long symlink", layer(|l| drop(l.symlink("a", vec![b'x'; 4096]))), "symlink's target"),
        ("large attributes", layer(|l| drop(l.file("a", "").xattr("user.a", &[0; 65_535]))), "limit is 65535"),
        ("attribute without a name", layer(|l| drop(l.file("a", "").xattr("", b"x"))), "attribute's name"),
        (
            "too many entries",
            layer(|l| {
                for n in 0..101 {
                    l.file(format!("{n}"), "");
                }
            }),
            "more than 100 entries",
        ),
        ("too many implied folders", layer(|l| drop(l.file("d/".repeat(200) + "x", ""))), "more than 100 entries"),
        (
            "too much metadata",
            layer(|l| {
                for n in 0..50 {
                    l.symlink(format!("{n}"), vec![b'x'; 4000]);
                }
            }),
            "more than 65536",
        ),
        ("bomb", layer(|l| drop(l.file("a", vec![0; 5 << 20]))), "4194304"),
        ("truncated archive", whole[..2000].to_vec(), "middle of an entry"),
        ("truncated header", whole[..300].to_vec(), "middle of an entry"),
        ("wrong checksum", flipped, "wrong checksum"),
        ("unknown type", strange, "unsupported type `Z`"),
    ];
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        for (name, tar, reason) in &cases {
            let (text, left) = refusal_of_layers(std::slice::from_ref(tar), compression).await;
            assert!(text.contains(reason), "{name} with {compression:?}: {text}");
            assert!(left.is_empty(), "{name} with {compression:?} left {left:?}");
        }
    }
}

#[tokio::test]
async fn writes_through_symlinks_stay_inside_the_image() {
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let tar = layer(|l| {
        l.symlink("escape", outside.to_str().unwrap());
        l.file("escape/file", "x");
        l.symlink("up", "../../../../../../..");
        l.file("up/etc/file", "y");
    });
    let layout = folder.path().join("layout");
    add_image(&layout, "v1", &[tar], Compression::Gzip, &ImageConfig::default()).unwrap();
    let store = ImageStore::open(folder.path().join("store"), StoreOptions::default()).await.unwrap();
    let resolved = store.resolve(&format!("oci:{}", layout.display()).parse().unwrap()).await.unwrap();
    let image = store.prepare(&resolved, |_| {}).await.unwrap();
    let reader = holm_image::erofs::Reader::open(std::fs::File::open(image.erofs).unwrap()).unwrap();
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    for path in [format!("{}/file", outside.display()), "/etc/file".to_owned()] {
        reader.lookup(path.as_bytes()).unwrap();
    }
}

#[tokio::test]
async fn damaged_documents_and_blobs_are_refused() {
    let good = layer(|l| drop(l.file("a", "x")));
    type Change = fn(&Path, Digest, &mut serde_json::Value);
    fn rewrite_blob(folder: &Path, digest: &str, change: impl Fn(Vec<u8>) -> Vec<u8>) {
        let path = folder.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(path, change(bytes)).unwrap();
    }
    let cases: [(&str, Change, &str); 11] = [
        (
            "truncated layer blob",
            |f, _, m| rewrite_blob(f, m["layers"][0]["digest"].as_str().unwrap(), |b| b[..b.len() - 1].to_vec()),
            "ends after",
        ),
        (
            "longer layer blob",
            |f, _, m| rewrite_blob(f, m["layers"][0]["digest"].as_str().unwrap(), |b| [b, vec![0]].concat()),
            "larger than",
        ),
        (
            "changed layer blob",
            |f, _, m| {
                rewrite_blob(f, m["layers"][0]["digest"].as_str().unwrap(), |mut b| {
                    b[20] ^= 1;
                    b
                })
            },
            "digest",
        ),
        ("changed manifest", |f, d, _| rewrite_blob(f, &d.to_string(), |b| [b, vec![b' ']].concat()), "digest"),
        (
            "foreign layer",
            |_, _, m| m["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into(),
            "foreign",
        ),
        (
            "unknown layer type",
            |_, _, m| m["layers"][0]["mediaType"] = "text/plain".into(),
            "unsupported media type `text/plain`",
        ),
        (
            "too many layers",
            |_, _, m| m["layers"] = vec![m["layers"][0].clone(); 5].into(),
            "number of layers is 5; the limit is 4",
        ),
        (
            "layer count",
            |_, _, m| m["layers"] = vec![m["layers"][0].clone(); 2].into(),
            "2 layers but the configuration names 1",
        ),
        ("absurd layer size", |_, _, m| m["layers"][0]["size"] = u64::MAX.into(), "the limit is"),
        ("negative size", |_, _, m| m["layers"][0]["size"] = (-1).into(), "not valid"),
        ("an artifact", |_, _, m| m["mediaType"] = "application/vnd.cncf.helm".into(), "not a container image"),
    ];
    for (name, change, reason) in cases {
        let folder = tempfile::tempdir().unwrap();
        let digest =
            add_image(folder.path(), "v1", std::slice::from_ref(&good), Compression::Gzip, &ImageConfig::default())
                .unwrap();
        let blobs = folder.path().join("blobs/sha256");
        let before = std::fs::read(blobs.join(digest.hex())).unwrap();
        let mut manifest: serde_json::Value = serde_json::from_slice(&before).unwrap();
        let original = manifest.clone();
        change(folder.path(), digest, &mut manifest);
        if manifest != original {
            let bytes = serde_json::to_vec(&manifest).unwrap();
            let new = Digest::of(&bytes);
            std::fs::write(blobs.join(new.hex()), bytes).unwrap();
            let index = std::fs::read_to_string(folder.path().join("index.json")).unwrap();
            std::fs::write(folder.path().join("index.json"), index.replace(&digest.hex(), &new.hex())).unwrap();
        }
        let (text, left) = refusal(folder.path()).await;
        assert!(text.contains(reason), "{name}: {text}");
        assert!(left.is_empty(), "{name} left {left:?}");
    }
}
