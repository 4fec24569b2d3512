//! A command that runs beside an app, as two bounded channels.

use bytes::Bytes;
use holm_guest_control::ExitStatus;
use tokio::sync::mpsc;

/// What is sent to a running command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecInput {
    /// Bytes for its standard input, or typed on its terminal.
    Data(Bytes),
    /// No more standard input. On a terminal, end-of-file is typed.
    Eof,
    /// Its terminal's new size.
    Resize {
        /// Rows.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// A signal for its process group.
    Signal(i32),
}

/// What a running command says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecOutput {
    /// Bytes of its standard output, or of its terminal.
    Stdout(Bytes),
    /// Bytes of its standard error.
    Stderr(Bytes),
    /// It ended; the last item.
    Exited(ExitStatus),
}

/// A running command. Both channels hold a few items; a side that does not read makes the other wait.
///
/// `output` ends without [`ExecOutput::Exited`] when the connection to the guest was lost. Dropping the session closes the
/// command's input.
#[derive(Debug)]
pub struct ExecSession {
    /// To the command.
    pub input: mpsc::Sender<ExecInput>,
    /// From the command.
    pub output: mpsc::Receiver<ExecOutput>,
}

impl ExecSession {
    /// Items each channel holds.
    pub const DEPTH: usize = 8;
}
