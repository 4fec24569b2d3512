//! Archives as other programs write them: GNU tar's long names and sparse files, gzip in several members, zstd in several
//! frames, and documents in the forms that registries hold.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use holm_image::erofs::{FileType, Reader};
use holm_image::{Digest, ImageStore, PreparedImage, StoreOptions};
use serde_json::{Value, json};

/// A layout whose documents a test writes itself.
struct Layout(PathBuf);

impl Layout {
    fn new(folder: &Path) -> Self {
        let layout = folder.join("layout");
        std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        std::fs::write(layout.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
        Self(layout)
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        std::fs::write(self.0.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() })
    }

    fn document(&self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, value.to_string().as_bytes())
    }

    fn config(&self, media_type: &str, archives: &[&[u8]]) -> Value {
        let diff_ids: Vec<_> = archives.iter().map(|archive| Digest::of(archive).to_string()).collect();
        let config = json!({
            "os": "linux", "architecture": architecture(), "config": { "Cmd": ["/run"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        self.document(media_type, &config)
    }

    /// An image of one layer, stored as `bytes`, which unpack to `archive`.
    fn image(&self, media_type: &str, bytes: &[u8], archive: &[u8]) {
        let config = self.config("application/vnd.oci.image.config.v1+json", &[archive]);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [self.blob(media_type, bytes)],
        });
        self.tag(self.document(OCI_MANIFEST, &manifest));
    }

    fn tag(&self, mut entry: Value) {
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "v1" });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        std::fs::write(self.0.join("index.json"), index.to_string()).unwrap();
    }

    fn prepared(&self) -> Result<PreparedImage, String> {
        let store = self.0.parent().unwrap().join("store");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = ImageStore::open(store, StoreOptions::default()).await.unwrap();
            let reference = format!("oci:{}:v1", self.0.display()).parse().unwrap();
            let resolved = store.resolve(&reference).await.map_err(|error| error.to_string())?;
            store.prepare(&resolved, |_| {}).await.map_err(|error| error.to_string())
        })
    }

    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let reader = Reader::open(File::open(self.prepared().unwrap().erofs).unwrap()).unwrap();
        let mut files = BTreeMap::new();
        reader
            .walk(|path, inode| {
                let content = match inode.file_type() {
                    FileType::File => reader.read_all(inode, 1 << 30).unwrap(),
                    FileType::Symlink => reader.read_link(inode).unwrap(),
                    _ => return,
                };
                files.insert(String::from_utf8(path.to_vec()).unwrap(), content);
            })
            .unwrap();
        files
    }
}

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

const fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// What GNU tar makes of `folder`.
fn gnu_tar(folder: &Path, options: &[&str]) -> Vec<u8> {
    let out = Command::new("tar").args(options).args(["--create", "--file", "-", "-C"]).arg(folder).arg(".").output();
    let out = out.unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// A file of `length` bytes with data only at `places`.
fn sparse(path: &Path, length: u64, places: &[u64]) -> Vec<u8> {
    use std::os::unix::fs::FileExt as _;
    let file = File::create(path).unwrap();
    file.set_len(length).unwrap();
    for place in places {
        file.write_all_at(&[b'x'; 4096], *place).unwrap();
    }
    std::fs::read(path).unwrap()
}

#[test]
fn sparse_files_of_gnu_tar_come_back_whole() {
    for options in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir(&root).unwrap();
        // More segments than the header of the old format holds, a hole at the end, and nothing but a hole.
        let many: Vec<u64> = (0..40).map(|number| number * 65_536).collect();
        let expected = [
            ("/many", sparse(&root.join("many"), 40 * 65_536, &many)),
            ("/tail", sparse(&root.join("tail"), 1 << 20, &[8192])),
            ("/hole", sparse(&root.join("hole"), 1 << 20, &[])),
        ];
        let archive = gnu_tar(&root, &[options, &["--sparse"]].concat());
        assert!(archive.len() < 1 << 20, "{options:?}: tar wrote the holes");
        let layout = Layout::new(folder.path());
        layout.image(LAYER, &archive, &archive);
        let files = layout.files();
        for (name, content) in expected {
            assert!(files[name] == content, "{options:?}: {name} differs");
        }
    }
}

#[test]
fn long_names_of_gnu_tar_come_back_whole() {
    for format in ["--format=gnu", "--format=pax"] {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        let deep: PathBuf = (0..4).map(|number| format!("{number}").repeat(90)).collect();
        std::fs::create_dir_all(root.join(&deep)).unwrap();
        let name = "n".repeat(255);
        std::fs::write(root.join(&deep).join(&name), "deep").unwrap();
        let target = format!("/{}", "t/".repeat(400));
        std::os::unix::fs::symlink(&target, root.join("link")).unwrap();
        std::fs::hard_link(root.join(&deep).join(&name), root.join("second-name")).unwrap();
        let archive = gnu_tar(&root, &[format]);
        let layout = Layout::new(folder.path());
        layout.image(LAYER, &archive, &archive);
        let files = layout.files();
        assert_eq!(files[&format!("/{}/{name}", deep.display())], b"deep", "{format}");
        assert_eq!(files["/second-name"], b"deep", "{format}");
        assert_eq!(files["/link"], target.as_bytes(), "{format}");
    }
}

fn small_archive(folder: &Path) -> Vec<u8> {
    let root = folder.join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("run"), vec![b'r'; 100_000]).unwrap();
    gnu_tar(&root, &[])
}

/// `archive` cut into pieces that are compressed one by one.
fn in_pieces(archive: &[u8], compress: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    archive.chunks(archive.len() / 3).flat_map(compress).collect()
}

#[test]
fn gzip_of_several_members_is_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let archive = small_archive(folder.path());
    let bytes = in_pieces(&archive, |piece| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(piece).unwrap();
        encoder.finish().unwrap()
    });
    let layout = Layout::new(folder.path());
    layout.image(&format!("{LAYER}+gzip"), &bytes, &archive);
    assert_eq!(layout.files()["/run"].len(), 100_000);
}

#[test]
fn zstd_of_several_frames_is_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let archive = small_archive(folder.path());
    let bytes = in_pieces(&archive, |piece| zstd::stream::encode_all(piece, 3).unwrap());
    let layout = Layout::new(folder.path());
    layout.image(&format!("{LAYER}+zstd"), &bytes, &archive);
    assert_eq!(layout.files()["/run"].len(), 100_000);
}

#[test]
fn index_in_an_index_leads_to_the_image() {
    let folder = tempfile::tempdir().unwrap();
    let archive = small_archive(folder.path());
    let layout = Layout::new(folder.path());
    let config = layout.config("application/vnd.oci.image.config.v1+json", &[&archive]);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layout.blob(LAYER, &archive)],
    });
    let mut manifest = layout.document(OCI_MANIFEST, &manifest);
    manifest["platform"] = json!({ "os": "linux", "architecture": architecture() });
    let inner =
        layout.document(OCI_INDEX, &json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [manifest] }));
    layout.tag(inner);
    assert_eq!(layout.files()["/run"].len(), 100_000);
}

#[test]
fn docker_schema_2_is_an_image_like_another() {
    const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    let folder = tempfile::tempdir().unwrap();
    let archive = small_archive(folder.path());
    let layout = Layout::new(folder.path());
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&archive).unwrap();
    let layer = layout.blob("application/vnd.docker.image.rootfs.diff.tar.gzip", &encoder.finish().unwrap());
    let config = layout.config("application/vnd.docker.container.image.v1+json", &[&archive]);
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
    let mut manifest = layout.document(MANIFEST, &manifest);
    manifest["platform"] = json!({ "os": "linux", "architecture": architecture() });
    layout.tag(layout.document(LIST, &json!({ "schemaVersion": 2, "mediaType": LIST, "manifests": [manifest] })));
    assert_eq!(layout.files()["/run"].len(), 100_000);
}
