//! One connection to an ingress, as its caller has it: a task that reads, a half that writes.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::pass::{self, Listening};
use super::wire::{Answer, Ask, LONGEST, PROTOCOL, Passed, Question, Said};

/// Time for the first line, and for each step of passing sockets. An ingress that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a link's ingress says, `None` when the link is broken.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) link: u64,
    pub(super) said: Option<Said>,
}

/// A connection to a running ingress.
#[derive(Debug)]
pub(super) struct Link {
    /// Tells links of one caller apart.
    pub(super) number: u64,
    /// The process at the other end.
    pub(super) pid: Pid,
    write: OwnedWriteHalf,
    asked: u64,
}

/// A connection to an ingress that has not been greeted.
#[derive(Debug)]
pub(super) struct Found {
    pid: Pid,
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl Found {
    /// Connects.
    pub(super) async fn at(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        let pid = stream.peer_cred()?.pid().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the ingress has no process id"))?;
        let (read, write) = stream.into_split();
        Ok(Self { pid, read: BufReader::new(read), write })
    }

    pub(super) const fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether it runs the same program file as this process.
    pub(super) fn is_of_this_program(&self) -> bool {
        let inode = |path: &str| std::fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
        let theirs = inode(&format!("/proc/{}/exe", self.pid.as_raw_nonzero()));
        theirs.is_some() && theirs == inode("/proc/self/exe")
    }

    /// Ends an ingress that does not answer.
    pub(super) fn kill(&self) {
        // Fails only for one that is gone already.
        let _ = kill_process(self.pid, Signal::KILL);
    }

    /// Reads the first line and gives its protocol.
    pub(super) async fn greeted(&mut self) -> io::Result<u32> {
        match timeout(PATIENCE, hear(&mut self.read)).await?? {
            Some(Said::Welcome { protocol }) => Ok(protocol),
            other => Err(io::Error::other(format!("the ingress said {other:?} instead of a welcome"))),
        }
    }

    /// From now on what it says goes to `heard`.
    pub(super) fn link(self, number: u64, heard: mpsc::UnboundedSender<Heard>) -> Link {
        let Self { pid, mut read, write } = self;
        tokio::spawn(async move {
            loop {
                let said = hear(&mut read).await.unwrap_or_else(|error| {
                    tracing::warn!(%error, "cannot understand the ingress");
                    None
                });
                let end = said.is_none();
                if heard.send(Heard { link: number, said }).is_err() || end {
                    return;
                }
            }
        });
        Link { number, pid, write, asked: 0 }
    }

    /// Asks for the listening sockets.
    pub(super) async fn hand_over(mut self) -> io::Result<Vec<Listening>> {
        let announced = match self.ask(Ask::HandOver).await? {
            Answer::Listeners(announced) => announced,
            other => return Err(unexpected(&other)),
        };
        let stream = self.blocking()?;
        tokio::task::spawn_blocking(move || {
            io::Write::write_all(&mut &stream, b"\n")?;
            pass::receive(&stream, &announced)
        })
        .await?
    }

    /// Gives it listening sockets.
    pub(super) async fn take_over(mut self, listening: Vec<Listening>) -> io::Result<()> {
        let announced: Vec<Passed> = listening.iter().map(|one| one.passed).collect();
        match self.ask(Ask::TakeOver(announced)).await? {
            Answer::Ready => {}
            other => return Err(unexpected(&other)),
        }
        let stream = self.blocking()?;
        let stream = tokio::task::spawn_blocking(move || {
            pass::send(&stream, &listening)?;
            io::Result::Ok(stream)
        })
        .await??;
        stream.set_nonblocking(true)?;
        let mut read = BufReader::new(UnixStream::from_std(stream)?);
        match timeout(PATIENCE, hear(&mut read)).await?? {
            Some(Said::Answer { answer: Answer::Taken, .. }) => Ok(()),
            other => Err(io::Error::other(format!("the ingress did not take the sockets: {other:?}"))),
        }
    }

    async fn ask(&mut self, ask: Ask) -> io::Result<Answer> {
        send(&mut self.write, &Question { number: 0, ask }).await?;
        match timeout(PATIENCE, hear(&mut self.read)).await?? {
            Some(Said::Answer { answer, .. }) => Ok(answer),
            other => Err(io::Error::other(format!("the ingress said {other:?} instead of an answer"))),
        }
    }

    fn blocking(self) -> io::Result<std::os::unix::net::UnixStream> {
        let stream = self.read.into_inner().reunite(self.write).map_err(io::Error::other)?.into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }
}

/// Whether both sides speak the same.
pub(super) const fn is_known(protocol: u32) -> bool {
    protocol == PROTOCOL
}

impl Link {
    /// Asks, and gives the number of the question.
    pub(super) async fn ask(&mut self, ask: Ask) -> io::Result<u64> {
        self.asked += 1;
        send(&mut self.write, &Question { number: self.asked, ask }).await?;
        Ok(self.asked)
    }
}

fn unexpected(answer: &Answer) -> io::Error {
    io::Error::other(format!("the ingress answered {answer:?}"))
}

async fn send(to: &mut OwnedWriteHalf, question: &Question) -> io::Result<()> {
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    to.write_all(&line).await
}

/// The next line; `None` at the end.
async fn hear(from: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> io::Result<Option<Said>> {
    let mut line = Vec::new();
    from.take(LONGEST).read_until(b'\n', &mut line).await?;
    if line.pop() != Some(b'\n') {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}
