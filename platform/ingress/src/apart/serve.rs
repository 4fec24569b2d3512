//! The process that serves: it does what its callers ask, and goes on without any.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{interval, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::wire::{Answer, Ask, LONGEST, PROTOCOL, Passed, Question, Said};
use super::{own, pass};
use crate::ingress::{Config, Ingress, IngressHandle};

/// How often the socket is looked for.
const LOOK: Duration = Duration::from_secs(2);
/// Time that connections of an ingress that was replaced have to end.
pub(super) const REPLACED: Duration = Duration::from_secs(600);
/// The same for one that is told to end by a signal.
const FAREWELL: Duration = Duration::from_secs(5);

/// Time for a caller to take note of the end.
const TOLD: Duration = Duration::from_secs(2);
/// Time for each step of passing sockets.
const PASSING: Duration = Duration::from_secs(10);

/// What the connections of callers share.
#[derive(Debug)]
struct Process {
    ingress: IngressHandle,
    /// Cancelled when everything has ended.
    ended: CancellationToken,
}

/// Serves the ingress to whoever can open `socket`, which is made anew with mode 0600, until a caller or a signal (SIGTERM,
/// SIGINT) ends it. When the socket is gone or another's, this ingress was replaced: it closes its listeners and ends with its
/// last connection, after ten minutes at the latest. Callers find it by a name of its own until then.
///
/// # Errors
/// When the socket cannot be made or the ingress does not start.
pub async fn serve(socket: &Path, config: Config) -> io::Result<()> {
    let ingress = Ingress::start(config).map_err(io::Error::other)?;
    let (listener, _name) = bind(socket)?;
    let own = inode(socket);
    let mut replaced = false;
    let process = Arc::new(Process { ingress, ended: CancellationToken::new() });
    let mut look = interval(LOOK);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((caller, _)) => {
                    tokio::spawn(answer(Arc::clone(&process), caller));
                }
                Err(error) => {
                    tracing::warn!(%error, "a caller was not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            _ = look.tick(), if !replaced => if inode(socket) != own {
                tracing::info!("another ingress took over; this one ends with its last connection");
                replaced = true;
                let process = Arc::clone(&process);
                tokio::spawn(async move { process.end(REPLACED).await });
            },
            _ = terminate.recv() => process.end(FAREWELL).await,
            _ = interrupt.recv() => process.end(FAREWELL).await,
            () = process.ended.cancelled() => {
                if inode(socket) == own {
                    std::fs::remove_file(socket)?;
                }
                return Ok(());
            }
        }
    }
}

/// Listens on a path, where there may be the socket of an ingress that died or that is being replaced; and on a name of this
/// process's own.
fn bind(path: &Path) -> io::Result<(UnixListener, own::Name)> {
    // Bound under a name of its own, with its mode set, and only then put in its place: nobody finds it half made.
    let fresh = path.with_extension("new");
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    let name = own::Name::of(&fresh, path)?;
    std::fs::rename(&fresh, path)?;
    Ok((listener, name))
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

impl Process {
    async fn end(&self, drain: Duration) {
        let report = self.ingress.shutdown(drain).await;
        tracing::info!(cut = report.cut, "the ingress ends");
        self.ended.cancel();
    }
}

/// Does what one caller asks until it is gone.
async fn answer(process: Arc<Process>, caller: UnixStream) {
    if let Err(error) = converse(&process, caller).await {
        tracing::debug!(%error, "a caller was lost");
    }
}

async fn converse(process: &Arc<Process>, caller: UnixStream) -> io::Result<()> {
    let (read, mut write) = caller.into_split();
    let mut read = BufReader::new(read);
    say(&mut write, &Said::Welcome { protocol: PROTOCOL }).await?;
    let (out, mut said) = mpsc::unbounded_channel::<Said>();
    // What watches a backend ends with the caller.
    let gone = CancellationToken::new();
    let _gone = gone.clone().drop_guard();
    let mut watched: HashMap<String, DropGuard> = HashMap::new();
    let mut line = Vec::new();
    loop {
        // What was read of a line stays in `line` when something is said meanwhile.
        let mut limited = (&mut read).take(LONGEST.saturating_sub(line.len() as u64));
        tokio::select! {
            read = limited.read_until(b'\n', &mut line) => read?,
            Some(next) = said.recv() => {
                say(&mut write, &next).await?;
                continue;
            }
        };
        if line.pop() != Some(b'\n') {
            // The end, or a line too long.
            return Ok(());
        }
        let Question { number, ask } = serde_json::from_slice(&line)?;
        line.clear();
        let reply = |answer| Said::Answer { number, answer };
        match ask {
            Ask::Apply(table) => {
                let answer = match process.ingress.apply(table).await {
                    Ok(report) => Answer::Applied(report),
                    Err(error) => Answer::Refused(error.to_string()),
                };
                say(&mut write, &reply(answer)).await?;
            }
            Ask::Stats => say(&mut write, &reply(Answer::Stats(process.ingress.stats()))).await?,
            Ask::Watch(backend) => {
                let watching = gone.child_token();
                tokio::spawn(watch(process.ingress.clone(), backend.clone(), out.clone(), watching.clone()));
                watched.insert(backend, watching.drop_guard());
            }
            Ask::Forget(backend) => drop(watched.remove(&backend)),
            Ask::Cut(backend) => {
                process.ingress.close_backend(&backend);
            }
            Ask::End(drain) => {
                tokio::spawn(end(Arc::clone(process), number, drain, out.clone()));
            }
            Ask::HandOver => return hand_over(process, number, read, write).await,
            Ask::TakeOver(announced) => return take_over(process, number, announced, read, write).await,
        }
    }
}

async fn say(to: &mut OwnedWriteHalf, said: &Said) -> io::Result<()> {
    let mut line = serde_json::to_vec(said)?;
    line.push(b'\n');
    to.write_all(&line).await
}

/// Says how many connections a backend has, until that is no longer asked for.
async fn watch(ingress: IngressHandle, backend: String, out: mpsc::UnboundedSender<Said>, gone: CancellationToken) {
    let mut open = ingress.connections(&backend);
    drop(ingress);
    let watching = async {
        loop {
            let connections = *open.borrow_and_update();
            let said = Said::Open { backend: backend.clone(), connections };
            if out.send(said).is_err() || open.changed().await.is_err() {
                return;
            }
        }
    };
    gone.run_until_cancelled(watching).await;
}

/// Ends the ingress, and then the process, once the caller knows.
async fn end(process: Arc<Process>, number: u64, drain: Duration, out: mpsc::UnboundedSender<Said>) {
    let report = process.ingress.shutdown(drain).await;
    let told = out.send(Said::Answer { number, answer: Answer::Ended { cut: report.cut } });
    if told.is_ok() {
        // The caller closes when it has heard.
        let _ = timeout(TOLD, out.closed()).await;
    }
    process.ended.cancel();
}

/// Gives copies of the listening sockets; this ingress goes on accepting from them until it is told to end.
async fn hand_over(
    process: &Process,
    number: u64,
    mut read: BufReader<OwnedReadHalf>,
    mut write: OwnedWriteHalf,
) -> io::Result<()> {
    let listening = process.ingress.listening().await?;
    let announced = listening.iter().map(|one| one.passed).collect();
    say(&mut write, &Said::Answer { number, answer: Answer::Listeners(announced) }).await?;
    // The caller reads no more lines once it has sent one.
    read.read_line(&mut String::new()).await?;
    let stream = blocking(read, write)?;
    tokio::task::spawn_blocking(move || pass::send(&stream, &listening)).await?
}

/// Takes listening sockets; the next table that has their addresses uses them.
async fn take_over(
    process: &Process,
    number: u64,
    announced: Vec<Passed>,
    read: BufReader<OwnedReadHalf>,
    mut write: OwnedWriteHalf,
) -> io::Result<()> {
    // The caller sends nothing before it has read this, so nothing is in the buffer.
    say(&mut write, &Said::Answer { number, answer: Answer::Ready }).await?;
    let stream = blocking(read, write)?;
    let (stream, listening) = tokio::task::spawn_blocking(move || {
        let listening = pass::receive(&stream, &announced)?;
        io::Result::Ok((stream, listening))
    })
    .await??;
    process.ingress.take_over(listening).await;
    stream.set_nonblocking(true)?;
    let mut line = serde_json::to_vec(&Said::Answer { number, answer: Answer::Taken })?;
    line.push(b'\n');
    UnixStream::from_std(stream)?.write_all(&line).await
}

/// The connection, for the blocking calls that pass descriptors.
fn blocking(read: BufReader<OwnedReadHalf>, write: OwnedWriteHalf) -> io::Result<std::os::unix::net::UnixStream> {
    let stream = read.into_inner().reunite(write).map_err(io::Error::other)?.into_std()?;
    stream.set_nonblocking(false)?;
    // A caller that stops in the middle holds nobody up for ever.
    stream.set_read_timeout(Some(PASSING))?;
    stream.set_write_timeout(Some(PASSING))?;
    Ok(stream)
}
