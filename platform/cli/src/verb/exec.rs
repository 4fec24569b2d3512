//! `holm exec`: a command inside an instance, with or without a terminal.

use std::io::{IsTerminal, Read};

use bytes::Bytes;
use holm_api::exec::{ExecInput, ExecOutput, ExecRequest, ExecSession, ExecTarget, Tty, TtySize};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::Context;
use crate::args::Exec;
use crate::exit::{Exit, Failure};
use crate::target::{AppOrInstance, parse_app_or_instance};

/// Bytes of standard input that are read at once.
const CHUNK: usize = 32 << 10;

pub(crate) async fn run(exec: &Exec, context: &Context<'_>) -> Result<(), Failure> {
    let target = match parse_app_or_instance(&exec.name, exec.env.as_ref())? {
        AppOrInstance::App(app) => ExecTarget::App { app, process: exec.process.clone() },
        AppOrInstance::Instance(instance) => ExecTarget::Instance(instance),
    };
    if exec.tty && !std::io::stdin().is_terminal() {
        return Err(Failure::usage("standard input is not a terminal").hint("leave `-t` out"));
    }
    let tty = exec.tty.then(|| Tty { size: terminal_size(), term: std::env::var("TERM").unwrap_or_default() });
    let request = ExecRequest { target, command: exec.command.clone(), stdin: exec.interactive, tty };
    request.check().map_err(Failure::usage)?;
    let session = context.client.exec(&request).await?;
    let raw = if exec.tty { Some(RawTerminal::new()?) } else { None };
    let ended = carry(session, exec, context).await;
    drop(raw);
    match ended? {
        0 => Ok(()),
        status => Err(Failure::silent(Exit::Status(status))),
    }
}

/// Carries bytes and signals both ways until the command has ended; gives its status.
async fn carry(session: ExecSession, exec: &Exec, context: &Context<'_>) -> Result<u8, Failure> {
    let ExecSession { input, mut output } = session;
    // The sender is held by the signals' side too: the server hears of the end of input by a frame of its own.
    if exec.interactive {
        let input = input.clone();
        std::thread::spawn(move || read_stdin(&input));
    } else {
        let _ = input.send(ExecInput::StdinEnd).await;
    }
    let mut signals = Signals::new()?;
    loop {
        tokio::select! {
            frame = output.recv() => match frame {
                Some(ExecOutput::Stdout(bytes)) => context.out.bytes(&bytes, false)?,
                Some(ExecOutput::Stderr(bytes)) => context.out.bytes(&bytes, true)?,
                Some(ExecOutput::Exit(exit)) => return Ok(exit.status()),
                Some(ExecOutput::Failed(problem)) => return Err(Failure::new(Exit::Status(124), problem)),
                None => return Ok(124),
            },
            frame = signals.next(exec.tty) => drop(input.try_send(frame)),
        }
    }
}

fn read_stdin(input: &mpsc::Sender<ExecInput>) {
    let mut buffer = vec![0; CHUNK];
    let mut stdin = std::io::stdin().lock();
    loop {
        let frame = match stdin.read(&mut buffer) {
            Ok(0) | Err(_) => ExecInput::StdinEnd,
            Ok(length) => ExecInput::Stdin(Bytes::copy_from_slice(&buffer[..length])),
        };
        let end = frame == ExecInput::StdinEnd;
        if input.blocking_send(frame).is_err() || end {
            return;
        }
    }
}

/// The signals that are passed on.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    resize: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            resize: signal(SignalKind::window_change())?,
        })
    }

    async fn next(&mut self, tty: bool) -> ExecInput {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return ExecInput::Signal(2),
                _ = self.terminate.recv() => return ExecInput::Signal(15),
                _ = self.resize.recv() => if tty {
                    return ExecInput::Resize(terminal_size());
                },
            }
        }
    }
}

fn terminal_size() -> TtySize {
    match tcgetwinsize(std::io::stdin()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => TtySize { rows: size.ws_row, columns: size.ws_col },
        _ => TtySize { rows: 24, columns: 80 },
    }
}

/// The terminal in raw mode; as it was when this goes out of scope.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn new() -> Result<Self, Failure> {
        let before = tcgetattr(std::io::stdin()).map_err(std::io::Error::from)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &raw).map_err(std::io::Error::from)?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nobody can be told when a terminal that is gone cannot be put back.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.before);
    }
}
