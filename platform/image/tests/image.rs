//! Whole images: packed, prepared by the store, and compared with `umoci unpack`, `fsck.erofs` and expectations.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail and say why")]

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use holm_image::erofs::{FileType, Reader};
use holm_image::pack::{Compression, LayerBuilder, add_image};
use holm_image::{Device, ImageConfig, ImageRef, ImageStore, Mtime, Phase, PreparedImage, StoreOptions};

async fn open(folder: &Path) -> ImageStore {
    ImageStore::open(folder, StoreOptions::default()).await.unwrap()
}

async fn prepare(store: &ImageStore, reference: &str) -> PreparedImage {
    let reference: ImageRef = reference.parse().unwrap();
    let resolved = store.resolve(&reference).await.unwrap();
    store.prepare(&resolved, |_| {}).await.unwrap()
}

/// Three layers with every feature an oracle can show.
fn rich_layers() -> Vec<Vec<u8>> {
    let when = |seconds, nanos| Mtime { seconds, nanos };
    let mut base = LayerBuilder::new();
    base.folder("./").mtime(when(1_600_000_000, 5)).mode(0o755);
    base.folder("etc/").mtime(when(1_600_000_000, 0));
    base.file("etc/passwd", "root:x:0:0::/:/bin/sh\n").mtime(when(1_500_000_000, 123_456_789));
    base.file("etc/gone", "bye").mtime(when(1, 0));
    base.folder("opt").mode(0o1777).owner(7, 8).mtime(when(2, 0));
    base.file("opt/a", vec![b'a'; 5000]).mtime(when(3, 0));
    base.folder("opt/deep").mtime(when(3, 0));
    base.file("opt/deep/er", "x").mtime(when(3, 0));
    base.folder("usr").mtime(when(4, 0));
    base.folder("usr/bin").mtime(when(4, 0));
    base.file("usr/bin/tool", (0..100_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>())
        .mode(0o4755)
        .owner(100_000, 70_000)
        .xattr("security.capability", &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        .xattr("user.note", b"hello")
        .mtime(when(5, 0));
    base.symlink("bin", "usr/bin").mtime(when(6, 0));
    base.symlink("abs", "/opt").mtime(when(6, 0));
    base.hard_link("usr/bin/same", "usr/bin/tool");
    base.file("exact", vec![7; 8192]).mtime(when(7, 0));
    base.file("empty", "").mtime(when(7, 0));
    base.file(vec![b'n'; 255], "long name").mtime(when(7, 0));
    base.file(b"bad-\xff\xfe-utf8", "bytes").mtime(when(7, 0));
    base.folder("many").mtime(when(8, 0));
    for number in 0..700 {
        base.file(format!("many/file-{number:04}"), format!("{number}")).mtime(when(8, 0));
    }
    base.folder("dev").mtime(when(8, 0));
    base.char_device("dev/null", Device { major: 1, minor: 3 }).mode(0o666).mtime(when(8, 0));
    base.block_device("dev/big", Device { major: 259, minor: 70_000 }).mtime(when(8, 0));
    base.fifo("dev/pipe").mtime(when(8, 0));
    let mut second = LayerBuilder::new();
    second.file("etc/.wh.gone", "");
    second.file("bin/through-link", "via symlink").mtime(when(9, 0));
    second.hard_link("linked-across", "exact");
    second.folder("opt").mode(0o700).mtime(when(10, 0));
    second.file("opt/new", "kept").mtime(when(10, 0));
    second.file("opt/.wh..wh..opq", "");
    second.file("abs/also-new", "kept too").mtime(when(10, 0));
    second.folder("many").mtime(when(8, 0));
    second.file("many/.wh.file-0003", "");
    let mut third = LayerBuilder::new();
    third.file("usr/bin/same", "replaced").mtime(when(11, 0));
    third.file("empty", "first").mtime(when(11, 0));
    third.file("empty", "second, wins").mtime(when(12, 0));
    third.symlink("etc/passwd", "/nowhere").mtime(when(13, 0));
    third.folder("exact").mtime(when(14, 0));
    third.file("exact/inside", "was a file").mtime(when(14, 0));
    third.file("etc/gone", "back").mtime(when(15, 0));
    // The layers below touch these folders without saying when.
    for (folder, seconds) in [("etc", 20), ("usr", 21), ("usr/bin", 22), ("opt", 23), ("many", 24)] {
        third.folder(folder).mtime(when(seconds, 0));
    }
    third.folder(".").mtime(when(1_700_000_000, 999_999_999));
    vec![base.to_tar(), second.to_tar(), third.to_tar()]
}

/// One line per path: type, mode, owner, size, time, link count, device, attributes, content.
type Listing = BTreeMap<Vec<u8>, String>;

fn listing_of_image(path: &Path) -> Listing {
    let reader = Reader::open(File::open(path).unwrap()).unwrap();
    let mut listing = Listing::new();
    let mut paths = vec![(b"/".to_vec(), reader.root().unwrap())];
    reader.walk(|path, inode| paths.push((path.to_vec(), inode.clone()))).unwrap();
    let mut links = BTreeMap::<u64, Vec<Vec<u8>>>::new();
    for (path, inode) in &paths {
        links.entry(inode.nid()).or_default().push(path.clone());
    }
    for (path, inode) in &paths {
        let (kind, content) = match inode.file_type() {
            FileType::File => ("file".to_owned(), reader.read_all(inode, 1 << 30).unwrap()),
            FileType::Symlink => ("link".to_owned(), reader.read_link(inode).unwrap()),
            FileType::Folder => ("folder".to_owned(), Vec::new()),
            FileType::Fifo => ("fifo".to_owned(), Vec::new()),
            FileType::CharDevice(device) => (format!("char {}:{}", device.major, device.minor), Vec::new()),
            FileType::BlockDevice(device) => (format!("block {}:{}", device.major, device.minor), Vec::new()),
        };
        let xattrs = reader.xattrs(inode).unwrap();
        let xattrs: BTreeMap<_, _> = xattrs.into_iter().map(|xattr| (xattr.name, xattr.value)).collect();
        let same = links[&inode.nid()].iter().min().unwrap();
        let (seconds, nanos) = (inode.mtime().seconds, inode.mtime().nanos);
        let line = describe(
            &kind,
            inode.mode().into(),
            inode.uid(),
            inode.gid(),
            seconds,
            nanos.into(),
            inode.links(),
            same,
            &xattrs,
            &content,
        );
        listing.insert(path.clone(), line);
    }
    listing
}

fn listing_of_folder(root: &Path) -> Listing {
    use std::os::unix::ffi::OsStrExt;
    let mut found = vec![(b"/".to_vec(), root.to_path_buf())];
    let mut pending = vec![(Vec::new(), root.to_path_buf())];
    while let Some((at, folder)) = pending.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let at = [&at[..], b"/", entry.file_name().as_bytes()].concat();
            if entry.metadata().unwrap().is_dir() {
                pending.push((at.clone(), entry.path()));
            }
            found.push((at, entry.path()));
        }
    }
    let mut links = BTreeMap::<u64, Vec<Vec<u8>>>::new();
    for (at, path) in &found {
        links.entry(std::fs::symlink_metadata(path).unwrap().ino()).or_default().push(at.clone());
    }
    let mut listing = Listing::new();
    for (at, path) in &found {
        let meta = std::fs::symlink_metadata(path).unwrap();
        let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        let kind = meta.file_type();
        let (kind, content) = if kind.is_file() {
            ("file".to_owned(), std::fs::read(path).unwrap())
        } else if kind.is_symlink() {
            ("link".to_owned(), std::fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec())
        } else if kind.is_dir() {
            ("folder".to_owned(), Vec::new())
        } else if kind.is_fifo() {
            ("fifo".to_owned(), Vec::new())
        } else if kind.is_char_device() {
            (format!("char {major}:{minor}"), Vec::new())
        } else {
            (format!("block {major}:{minor}"), Vec::new())
        };
        let same = links[&meta.ino()].iter().min().unwrap();
        let xattrs = xattrs_of(path);
        let nanos = meta.mtime_nsec();
        let count = u32::try_from(meta.nlink()).unwrap();
        let line = describe(
            &kind,
            meta.mode() & 0o7777,
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            nanos,
            count,
            same,
            &xattrs,
            &content,
        );
        listing.insert(at.clone(), line);
    }
    listing
}

fn xattrs_of(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65536];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = rustix::fs::lgetxattr(path, std::str::from_utf8(name).unwrap(), &mut value[..]).unwrap();
            (name.to_vec(), value[..length].to_vec())
        })
        .collect()
}

#[expect(clippy::too_many_arguments, reason = "one line of a listing")]
fn describe(
    kind: &str,
    mode: u32,
    uid: u32,
    gid: u32,
    seconds: i64,
    nanos: i64,
    links: u32,
    same: &[u8],
    xattrs: &BTreeMap<Vec<u8>, Vec<u8>>,
    content: &[u8],
) -> String {
    // A host's file systems count a folder's links in their own way.
    let links = if kind == "folder" { 0 } else { links };
    let xattrs: Vec<_> =
        xattrs.iter().map(|(name, value)| format!("{}={}", name.escape_ascii(), value.escape_ascii())).collect();
    let content = holm_image::Digest::of(content);
    format!(
        "{kind} {mode:o} {uid}:{gid} {seconds}.{nanos:09} links {links} ({}) {} {content}",
        same.escape_ascii(),
        xattrs.join(",")
    )
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

fn assert_same(image: &Listing, oracle: &Listing) {
    for path in image.keys().chain(oracle.keys()).collect::<std::collections::BTreeSet<_>>() {
        assert_eq!(image.get(path), oracle.get(path), "{}", path.escape_ascii());
    }
}

#[tokio::test]
async fn a_rich_image_equals_umoci_and_passes_fsck() {
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    add_image(&layout, "v1", &rich_layers(), Compression::Gzip, &ImageConfig::default()).unwrap();
    let store = open(&folder.path().join("store")).await;
    let image = prepare(&store, &format!("oci:{}:v1", layout.display())).await;
    run("fsck.erofs", &[image.erofs.to_str().unwrap()]);
    let bundle = folder.path().join("bundle");
    run("umoci", &["unpack", "--image", &format!("{}:v1", layout.display()), bundle.to_str().unwrap()]);
    assert_same(&listing_of_image(&image.erofs), &listing_of_folder(&bundle.join("rootfs")));
}

#[tokio::test]
async fn the_kernel_mounts_the_image_and_sees_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    add_image(&layout, "v1", &rich_layers(), Compression::Zstd, &ImageConfig::default()).unwrap();
    let store = open(&folder.path().join("store")).await;
    let image = prepare(&store, &format!("oci:{}:v1", layout.display())).await;
    let mount = folder.path().join("mount");
    std::fs::create_dir(&mount).unwrap();
    let arguments = ["-t", "erofs", "-o", "loop,ro", image.erofs.to_str().unwrap(), mount.to_str().unwrap()];
    if !Command::new("mount").args(arguments).status().unwrap().success() {
        eprintln!("skipped: this host does not let the test mount EROFS");
        return;
    }
    let seen = std::panic::catch_unwind(|| listing_of_folder(&mount));
    run("umount", &[mount.to_str().unwrap()]);
    assert_same(&listing_of_image(&image.erofs), &seen.unwrap());
}

#[tokio::test]
async fn the_same_image_gives_the_same_bytes_whatever_the_compression() {
    let folder = tempfile::tempdir().unwrap();
    let mut sums = HashSet::new();
    for (number, compression) in [Compression::None, Compression::Gzip, Compression::Gzip].into_iter().enumerate() {
        let layout = folder.path().join(format!("layout-{number}"));
        add_image(&layout, "v1", &rich_layers(), compression, &ImageConfig::default()).unwrap();
        let store = open(&folder.path().join(format!("store-{number}"))).await;
        let image = prepare(&store, &format!("oci:{}", layout.display())).await;
        let mut bytes = std::fs::read(&image.erofs).unwrap();
        // UUID and volume name come from the digest, which differs with the compression.
        bytes[1024..1152].fill(0);
        sums.insert(holm_image::Digest::of(&bytes));
    }
    assert_eq!(sums.len(), 1);
}

#[tokio::test]
async fn equal_calls_share_one_build_and_hear_its_progress() {
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    add_image(&layout, "v1", &rich_layers(), Compression::Gzip, &ImageConfig::default()).unwrap();
    let store = open(&folder.path().join("store")).await;
    let reference: ImageRef = format!("oci:{}", layout.display()).parse().unwrap();
    let resolved = store.resolve(&reference).await.unwrap();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let both = tokio::join!(store.prepare(&resolved, |p| first.push(p)), store.prepare(&resolved, |p| second.push(p)));
    assert_eq!(both.0.unwrap(), both.1.unwrap());
    for heard in [first, second] {
        let last = heard.last().unwrap();
        assert!(last.phase == Phase::Building && last.done == last.total, "{heard:?}");
    }
}

#[tokio::test]
async fn a_damaged_image_is_found_and_built_again() {
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    add_image(&layout, "v1", &rich_layers(), Compression::Gzip, &ImageConfig::default()).unwrap();
    let store = open(&folder.path().join("store")).await;
    let reference = format!("oci:{}", layout.display());
    let image = prepare(&store, &reference).await;
    store.verify(image.digest).await.unwrap();
    let before = std::fs::read(&image.erofs).unwrap();
    let mut changed = before.clone();
    changed[5000] ^= 1;
    std::fs::remove_file(&image.erofs).unwrap();
    std::fs::write(&image.erofs, &changed).unwrap();
    assert!(store.verify(image.digest).await.is_err());
    prepare(&store, &reference).await;
    assert_eq!(std::fs::read(&image.erofs).unwrap(), before);
    std::fs::remove_file(&image.erofs).unwrap();
    std::fs::write(&image.erofs, &before[..before.len() - 1]).unwrap();
    prepare(&store, &reference).await;
    assert_eq!(std::fs::read(&image.erofs).unwrap(), before);

    // In place and of the same size, which nobody asked the store to look at; and by a store that has not seen it before.
    damage(&image.erofs, 5000);
    prepare(&store, &reference).await;
    assert_eq!(std::fs::read(&image.erofs).unwrap(), before);
    drop(store);
    damage(&image.erofs, before.len() as u64 - 1);
    let store = open(&folder.path().join("store")).await;
    prepare(&store, &reference).await;
    assert_eq!(std::fs::read(&image.erofs).unwrap(), before);
}

/// Changes one byte of a file and nothing else that shows but the time of the change.
fn damage(path: &Path, at: u64) {
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
    let changed = || {
        let file = std::fs::metadata(path).unwrap();
        (file.ctime(), file.ctime_nsec())
    };
    let built = changed();
    // A file system's clock ticks some hundred times a second.
    while changed() == built {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    let file = File::options().read(true).write(true).open(path).unwrap();
    let (times, mut byte) = (file.metadata().unwrap().modified().unwrap(), [0]);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.set_modified(times).unwrap();
}

#[tokio::test]
async fn prune_keeps_what_is_asked_for_and_frees_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    let mut other = LayerBuilder::new();
    other.file("a", "other");
    add_image(&layout, "v1", &rich_layers(), Compression::Gzip, &ImageConfig::default()).unwrap();
    add_image(&layout, "v2", &[other.to_tar()], Compression::Gzip, &ImageConfig::default()).unwrap();
    let store = open(&folder.path().join("store")).await;
    let first = prepare(&store, &format!("oci:{}:v1", layout.display())).await;
    let second = prepare(&store, &format!("oci:{}:v2", layout.display())).await;
    assert_eq!(store.list().await.unwrap().len(), 2);
    let pruned = store.prune(HashSet::from([second.digest])).await.unwrap();
    assert_eq!(pruned.images, [first.digest]);
    assert!(pruned.bytes >= first.erofs_bytes);
    assert!(!first.erofs.exists() && second.erofs.exists());
    assert_eq!(std::fs::read_dir(folder.path().join("store/blobs/sha256")).unwrap().count(), 3);
}

#[tokio::test]
async fn a_store_is_used_by_one_process_and_cleared_of_leftovers() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    assert!(ImageStore::open(folder.path(), StoreOptions::default()).await.is_err());
    drop(store);
    std::fs::write(folder.path().join("tmp/half"), "x").unwrap();
    std::fs::write(folder.path().join("images/half.erofs"), "x").unwrap();
    let store = open(folder.path()).await;
    assert!(!folder.path().join("tmp/half").exists() && !folder.path().join("images/half.erofs").exists());
    assert!(store.list().await.unwrap().is_empty());
}
