//! Unpacking what packages, modules and kernels are compressed with, up to a stated size.

use std::io::{self, Read};

/// A compression format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    None,
    Gzip,
    Xz,
    Zstd,
}

/// Why something could not be unpacked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// Larger than the limit in bytes.
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    /// The compressed data is damaged.
    #[error("its data is damaged: {0}")]
    Damaged(String),
}

impl Packing {
    /// A reader of the unpacked bytes.
    pub(crate) fn reader<'a>(self, packed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::None => Box::new(packed),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(packed)),
            Self::Xz => Box::new(lzma_rust2::XzReader::new(packed, true)),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::new(packed)?;
                // 128 MiB of window is what the command line tool accepts, too.
                decoder.window_log_max(27)?;
                Box::new(decoder)
            }
        })
    }

    /// All of it, at most `limit` bytes.
    pub(crate) fn unpack(self, packed: &[u8], limit: u64) -> Result<Vec<u8>, UnpackError> {
        let damaged = |error: io::Error| UnpackError::Damaged(error.to_string());
        read_up_to(self.reader(packed).map_err(damaged)?, limit)
    }
}

/// Everything a reader gives, at most `limit` bytes.
pub(crate) fn read_up_to(reader: impl Read, limit: u64) -> Result<Vec<u8>, UnpackError> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes).map_err(|error| UnpackError::Damaged(error.to_string()))?;
    if bytes.len() as u64 > limit { Err(UnpackError::TooLarge(limit)) } else { Ok(bytes) }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use super::*;

    pub(crate) fn pack(packing: Packing, bytes: &[u8]) -> Vec<u8> {
        match packing {
            Packing::None => bytes.to_vec(),
            Packing::Gzip => {
                let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                writer.write_all(bytes).unwrap();
                writer.finish().unwrap()
            }
            Packing::Xz => {
                let options = lzma_rust2::XzOptions::with_preset(0);
                let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
                writer.write_all(bytes).unwrap();
                writer.finish().unwrap()
            }
            Packing::Zstd => zstd::encode_all(bytes, 1).unwrap(),
        }
    }

    #[test]
    fn each_format_round_trips_and_stops_at_the_limit() {
        let text = vec![b'x'; 100_000];
        for packing in [Packing::None, Packing::Gzip, Packing::Xz, Packing::Zstd] {
            let packed = pack(packing, &text);
            assert_eq!(packing.unpack(&packed, 100_000).unwrap(), text, "{packing:?}");
            assert_eq!(packing.unpack(&packed, 99_999), Err(UnpackError::TooLarge(99_999)), "{packing:?}");
            if packing != Packing::None {
                let cut = packing.unpack(&packed[..packed.len() / 2], 100_000);
                assert!(matches!(cut, Err(UnpackError::Damaged(_))), "{packing:?}: {cut:?}");
            }
        }
    }
}
