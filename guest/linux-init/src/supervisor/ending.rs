//! The end: of the app, and then of the guest, with time for the last words.

use holm_guest_control::{ExitReport, ExitStatus, What};

use super::Supervisor;
use crate::console::say;
use crate::{cgroup, clock, process};

/// How long the last logs and messages may take to leave before the guest powers off.
const FAREWELL_NS: u64 = 2_000_000_000;

const MILLISECOND: u64 = 1_000_000;

/// How far the end has come.
pub(super) enum Ending {
    /// The app runs on.
    No,
    /// The app was asked to stop; at this time it is killed.
    Asked { kill_at: u64 },
    /// Nothing runs; the last messages leave until this time.
    Farewell { until: u64 },
}

impl Supervisor {
    pub(super) fn app_ended(&mut self, status: ExitStatus) {
        self.app = None;
        self.checks = None;
        let memory = cgroup::memory();
        // What the app left running ends with it.
        cgroup::kill_all();
        for output in &mut self.outputs {
            output.read(&mut self.ring);
            output.flush(&mut self.ring);
        }
        let oom = memory.oom_kills > 0 && status != ExitStatus::Code(0);
        let report = ExitReport { status, oom, start_error: None, memory, at_unix_ns: clock::unix_ns() };
        say(format_args!("app {report}"));
        self.exited(report);
    }

    /// Records the app's end; the guest stays for its host to read it.
    pub(crate) fn exited(&mut self, report: ExitReport) {
        self.emit(What::Exited(report));
        let linger = self.configured.as_ref().map_or(0, |c| c.config.linger_ms);
        self.linger_until = Some(clock::since_boot_ns().saturating_add(linger.saturating_mul(MILLISECOND)));
        if !matches!(self.ending, Ending::No) {
            self.say_farewell();
        }
    }

    /// Begins the end: stop signal and grace for a running app, else farewell at once.
    pub(crate) fn stop(&mut self, grace_ms: Option<u64>) {
        let (signal, configured_grace) =
            self.configured.as_ref().map_or((15, 0), |c| (c.config.stop_signal, c.config.grace_ms));
        let kill_at =
            clock::since_boot_ns().saturating_add(grace_ms.unwrap_or(configured_grace).saturating_mul(MILLISECOND));
        match (&mut self.ending, self.app) {
            (Ending::No, Some(app)) => {
                self.ending = Ending::Asked { kill_at };
                self.checks = None;
                self.emit(What::Stopping);
                if let Some(signal) = process::signal(signal) {
                    // An app that has just ended is reaped next.
                    let _ = rustix::process::kill_process(app, signal);
                }
            }
            (Ending::No, None) => {
                self.emit(What::Stopping);
                self.say_farewell();
            }
            // Asked again: the sooner time counts.
            (Ending::Asked { kill_at: present }, _) => *present = kill_at.min(*present),
            (Ending::Farewell { .. }, _) => {}
        }
    }

    /// Whether the guest was told to end, or the app has ended.
    pub(crate) fn is_ending(&self) -> bool {
        !matches!(self.ending, Ending::No)
    }

    pub(super) fn say_farewell(&mut self) {
        if let Some(configured) = &mut self.configured {
            configured.volumes.let_go();
        }
        cgroup::kill_all();
        self.ending = Ending::Farewell { until: clock::since_boot_ns() + FAREWELL_NS };
    }

    /// Whether the last words are spoken; says the very last.
    pub(super) fn may_leave(&mut self) -> bool {
        let Ending::Farewell { until } = self.ending else {
            return false;
        };
        let heard = match &self.subscription {
            Some(subscription) => subscription.next >= self.ring.next_seq(),
            None => true,
        };
        let drained = heard && self.outputs.is_empty() && self.port.is_flushed();
        if !drained && clock::since_boot_ns() < until {
            return false;
        }
        self.emit(What::PoweringOff);
        self.port.flush();
        true
    }
}
