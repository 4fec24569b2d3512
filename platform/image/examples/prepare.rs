//! `prepare REFERENCE STORE [ROUNDS]`: prepares an image and prints how long each part took, as a builder would see it.

use std::collections::HashSet;
use std::time::Instant;

use holm_image::{ImageRef, ImageStore, Phase, StoreOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [reference, folder, rounds @ ..] = &arguments[..] else {
        return Err("usage: prepare REFERENCE STORE [ROUNDS]".into());
    };
    let rounds = rounds.first().map_or(Ok(1), |text| text.parse::<u32>())?;
    let store = ImageStore::open(folder, StoreOptions::default()).await?;
    let resolved = store.resolve(&reference.parse::<ImageRef>()?).await?;
    for _ in 0..rounds {
        let (start, mut building) = (Instant::now(), None);
        let image = store
            .prepare(&resolved, |progress| {
                if progress.phase == Phase::Building {
                    building.get_or_insert_with(Instant::now);
                }
            })
            .await?;
        let built = building.map_or(0, |since| since.elapsed().as_millis());
        #[expect(clippy::print_stdout, reason = "the output is the point")]
        {
            println!("{} ms in all, {built} ms building, {} bytes", start.elapsed().as_millis(), image.erofs_bytes);
        }
        if rounds > 1 {
            // Keeps the blobs, drops the image: the next round builds from cached layers.
            std::fs::remove_file(&image.erofs)?;
        }
    }
    store.prune(HashSet::from([resolved.digest])).await?;
    Ok(())
}
