//! Fetching one blob: checked while it streams, resumed where a cut connection left off.

use std::fs::File;
use std::io::{self, Write};

use reqwest::StatusCode;
use reqwest::header::CONTENT_RANGE;

use super::{ATTEMPTS, Registry, RegistryError, connection, pause};
use crate::digest::{Digest, Hasher};
use crate::reference::RegistryRef;

/// Bytes gathered before they are hashed and written.
const BUFFER: usize = 1 << 20;
/// An attempt that brings at least this much counts as progress.
const PROGRESS: u64 = 64 << 10;

/// The file a blob is written to, with what arrived so far.
struct Sink {
    file: File,
    hasher: Hasher,
}

impl Registry {
    /// Fetches the blob into `file`, which is left synced and complete, or in any state after an error.
    /// `progress` hears how many bytes have arrived.
    pub(crate) async fn blob(
        &self,
        reference: &RegistryRef,
        digest: Digest,
        size: u64,
        file: File,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RegistryError> {
        let mut sink = Sink { file, hasher: Hasher::default() };
        let mut idle = 0;
        loop {
            let before = sink.hasher.bytes();
            let error = match self.receive(reference, digest, size, sink, progress).await {
                (after, Ok(())) => return finish(after, digest).await,
                (after, Err(error)) => {
                    sink = after;
                    error
                }
            };
            if !error.may_pass() {
                return Err(error);
            }
            let gained = sink.hasher.bytes().saturating_sub(before);
            idle = if gained >= PROGRESS { 0 } else { idle + 1 };
            if idle >= ATTEMPTS {
                return Err(error);
            }
            tracing::debug!(%digest, at = sink.hasher.bytes(), %error, "resuming a cut download");
            pause(idle).await;
        }
    }

    /// One attempt, from where the sink stands. Succeeds only when all bytes are there.
    async fn receive(
        &self,
        reference: &RegistryRef,
        digest: Digest,
        size: u64,
        mut sink: Sink,
        progress: &(dyn Fn(u64) + Sync),
    ) -> (Sink, Result<(), RegistryError>) {
        let at = sink.hasher.bytes();
        if at == size && size > 0 {
            return (sink, Ok(()));
        }
        let url = match self.url(reference, "blobs", &digest.to_string()) {
            Ok(url) => url,
            Err(error) => return (sink, Err(error)),
        };
        let mut response = match self.get(reference, url, (at > 0).then_some(at)).await {
            Ok(response) => response,
            Err(error) => return (sink, Err(error)),
        };
        if at > 0 && !continues_at(&response, at) {
            // The registry does not know ranges: it sends everything again.
            if let Err(error) = restart(&mut sink) {
                return (sink, Err(RegistryError::Write(error)));
            }
        }
        let mut gathered = Vec::with_capacity(BUFFER);
        loop {
            let chunk = response.chunk().await;
            let ended = !matches!(chunk, Ok(Some(_)));
            if let Ok(Some(chunk)) = &chunk {
                if sink.hasher.bytes() + (gathered.len() + chunk.len()) as u64 > size {
                    return (sink, Err(RegistryError::Oversized { digest, expected: size }));
                }
                gathered.extend_from_slice(chunk);
            }
            if ended || gathered.len() >= BUFFER {
                let (after, written) = write(sink, std::mem::take(&mut gathered)).await;
                sink = after;
                if let Err(error) = written {
                    return (sink, Err(RegistryError::Write(error)));
                }
                progress(sink.hasher.bytes());
            }
            match chunk {
                Ok(Some(_)) => {}
                Err(source) => return (sink, Err(connection(reference.registry(), source))),
                Ok(None) if sink.hasher.bytes() == size => return (sink, Ok(())),
                Ok(None) => {
                    let found = sink.hasher.bytes();
                    return (sink, Err(RegistryError::Truncated { digest, expected: size, found }));
                }
            }
        }
    }
}

/// Writes a blob read from elsewhere, with the same checks. Blocking.
pub(crate) fn write_blob(
    mut from: impl io::Read,
    digest: Digest,
    size: u64,
    file: File,
    progress: &dyn Fn(u64),
) -> Result<(), RegistryError> {
    let mut sink = Sink { file, hasher: Hasher::default() };
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = from.read(&mut buffer).map_err(RegistryError::Write)?;
        if count == 0 {
            break;
        }
        if sink.hasher.bytes() + count as u64 > size {
            return Err(RegistryError::Oversized { digest, expected: size });
        }
        sink.add(&buffer[..count]).map_err(RegistryError::Write)?;
        progress(sink.hasher.bytes());
    }
    if sink.hasher.bytes() < size {
        return Err(RegistryError::Truncated { digest, expected: size, found: sink.hasher.bytes() });
    }
    sink.check_and_sync(digest)
}

impl Sink {
    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes)
    }

    fn check_and_sync(self, expected: Digest) -> Result<(), RegistryError> {
        let found = self.hasher.digest();
        if found != expected {
            return Err(RegistryError::WrongDigest { expected, found });
        }
        self.file.sync_all().map_err(RegistryError::Write)
    }
}

fn continues_at(response: &reqwest::Response, at: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    response.status() == StatusCode::PARTIAL_CONTENT
        && range.is_some_and(|range| range.starts_with(&format!("bytes {at}-")))
}

fn restart(sink: &mut Sink) -> io::Result<()> {
    sink.file.set_len(0)?;
    io::Seek::rewind(&mut sink.file)?;
    sink.hasher = Hasher::default();
    Ok(())
}

async fn write(mut sink: Sink, bytes: Vec<u8>) -> (Sink, io::Result<()>) {
    let written = tokio::task::spawn_blocking(move || {
        let result = sink.add(&bytes);
        (sink, result)
    });
    written.await.expect("writing does not panic")
}

async fn finish(sink: Sink, digest: Digest) -> Result<(), RegistryError> {
    let checked = tokio::task::spawn_blocking(move || sink.check_and_sync(digest));
    checked.await.expect("syncing does not panic")
}
