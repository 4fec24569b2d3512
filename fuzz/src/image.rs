//! What registries and images bring.

use holm_image::fuzz;

/// A layer's archive becomes an image or is refused.
pub(crate) fn oci_layer(bytes: &[u8]) {
    fuzz::apply_layer(bytes);
    let mut blocks = bytes.to_vec();
    blocks.resize(bytes.len().next_multiple_of(BLOCK), 0);
    for block in blocks.chunks_exact_mut(BLOCK) {
        seal_tar(block);
    }
    fuzz::apply_layer(&blocks);
}

/// Manifests, indexes and configurations are read or refused.
pub(crate) fn oci_json(bytes: &[u8]) {
    fuzz::parse_documents(bytes);
}

/// A file system is read to its end, or something in it is refused.
pub(crate) fn erofs(bytes: &[u8]) {
    fuzz::read_erofs(bytes);
    let mut sealed = bytes.to_vec();
    if fuzz::seal_erofs(&mut sealed) {
        fuzz::read_erofs(&sealed);
    }
}

/// Bytes of a block of an archive.
const BLOCK: usize = 512;

/// Puts the checksum of a header block right (POSIX.1-2017, pax, "ustar Interchange Format").
fn seal_tar(block: &mut [u8]) {
    if block.iter().all(|byte| *byte == 0) {
        return;
    }
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
