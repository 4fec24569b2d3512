//! Limits on what an image may demand of this host; each is checked before the bytes are kept.

/// Upper bounds for one image. The defaults take every image seen in practice and stop bombs early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a manifest or index document.
    pub manifest_bytes: u64,
    /// Bytes of the image configuration document.
    pub config_bytes: u64,
    /// Layers per image.
    pub layers: usize,
    /// Bytes of one compressed layer.
    pub layer_bytes: u64,
    /// Bytes of all layers together once decompressed, sparse holes included.
    pub unpacked_bytes: u64,
    /// Tar entries, and folders implied by them, of all layers together.
    pub entries: u64,
    /// Bytes of a path inside the image.
    pub path_bytes: usize,
    /// Bytes of one name; no file system of Linux takes more than 255.
    pub name_bytes: usize,
    /// Bytes of one extended attribute's value.
    pub xattr_value_bytes: usize,
    /// Bytes of all extended attributes of one file, names included.
    pub xattr_bytes: usize,
    /// Bytes of names, link targets and extended attributes of the whole image, which are held in memory.
    pub metadata_bytes: u64,
    /// Bytes of one extended tar header (pax records, GNU long names), and data segments of a sparse file.
    pub header_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest_bytes: 4 << 20,
            config_bytes: 4 << 20,
            layers: 256,
            layer_bytes: 32 << 30,
            unpacked_bytes: 64 << 30,
            entries: 2_000_000,
            path_bytes: 4096,
            name_bytes: 255,
            xattr_value_bytes: 0xffff,
            xattr_bytes: 0xffff,
            metadata_bytes: 512 << 20,
            header_bytes: 1 << 20,
        }
    }
}
