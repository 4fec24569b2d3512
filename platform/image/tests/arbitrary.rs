//! Arbitrary and damaged bytes: readers answer with an error or a value, and always end.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail and say why")]

use holm_image::erofs::{FileType, Reader};
use holm_image::pack::{Compression, LayerBuilder, add_image};
use holm_image::{Device, ImageConfig, ImageStore, StoreOptions, fuzz};
use proptest::prelude::*;

fn image() -> Vec<u8> {
    let mut layer = LayerBuilder::new();
    layer.folder("d").xattr("user.a", b"b");
    layer.file("d/inline", "text").xattr("security.capability", &[1; 20]);
    layer.file("d/blocks", vec![1; 9000]);
    layer.symlink("link", "d/inline");
    layer.char_device("null", Device { major: 1, minor: 3 });
    for number in 0..300 {
        layer.file(format!("many/{number}"), "");
    }
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    add_image(&layout, "v1", &[layer.to_tar()], Compression::None, &ImageConfig::default()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = ImageStore::open(folder.path().join("store"), StoreOptions::default()).await.unwrap();
        let resolved = store.resolve(&format!("oci:{}", layout.display()).parse().unwrap()).await.unwrap();
        std::fs::read(store.prepare(&resolved, |_| {}).await.unwrap().erofs).unwrap()
    })
}

fn tar() -> Vec<u8> {
    let mut layer = LayerBuilder::new();
    layer.folder("d").xattr("user.a", b"b");
    layer.file("d/file", vec![1; 700]).owner(3_000_000, 1);
    layer.file("n".repeat(150), "long");
    layer.hard_link("e", "d/file");
    layer.file("d/.wh.file", "");
    layer.symlink("s", "../..");
    layer.file("s/x", "");
    layer.to_tar()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_upset_the_readers(bytes in proptest::collection::vec(any::<u8>(), 0..6000)) {
        fuzz::read_erofs(&bytes);
        fuzz::apply_layer(&bytes);
        fuzz::parse_documents(&bytes);
    }
}

#[test]
fn damaged_images_never_upset_the_reader() {
    let good = image();
    assert!(fuzz::read_erofs(&good));
    let config = ProptestConfig { cases: 2000, ..ProptestConfig::default() };
    let changes = proptest::collection::vec((0..good.len(), any::<u8>()), 1..40);
    proptest::test_runner::TestRunner::new(config)
        .run(&changes, |changes| {
            let mut bytes = good.clone();
            for (at, value) in changes {
                // The superblock's checksum would catch all else before it is looked at.
                if !(1024..1152).contains(&at) && at >= 4096 {
                    bytes[at] = value;
                }
            }
            fuzz::read_erofs(&bytes);
            Ok(())
        })
        .unwrap();
}

#[test]
fn damaged_archives_never_upset_the_build() {
    let good = tar();
    assert!(fuzz::apply_layer(&good));
    let config = ProptestConfig { cases: 2000, ..ProptestConfig::default() };
    let changes = (proptest::collection::vec((0..good.len(), any::<u8>()), 0..20), 0..good.len());
    proptest::test_runner::TestRunner::new(config)
        .run(&changes, |(changes, length)| {
            let mut bytes = good.clone();
            for (at, value) in changes {
                bytes[at] = value;
                // Keeps the header's checksum right, so that the change is looked at.
                let start = at / 512 * 512;
                let sum: u32 =
                    (0..512).map(|i| if (148..156).contains(&i) { 32 } else { u32::from(bytes[start + i]) }).sum();
                bytes[start + 148..start + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
            fuzz::apply_layer(&bytes);
            fuzz::apply_layer(&bytes[..length]);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_reader_lists_and_reads_what_was_packed() {
    let bytes = image();
    let reader = Reader::open(&bytes[..]).unwrap();
    let inode = reader.lookup(b"/d/blocks").unwrap();
    assert_eq!(reader.read_all(&inode, 1 << 20).unwrap(), vec![1; 9000]);
    assert!(reader.read_all(&inode, 100).is_err());
    assert_eq!(reader.lookup(b"null").unwrap().file_type(), FileType::CharDevice(Device { major: 1, minor: 3 }));
    assert!(reader.lookup(b"/d/none").is_err() && reader.lookup(b"/null/x").is_err());
    let many = reader.lookup(b"/many").unwrap();
    assert_eq!(reader.read_dir(&many).unwrap().len(), 300);
}
