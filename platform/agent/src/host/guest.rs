//! A guest over its control connection.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use holm_guest_control::host::{self, GuestConnection, HostError, LogItem, LogReader, OutputChunk};
use holm_guest_control::{
    BootMark, Config, ErrorBody, ErrorCode, ExecRequest, ExitStatus, LogStream as GuestStream, Metrics, Status,
    VolumeAction,
};
use tokio::sync::{mpsc, watch};

use crate::exec::{ExecInput, ExecOutput, ExecSession};
use crate::log::{LogStream, Record};
use crate::world::{Failure, Guest, GuestFailure, LogSource};

#[derive(Debug)]
pub(super) struct ConnectedGuest {
    connection: GuestConnection,
}

impl ConnectedGuest {
    pub(super) fn new(connection: GuestConnection) -> Self {
        Self { connection }
    }
}

fn failure(error: HostError) -> GuestFailure {
    match error {
        HostError::Closed => GuestFailure::Closed,
        other => GuestFailure::Refused(Failure::of(&other).0),
    }
}

impl Guest for ConnectedGuest {
    fn status(&self) -> watch::Receiver<Status> {
        self.connection.status()
    }

    fn boot_marks(&self) -> Vec<BootMark> {
        self.connection.hello().boot.clone()
    }

    fn can(&self, feature: &str) -> bool {
        self.connection.hello().features.contains(feature)
    }

    fn closed(&self) -> BoxFuture<'_, ()> {
        self.connection.closed().boxed()
    }

    fn configure<'a>(&'a self, config: &'a Config) -> BoxFuture<'a, Result<(), GuestFailure>> {
        async move { self.connection.configure(config).await.map_err(failure) }.boxed()
    }

    fn start(&self) -> BoxFuture<'_, Result<(), GuestFailure>> {
        async move { self.connection.start().await.map(drop).map_err(failure) }.boxed()
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, Result<(), GuestFailure>> {
        async move { self.connection.stop(Some(grace)).await.map_err(failure) }.boxed()
    }

    fn metrics(&self) -> BoxFuture<'_, Result<Metrics, GuestFailure>> {
        async move { self.connection.metrics().await.map_err(failure) }.boxed()
    }

    fn volume<'a>(&'a self, serial: &'a str, action: VolumeAction) -> BoxFuture<'a, Result<(), GuestFailure>> {
        async move { self.connection.volume(serial, action).await.map_err(failure) }.boxed()
    }

    fn names<'a>(&'a self, names: &'a BTreeMap<String, Vec<IpAddr>>) -> BoxFuture<'a, Result<(), GuestFailure>> {
        async move {
            match self.connection.names(names).await {
                Err(HostError::Unsupported { .. }) => Ok(()),
                told => told.map_err(failure),
            }
        }
        .boxed()
    }

    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, Result<ExecSession, GuestFailure>> {
        async move {
            let (input, from_caller) = mpsc::channel(ExecSession::DEPTH);
            let (to_caller, output) = mpsc::channel(ExecSession::DEPTH);
            match self.connection.exec(request).await {
                Ok(running) => drop(tokio::spawn(carry(running, from_caller, to_caller))),
                Err(error) => {
                    for said in like_a_shell(error)? {
                        // Cannot be full: it is deeper than two.
                        let _ = to_caller.try_send(said);
                    }
                }
            }
            Ok(ExecSession { input, output })
        }
        .boxed()
    }

    fn logs(&self, seq: u64) -> BoxFuture<'_, Result<Box<dyn LogSource>, GuestFailure>> {
        async move {
            let reader = self.connection.logs(seq).await.map_err(failure)?;
            Ok(Box::new(GuestLogs { reader }) as Box<dyn LogSource>)
        }
        .boxed()
    }
}

/// What a shell would say of a command that is not there or cannot be run, with its status; else the failure.
fn like_a_shell(error: HostError) -> Result<[ExecOutput; 2], GuestFailure> {
    let (status, text) = match &error {
        HostError::Guest(ErrorBody { code: ErrorCode::CommandNotFound, message }) => (127, message),
        HostError::Guest(ErrorBody { code: ErrorCode::CannotExecute, message }) => (126, message),
        _ => return Err(failure(error)),
    };
    Ok([ExecOutput::Stderr(Bytes::from(format!("{text}\n"))), ExecOutput::Exited(ExitStatus::Code(status))])
}

/// Carries bytes between a command and its caller until the command or the connection has ended. A caller that drops the
/// output detaches from the command.
async fn carry(running: host::ExecSession, mut input: mpsc::Receiver<ExecInput>, output: mpsc::Sender<ExecOutput>) {
    let host::ExecSession { mut stdin, output: mut chunks, mut control, .. } = running;
    {
        // The two directions never wait for each other: a command may stop reading until its output is taken.
        let feed = async {
            loop {
                let sent = match input.recv().await {
                    Some(ExecInput::Data(bytes)) => stdin.write_all(&bytes).await,
                    Some(ExecInput::Eof) => stdin.eof().await,
                    Some(ExecInput::Resize { rows, cols }) => control.resize(rows, cols).await,
                    Some(ExecInput::Signal(signal)) => control.signal(signal).await,
                    None => stdin.eof().await.and(Err(HostError::Closed)),
                };
                if sent.is_err() {
                    // The command's end is told by its output.
                    std::future::pending::<()>().await;
                }
            }
        };
        let drain = async {
            while let Some(chunk) = chunks.recv().await {
                let item = match chunk {
                    OutputChunk::Stdout(bytes) => ExecOutput::Stdout(Bytes::from(bytes)),
                    OutputChunk::Stderr(bytes) => ExecOutput::Stderr(Bytes::from(bytes)),
                };
                if output.send(item).await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            () = feed => {}
            () = drain => {}
            () = output.closed() => {}
        }
    }
    tokio::select! {
        status = control.wait() => if let Ok(status) = status {
            // A caller that has gone needs no status.
            let _ = output.send(ExecOutput::Exited(status)).await;
        },
        () = output.closed() => {}
    }
}

struct GuestLogs {
    reader: LogReader,
}

impl LogSource for GuestLogs {
    fn next(&mut self) -> BoxFuture<'_, Option<Record>> {
        async move {
            loop {
                if let LogItem::Record(record) = self.reader.recv().await? {
                    let stream = match record.stream {
                        GuestStream::Stdout => LogStream::Stdout,
                        GuestStream::Stderr => LogStream::Stderr,
                    };
                    return Some(Record { seq: record.seq, at_ns: record.at_unix_ns, stream, bytes: record.bytes });
                }
                // A loss shows as a hole in the numbers.
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_cannot_start_ends_as_in_a_shell() {
        for (code, status) in
            [(ErrorCode::CommandNotFound, Some(127)), (ErrorCode::CannotExecute, Some(126)), (ErrorCode::Refused, None)]
        {
            let told = like_a_shell(HostError::Guest(ErrorBody { code, message: "why".into() })).ok();
            let expected = status
                .map(|status| [ExecOutput::Stderr(Bytes::from("why\n")), ExecOutput::Exited(ExitStatus::Code(status))]);
            assert_eq!(told, expected, "{code:?}");
        }
    }
}
