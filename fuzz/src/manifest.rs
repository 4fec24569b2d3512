//! What people write into `holm.toml`.

use holm_manifest::Manifest;

/// A manifest that is read can be written and is read back as the same; one that is refused has a picture without control
/// characters.
pub(crate) fn manifest(bytes: &[u8]) {
    match Manifest::from_bytes(bytes, "holm.toml") {
        Ok(manifest) => {
            let text = manifest.to_toml();
            assert_eq!(Manifest::parse(&text, "holm.toml").ok(), Some(manifest), "{text}");
        }
        Err(error) => {
            let picture = error.render(false);
            assert!(picture.starts_with("error: "), "{picture}");
            assert!(!picture.chars().any(|c| c.is_control() && c != '\n'), "{picture:?}");
        }
    }
}
