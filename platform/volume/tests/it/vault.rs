//! Backups against a model: whatever was written, cut off and pruned, what is listed restores to what it was.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use holm_volume::backup::{BackupError, BackupId, BackupKey, CHUNK, Made, NewBackup, Rate, Vault};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};
use proptest::prelude::*;

use crate::stage::{PLACES, Stage, volume};

/// A volume, and a vault in memory.
struct Site {
    stage: Stage,
    store: Arc<InMemory>,
    vault: Vault,
}

impl Site {
    fn new() -> Self {
        let store = Arc::new(InMemory::new());
        let vault = Vault::in_store(store.clone(), BackupKey::new(&[3; 32]));
        Self { stage: Stage::new(), store, vault }
    }

    fn write(&self, place: u64, byte: u8) {
        self.stage.write(place, &vec![byte; CHUNK as usize / 2]);
    }

    async fn next(&mut self) -> NewBackup {
        self.stage.next(&self.vault).await.unwrap()
    }

    async fn make(&mut self) -> Made {
        self.stage.make(&self.vault).await.unwrap()
    }

    async fn restored(&self, id: &BackupId) -> Result<Vec<u8>, BackupError> {
        self.stage.restored(&self.vault, id).await
    }

    async fn chunks(&self) -> Vec<object_store::path::Path> {
        let folder = object_store::path::Path::from("chunks");
        self.store.list(Some(&folder)).map(|object| object.unwrap().location).collect().await
    }
}

fn run<T>(work: impl std::future::Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64, u8),
    Back,
    /// A backup that is cut off after so many polls, as by a kill.
    Cut(u32),
    Prune(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..PLACES, 0u8..4).prop_map(|(place, byte)| Step::Write(place, byte)),
        2 => Just(Step::Back),
        2 => (0u32..12).prop_map(Step::Cut),
        1 => (1usize..4).prop_map(Step::Prune),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_listed_restores_to_what_it_was(steps in proptest::collection::vec(step(), 1..24)) {
        run(async move {
            let mut site = Site::new();
            let mut model: BTreeMap<BackupId, Vec<u8>> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Write(place, byte) => site.write(place, byte),
                    Step::Back => {
                        let made = site.make().await;
                        model.insert(made.id, site.stage.bytes());
                    }
                    Step::Cut(polls) => {
                        let new = site.next().await;
                        let (id, rate) = (new.id.clone(), Rate::new(0));
                        let ended = {
                            let mut making = Box::pin(site.vault.make(new, &rate));
                            let mut left = polls;
                            std::future::poll_fn(|context| {
                                if left == 0 {
                                    return Poll::Ready(false);
                                }
                                left -= 1;
                                making.as_mut().poll(context).map(|made| made.is_ok())
                            })
                            .await
                        };
                        let listed = site.vault.list(None).await.unwrap().iter().any(|listed| listed.id == id);
                        // What was acknowledged is there; what was cut off may be, and is whole then.
                        assert!(listed || !ended);
                        if listed {
                            model.insert(id, site.stage.bytes());
                        }
                    }
                    Step::Prune(keep) => {
                        site.vault.prune(None, keep, Duration::ZERO).await.unwrap();
                        while model.len() > keep {
                            model.pop_first();
                        }
                    }
                }
            }
            let listed: Vec<BackupId> = site.vault.list(None).await.unwrap().into_iter().map(|l| l.id).collect();
            assert_eq!(listed, model.keys().cloned().collect::<Vec<_>>());
            for (id, bytes) in &model {
                site.vault.verify(id, &Rate::new(0)).await.unwrap();
                assert!(site.restored(id).await.unwrap() == *bytes, "{id}");
            }
        });
    }
}

#[test]
fn only_new_chunks_are_sent_and_zeroes_never() {
    run(async {
        let mut site = Site::new();
        let empty = site.make().await;
        assert_eq!((empty.read, empty.chunks), (0, 0));
        (0..20).for_each(|place| site.write(place, u8::try_from(place + 1).unwrap()));
        let full = site.make().await;
        assert_eq!(full.chunks, 20);
        let same = site.make().await;
        assert_eq!((same.chunks, same.read), (0, full.read));
        site.write(3, 99);
        site.write(4, 0);
        let little = site.make().await;
        assert_eq!(little.chunks, 1, "one changed, one became the zeroes that are not stored");
    });
}

#[tokio::test(start_paused = true)]
async fn no_more_is_moved_in_a_second_than_may_be() {
    let mut site = Site::new();
    (0..20).for_each(|place| site.write(place, u8::try_from(place + 1).unwrap()));
    let (new, rate) = (site.next().await, Rate::new(50));
    let begun = tokio::time::Instant::now();
    let id = site.vault.make(new, &rate).await.unwrap().id;
    let objects: Vec<_> = site.store.list(Some(&object_store::path::Path::from("chunks"))).try_collect().await.unwrap();
    let seconds = objects.iter().map(|object| object.size).sum::<u64>() / 50;
    assert!(objects.len() == 20 && seconds > 20, "{} objects for {seconds} s", objects.len());
    assert!(begun.elapsed() >= Duration::from_secs(seconds), "{:?} instead of {seconds} s", begun.elapsed());
    let begun = tokio::time::Instant::now();
    site.vault.verify(&id, &Rate::new(50)).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(seconds), "{:?} instead of {seconds} s", begun.elapsed());
}

#[test]
fn a_damaged_cut_or_missing_object_is_told_and_never_restored() {
    run(async {
        let mut site = Site::new();
        (0..3).for_each(|place| site.write(place, u8::try_from(place + 1).unwrap()));
        let id = site.make().await.id;
        let chunk = site.chunks().await.remove(0);
        let index: Vec<_> =
            site.store.list(Some(&object_store::path::Path::from("backups"))).try_collect().await.unwrap();
        let index = index[0].location.clone();
        for (path, expected) in [(chunk, "chunk"), (index, "backup")] {
            let good = site.store.get(&path).await.unwrap().bytes().await.unwrap();
            let mut flipped = good.to_vec();
            let middle = flipped.len() / 2;
            flipped[middle] ^= 1;
            let cut = good[..good.len() - 1].to_vec();
            for bad in [flipped, cut, Vec::new()] {
                site.store.put(&path, PutPayload::from(bad)).await.unwrap();
                assert!(
                    matches!(site.vault.verify(&id, &Rate::new(0)).await, Err(BackupError::Damaged { .. })),
                    "{expected}"
                );
                assert!(site.restored(&id).await.is_err());
            }
            site.store.delete(&path).await.unwrap();
            let missing = site.restored(&id).await.unwrap_err();
            match expected {
                "chunk" => assert!(matches!(missing, BackupError::MissingChunk(_)), "{missing}"),
                _ => assert!(matches!(missing, BackupError::NoBackup(_)), "{missing}"),
            }
            site.store.put(&path, PutPayload::from(good.to_vec())).await.unwrap();
        }
        site.vault.verify(&id, &Rate::new(0)).await.unwrap();
        let other = Vault::in_store(site.store.clone(), BackupKey::new(&[4; 32]));
        assert!(matches!(other.verify(&id, &Rate::new(0)).await, Err(BackupError::Damaged { .. })), "another key");
        // A backup that cannot be read keeps every chunk there is.
        site.make().await;
        let path =
            site.store.list(Some(&object_store::path::Path::from("backups"))).next().await.unwrap().unwrap().location;
        site.store.put(&path, PutPayload::from(Vec::new())).await.unwrap();
        let before = site.chunks().await;
        assert!(other.prune(None, 5, Duration::ZERO).await.is_err());
        assert!(site.vault.prune(None, 5, Duration::ZERO).await.is_err());
        assert_eq!(site.chunks().await, before);
    });
}

#[test]
fn a_backup_that_follows_none_mends_the_store() {
    run(async {
        let mut site = Site::new();
        (0..3).for_each(|place| site.write(place, u8::try_from(place + 1).unwrap()));
        let first = site.make().await.id;
        let lost = site.chunks().await.remove(0);
        site.store.delete(&lost).await.unwrap();
        let follower = site.make().await.id;
        for id in [&first, &follower] {
            assert!(matches!(site.vault.verify(id, &Rate::new(0)).await, Err(BackupError::MissingChunk(_))));
        }
        let whole = NewBackup { follows: None, ..site.next().await };
        assert_eq!(site.vault.make(whole, &Rate::new(0)).await.unwrap().chunks, 3);
        for id in [&first, &follower] {
            site.vault.verify(id, &Rate::new(0)).await.unwrap();
        }
    });
}

#[test]
fn a_volume_made_anew_pushes_out_no_backup_of_the_one_before() {
    run(async {
        let mut site = Site::new();
        let [before, now] = [1, 2].map(|id| Some(uuid::Uuid::from_u128(id)));
        let mut made = Vec::new();
        for (byte, file_system) in [(1, before), (2, before), (3, now), (4, now), (5, now)] {
            site.write(0, byte);
            let new = NewBackup { file_system, ..site.next().await };
            made.push(site.vault.make(new, &Rate::new(0)).await.unwrap().id);
        }
        let left = async |site: &Site| -> Vec<BackupId> {
            site.vault.list(None).await.unwrap().into_iter().map(|listed| listed.id).collect()
        };
        let pruned = site.vault.prune_own(&volume(), now, 2, Duration::ZERO).await.unwrap();
        assert_eq!(pruned.backups, [made[2].clone()]);
        assert_eq!(left(&site).await, [&made[0], &made[1], &made[3], &made[4]].map(Clone::clone));
        for id in left(&site).await {
            site.vault.verify(&id, &Rate::new(0)).await.unwrap();
        }
        // With another key nothing can be told of them, so nothing is removed.
        let other = Vault::in_store(site.store.clone(), BackupKey::new(&[4; 32]));
        assert!(other.prune_own(&volume(), now, 1, Duration::ZERO).await.is_err());
        assert_eq!(left(&site).await.len(), 4);
        // Nobody knows of what a backup of an older version was taken: it counts as one's own.
        let old = site.make().await.id;
        site.vault.prune_own(&volume(), before, 1, Duration::ZERO).await.unwrap();
        assert_eq!(left(&site).await, [&made[3], &made[4], &old].map(Clone::clone));
    });
}

#[test]
fn a_folder_is_a_store() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let address = folder.path().join("backups of holm").display().to_string();
        let mut site = Site::new();
        site.vault = Vault::open(&address, BackupKey::new(&[3; 32])).unwrap();
        site.write(1, 1);
        let id = site.make().await.id;
        assert!(Path::new(&address).join("chunks").is_dir());
        let again = Vault::open(&address, BackupKey::new(&[3; 32])).unwrap();
        assert_eq!(again.list(Some(&volume())).await.unwrap().len(), 1);
        again.verify(&id, &Rate::new(0)).await.unwrap();
        for bad in ["relative", "ftp://x/y", "s3:/x", ""] {
            assert!(matches!(Vault::open(bad, BackupKey::new(&[3; 32])), Err(BackupError::Address { .. })), "{bad}");
        }
        // Nothing is asked before it is used; the client is there, with what it needs for TLS.
        Vault::open("s3://bucket/folder", BackupKey::new(&[3; 32])).unwrap();
    });
}
