//! Commands run beside the app: their pipes or terminal, credit in both directions, and their end.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use holm_guest_control::{EXEC_WINDOW, ExitStatus, GuestMessage, Kind, frame_cost};
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::termios::Winsize;

use crate::clock;
use crate::port::Port;

/// Most output bytes in one frame.
const CHUNK: usize = 8 * 1024;

/// How long after a command's end its output may be held open by what it left behind.
const LINGERING_OUTPUT_NS: u64 = 300_000_000;

/// How long a hung-up terminal's command may take to end before SIGKILL.
const HANG_UP_GRACE_NS: u64 = 2_000_000_000;

/// End-of-file as typed on a terminal.
const TYPED_EOF: u8 = 4;

/// A running command.
pub(crate) struct Exec {
    pub(crate) pid: Pid,
    /// Standard input pipe; on a terminal the master end, which is also `outputs[0]`.
    stdin: Option<OwnedFd>,
    waiting: VecDeque<u8>,
    /// Credit to return once `waiting` has drained this far.
    owed: u32,
    eof: bool,
    outputs: [Option<OwnedFd>; 2],
    credit: u32,
    terminal: bool,
    attached: bool,
    exited: Option<(ExitStatus, u64)>,
    kill_at: Option<u64>,
}

/// The ends PID 1 keeps.
pub(crate) enum Ends {
    /// Input, output, error.
    Pipes(OwnedFd, OwnedFd, OwnedFd),
    /// Master end, twice.
    Terminal(OwnedFd, OwnedFd),
}

impl Exec {
    /// All ends must not block. `window` is the output credit.
    pub(crate) fn new(pid: Pid, ends: Ends, window: u32) -> Self {
        let (stdin, outputs, terminal) = match ends {
            Ends::Pipes(stdin, stdout, stderr) => (stdin, [Some(stdout), Some(stderr)], false),
            Ends::Terminal(input, output) => (input, [Some(output), None], true),
        };
        Self {
            pid,
            stdin: Some(stdin),
            waiting: VecDeque::new(),
            owed: 0,
            eof: false,
            outputs,
            credit: window,
            terminal,
            attached: true,
            exited: None,
            kill_at: None,
        }
    }

    /// Bytes from the host. Beyond the window they are dropped: the host broke the rule.
    pub(crate) fn push_stdin(&mut self, bytes: &[u8]) {
        if self.eof || self.waiting.len() + bytes.len() > EXEC_WINDOW as usize {
            return;
        }
        self.owed += frame_cost(bytes.len());
        self.waiting.extend(bytes);
    }

    pub(crate) fn end_stdin(&mut self) {
        if self.terminal && !self.eof {
            self.waiting.push_back(TYPED_EOF);
        }
        self.eof = !self.terminal;
    }

    pub(crate) fn add_credit(&mut self, credit: u32) {
        self.credit = self.credit.saturating_add(credit).min(EXEC_WINDOW);
    }

    pub(crate) fn resize(&self, rows: u16, cols: u16) {
        if let (true, Some(master)) = (self.terminal, &self.outputs[0]) {
            let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
            // A terminal that has just closed needs no size.
            let _ = rustix::termios::tcsetwinsize(master, size);
        }
    }

    /// Nobody listens any more: hang up a terminal; else end the input and let it run unheard.
    pub(crate) fn detach(&mut self) {
        self.attached = false;
        if self.terminal {
            self.stdin = None;
            self.outputs = [None, None];
            self.kill_at = Some(clock::since_boot_ns() + HANG_UP_GRACE_NS);
        } else {
            self.waiting.clear();
            self.end_stdin();
            self.write_stdin(|_| {});
        }
    }

    pub(crate) fn reaped(&mut self, status: ExitStatus) {
        self.exited = Some((status, clock::since_boot_ns()));
        self.kill_at = None;
    }

    /// Descriptor that wants to be read, by output number.
    pub(crate) fn readable(&self, output: usize, port_has_room: bool) -> Option<BorrowedFd<'_>> {
        let may = !self.attached || (port_has_room && self.credit >= frame_cost(CHUNK));
        self.outputs[output].as_ref().filter(|_| may).map(|fd| fd.as_fd())
    }

    /// Descriptor that wants to be written.
    pub(crate) fn writable(&self) -> Option<BorrowedFd<'_>> {
        self.stdin.as_ref().filter(|_| !self.waiting.is_empty()).map(|fd| fd.as_fd())
    }

    /// Reads one chunk of an output and sends it.
    pub(crate) fn read_output(&mut self, output: usize, stream: u32, session: Option<u64>, port: &mut Port) {
        let Some(fd) = &self.outputs[output] else {
            return;
        };
        let mut buffer = [0u8; CHUNK];
        match rustix::io::read(fd, &mut buffer) {
            Ok(n @ 1..) => {
                if let Some((_, at)) = &mut self.exited {
                    *at = clock::since_boot_ns();
                }
                if let (true, Some(session)) = (self.attached, session) {
                    let kind = if output == 0 { Kind::Stdout } else { Kind::Stderr };
                    self.credit = self.credit.saturating_sub(frame_cost(n));
                    port.queue_bytes(session, kind, stream, buffer[..n].to_vec());
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            // The end; a terminal whose last user left answers EIO.
            Ok(0) | Err(_) => self.outputs[output] = None,
        }
    }

    /// Writes what the command takes; tells `returned` the credit to give back.
    pub(crate) fn write_stdin(&mut self, returned: impl FnOnce(u32)) {
        while let Some(fd) = &self.stdin
            && !self.waiting.is_empty()
        {
            let (front, _) = self.waiting.as_slices();
            match rustix::io::write(fd, front) {
                Ok(n) => drop(self.waiting.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    // The command closed its input: what is left has no reader, its credit goes back.
                    self.waiting.clear();
                    self.stdin = None;
                    self.eof = true;
                }
            }
        }
        if self.waiting.is_empty() {
            if self.eof {
                self.stdin = None;
            }
            if self.owed > 0 {
                returned(std::mem::take(&mut self.owed));
            }
        }
    }

    /// When this command wants attention without an event.
    pub(crate) fn deadline(&self, port_has_room: bool) -> Option<u64> {
        let drained = self.exited.filter(|_| !self.is_held_up(port_has_room)).map(|(_, at)| at + LINGERING_OUTPUT_NS);
        drained.into_iter().chain(self.kill_at).min()
    }

    /// What is due now: `Some` when the command is over and may be forgotten.
    pub(crate) fn finish(&mut self, stream: u32, now: u64, port_has_room: bool) -> Option<GuestMessage> {
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            let _ = rustix::process::kill_process_group(self.pid, rustix::process::Signal::KILL);
        }
        let (status, at) = self.exited?;
        // A host that does not read is waited for: only an idle leftover pipe is cut off.
        let idle = now >= at + LINGERING_OUTPUT_NS && !self.is_held_up(port_has_room);
        let drained = self.outputs.iter().all(Option::is_none) || idle;
        drained.then_some(GuestMessage::ExecExit { stream, status })
    }

    /// There may be output the host has no room for yet.
    fn is_held_up(&self, port_has_room: bool) -> bool {
        self.attached && (!port_has_room || self.credit < frame_cost(CHUNK))
    }

    pub(crate) fn is_attached(&self) -> bool {
        self.attached
    }
}
