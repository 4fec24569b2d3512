//! Backups in a real S3 server: s3s on loopback, which checks signatures, with credentials and faults.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holm_s3_server::Server;
use holm_volume::backup::{BackupError, BackupId, BackupKey, Made, NewBackup, Rate, Vault};

use crate::stage::{Stage, volume};

const ADDRESS: &str = "s3://bucket/some/folder";

/// A volume, and the folder of a server with one bucket.
struct Site(Stage);

impl Site {
    fn new() -> (Self, Server) {
        let site = Self(Stage::new());
        std::fs::create_dir_all(site.bucket()).unwrap();
        let server = Server::start(&site.buckets()).unwrap();
        (site, server)
    }

    fn buckets(&self) -> PathBuf {
        self.0.folder().join("buckets")
    }

    fn bucket(&self) -> PathBuf {
        self.buckets().join("bucket")
    }

    fn write(&self, places: std::ops::Range<u64>, text: &str) {
        places.for_each(|place| self.0.write(place, format!("{text} {place}").as_bytes()));
    }

    async fn next(&mut self, vault: &Vault) -> NewBackup {
        self.0.next(vault).await.unwrap()
    }

    /// Makes the next backup; gives what was in the volume besides.
    async fn make(&mut self, vault: &Vault) -> (Made, Vec<u8>) {
        (self.0.make(vault).await.unwrap(), self.0.bytes())
    }

    async fn must_restore(&self, vault: &Vault, id: &BackupId, wanted: &[u8]) {
        assert!(self.0.restored(vault, id).await.unwrap() == wanted, "{id} is not what it was");
    }
}

/// The store as `holm up --backups s3://…` opens it, with this secret.
fn vault(server: &Server, address: &str, secret: Option<&str>) -> Vault {
    let settings = server.environment().map(|(name, value)| match (name, secret) {
        ("AWS_SECRET_ACCESS_KEY", Some(secret)) => (name.to_owned(), secret.to_owned()),
        _ => (name.to_owned(), value),
    });
    Vault::open_with(address, BackupKey::new(&[3; 32]), settings).unwrap()
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// What an error and its causes say.
fn chain(error: &BackupError) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(why) = cause {
        said += &format!(": {why}");
        cause = why.source();
    }
    said
}

#[tokio::test]
async fn backups_in_a_bucket_are_found_verified_restored_and_removed() {
    let (mut site, server) = Site::new();
    let vault = vault(&server, ADDRESS, None);
    assert_eq!(vault.list(None).await.unwrap(), []);
    site.write(0..40, "first");
    let (first, was) = site.make(&vault).await;
    assert_eq!(first.chunks, 40);
    site.write(5..8, "second");
    let (second, is) = site.make(&vault).await;
    assert_eq!(second.chunks, 3);
    assert!(files(&site.bucket()).iter().all(|file| file.starts_with(site.bucket().join("some/folder"))));

    // Another Holm with the same key finds them.
    let again = self::vault(&server, ADDRESS, None);
    let listed: Vec<BackupId> = again.list(Some(&volume())).await.unwrap().into_iter().map(|l| l.id).collect();
    assert_eq!(listed, [first.id.clone(), second.id.clone()]);
    assert_eq!(again.verify(&first.id, &Rate::new(0)).await.unwrap().chunks, 40);
    site.must_restore(&again, &first.id, &was).await;
    site.must_restore(&again, &second.id, &is).await;

    let pruned = again.prune(None, 1, Duration::ZERO).await.unwrap();
    assert_eq!((pruned.backups.len(), pruned.chunks), (1, 3));
    site.must_restore(&again, &second.id, &is).await;

    // What the store lost or damaged is told, and not restored.
    let chunks = files(&site.bucket().join("some/folder/chunks"));
    assert_eq!(chunks.len(), 40);
    std::fs::write(&chunks[0], b"rubbish").unwrap();
    let damaged = again.verify(&second.id, &Rate::new(0)).await.unwrap_err();
    assert!(matches!(damaged, BackupError::Damaged { .. }), "{}", chain(&damaged));
    std::fs::remove_file(&chunks[0]).unwrap();
    let missing = again.verify(&second.id, &Rate::new(0)).await.unwrap_err();
    assert!(matches!(missing, BackupError::MissingChunk(_)), "{}", chain(&missing));
}

#[tokio::test]
async fn a_wrong_secret_and_a_bucket_that_is_not_there_are_told_and_leave_nothing() {
    let (mut site, server) = Site::new();
    site.write(0..3, "never");
    for (address, secret, expected) in
        [(ADDRESS, Some("another"), "SignatureDoesNotMatch"), ("s3://nobodys/folder", None, "NoSuchBucket")]
    {
        let wrong = vault(&server, address, secret);
        let asked = wrong.newest(&volume()).await.unwrap_err();
        assert!(chain(&asked).contains(expected), "{}", chain(&asked));
        let refused = site.0.make(&wrong).await.unwrap_err();
        assert!(matches!(refused, BackupError::Store { .. }), "{}", chain(&refused));
        let refused = wrong.prune(None, 1, Duration::ZERO).await.unwrap_err();
        assert!(!chain(&refused).contains("another"), "the secret is told: {}", chain(&refused));
    }
    assert_eq!(files(&site.buckets()), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_server_that_has_too_much_to_do_is_asked_again() {
    let (mut site, server) = Site::new();
    let vault = vault(&server, ADDRESS, None);
    site.write(0..10, "first");
    let new = site.next(&vault).await;
    server.be_busy(3);
    let made = vault.make(new, &Rate::new(0)).await.unwrap();
    vault.verify(&made.id, &Rate::new(0)).await.unwrap();
}

#[tokio::test]
async fn a_server_that_goes_in_the_middle_of_a_backup_leaves_the_ones_before_and_takes_the_next() {
    let (mut site, server) = Site::new();
    let before = vault(&server, ADDRESS, None);
    site.write(0..10, "first");
    let (first, was) = site.make(&before).await;
    site.write(0..30, "second");
    let new = site.next(&before).await;
    let cut = new.id.clone();
    server.go_after(12);
    let gone = before.make(new, &Rate::new(0)).await.unwrap_err();
    assert!(matches!(gone, BackupError::Store { .. }), "{}", chain(&gone));
    assert!(chain(&gone).contains("write a chunk"), "{}", chain(&gone));

    let _server = server.again().unwrap();
    let listed: Vec<BackupId> = before.list(None).await.unwrap().into_iter().map(|listed| listed.id).collect();
    assert_eq!(listed, std::slice::from_ref(&first.id), "{cut} is not whole");
    site.must_restore(&before, &first.id, &was).await;
    let (second, is) = site.make(&before).await;
    before.prune(None, 2, Duration::ZERO).await.unwrap();
    site.must_restore(&before, &first.id, &was).await;
    site.must_restore(&before, &second.id, &is).await;
}
