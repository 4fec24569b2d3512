//! Commands run beside the app: their input, output, terminal and end.

use alloc::sync::Arc;
use alloc::vec::Vec;

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::connection::Link;
use super::dispatch::ExecPeer;
use super::{GuestConnection, HostError};
use crate::{EXEC_WINDOW, ExecRequest, ExitStatus, Features, HostMessage, ReplyValue, frame_cost};

/// Bytes of standard input sent in one frame.
const STDIN_CHUNK: usize = 16 * 1024;

/// A piece of a command's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputChunk {
    /// Standard output, or everything on a terminal.
    Stdout(Vec<u8>),
    /// Standard error.
    Stderr(Vec<u8>),
}

/// A running command. Its parts may be moved to different tasks.
///
/// Dropping [`ExecControl`] before the end detaches the command: on a terminal it is hung up, else it runs on
/// unheard with end-of-file on its input.
pub struct ExecSession {
    /// Process id inside the guest.
    pub pid: u32,
    /// Standard input.
    pub stdin: ExecStdin,
    /// Standard output and error.
    pub output: ExecOutput,
    /// Size, signals and the end.
    pub control: ExecControl,
}

/// Standard input of a command.
pub struct ExecStdin {
    link: Link,
    stream: u32,
    credit: Arc<Semaphore>,
}

/// Output of a command.
pub struct ExecOutput {
    link: Link,
    stream: u32,
    chunks: mpsc::Receiver<OutputChunk>,
    owed: u32,
}

/// Size, signals and the end of a command.
pub struct ExecControl {
    // Keeps the session alive.
    _connection: GuestConnection,
    link: Link,
    stream: u32,
    exit: oneshot::Receiver<ExitStatus>,
    ended: Option<ExitStatus>,
}

impl GuestConnection {
    /// Runs a command beside the app, in its root, as its user unless told otherwise, under its memory cap.
    ///
    /// # Errors
    /// [`HostError::Guest`] with [`crate::ErrorCode::CommandNotFound`] or [`crate::ErrorCode::CannotExecute`];
    /// [`HostError::Unsupported`].
    pub async fn exec(&self, request: ExecRequest) -> Result<ExecSession, HostError> {
        self.require(if request.terminal.is_some() { Features::EXEC_TTY } else { Features::EXEC })?;
        let stream = self.next_stream();
        let link = self.link().clone();
        // As many chunks as the window lets through.
        let (output, chunks) = mpsc::channel(EXEC_WINDOW as usize / 256 + 1);
        let (exited, exit) = oneshot::channel();
        let credit = Arc::new(Semaphore::new(EXEC_WINDOW as usize));
        {
            let mut waiting = link.shared.waiting();
            if waiting.closed {
                return Err(HostError::Closed);
            }
            let peer = ExecPeer { output, exit: Some(exited), stdin_credit: credit.clone() };
            waiting.execs.insert(stream, peer);
        }
        let mut control = ExecControl { _connection: self.clone(), link: link.clone(), stream, exit, ended: None };
        let message = |id| HostMessage::Exec { id, stream, request, window: EXEC_WINDOW };
        let reply = match self.request("exec", message).await {
            Ok(reply) => reply,
            Err(error) => {
                if matches!(error, HostError::Guest(_)) {
                    control.forget();
                }
                return Err(error);
            }
        };
        let pid = if let ReplyValue::Started { pid } = reply { pid } else { 0 };
        Ok(ExecSession {
            pid,
            stdin: ExecStdin { link: link.clone(), stream, credit },
            output: ExecOutput { link, stream, chunks, owed: 0 },
            control,
        })
    }
}

impl ExecSession {
    /// Reads all output while waiting for the end, keeping at most `limit` bytes of each stream.
    ///
    /// # Errors
    /// [`HostError::Closed`] when the connection ended first.
    pub async fn collect(mut self, limit: usize) -> Result<(ExitStatus, Vec<u8>, Vec<u8>), HostError> {
        self.stdin.eof().await?;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        while let Some(chunk) = self.output.recv().await {
            let (kept, bytes) = match &chunk {
                OutputChunk::Stdout(bytes) => (&mut out, bytes),
                OutputChunk::Stderr(bytes) => (&mut err, bytes),
            };
            let room = limit.saturating_sub(kept.len()).min(bytes.len());
            kept.extend_from_slice(&bytes[..room]);
        }
        Ok((self.control.wait().await?, out, err))
    }
}

impl ExecStdin {
    /// Sends bytes to the command; waits while it does not read.
    ///
    /// # Errors
    /// [`HostError::Closed`] when the command or the connection has ended.
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<(), HostError> {
        for part in bytes.chunks(STDIN_CHUNK) {
            let permit = self.credit.acquire_many(frame_cost(part.len())).await.map_err(|_| HostError::Closed)?;
            permit.forget();
            self.link.send_stdin(self.stream, part).await?;
        }
        Ok(())
    }

    /// Ends the input; on a terminal it types end-of-file.
    ///
    /// # Errors
    /// [`HostError::Closed`].
    pub async fn eof(&mut self) -> Result<(), HostError> {
        self.link.send(&HostMessage::ExecEof { stream: self.stream }).await
    }
}

impl ExecOutput {
    /// The next piece; `None` when the command has ended and all its output was given, or the connection ended.
    /// Safe to cancel.
    pub async fn recv(&mut self) -> Option<OutputChunk> {
        if self.owed >= EXEC_WINDOW / 4 {
            let credit = HostMessage::ExecCredit { stream: self.stream, credit: self.owed };
            // Chunks already here are still given when the pipe has ended.
            let _ = self.link.send(&credit).await;
            self.owed = 0;
        }
        let chunk = self.chunks.recv().await?;
        let (OutputChunk::Stdout(bytes) | OutputChunk::Stderr(bytes)) = &chunk;
        self.owed = self.owed.saturating_add(frame_cost(bytes.len()));
        Some(chunk)
    }
}

impl ExecControl {
    /// Tells the terminal its new size.
    ///
    /// # Errors
    /// [`HostError::Closed`].
    pub async fn resize(&self, rows: u16, cols: u16) -> Result<(), HostError> {
        self.link.send(&HostMessage::ExecResize { stream: self.stream, rows, cols }).await
    }

    /// Sends a signal to the command's process group.
    ///
    /// # Errors
    /// [`HostError::Closed`].
    pub async fn signal(&self, signal: i32) -> Result<(), HostError> {
        self.link.send(&HostMessage::ExecSignal { stream: self.stream, signal }).await
    }

    /// Waits for the command's end. Safe to cancel and to call again.
    ///
    /// # Errors
    /// [`HostError::Closed`] when the connection ended first.
    pub async fn wait(&mut self) -> Result<ExitStatus, HostError> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        let status = (&mut self.exit).await.map_err(|_| HostError::Closed)?;
        self.ended = Some(status);
        Ok(status)
    }

    fn forget(&mut self) -> bool {
        self.link.shared.waiting().execs.remove(&self.stream).is_some()
    }
}

impl Drop for ExecControl {
    fn drop(&mut self) {
        if self.forget() {
            self.link.send_if_room(&HostMessage::ExecDetach { stream: self.stream });
        }
    }
}
