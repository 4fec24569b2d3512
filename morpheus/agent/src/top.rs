//! `morpheusd top`: the workers as a table, the busiest with hints first; rates since the last picture.

use std::collections::HashMap;
use std::fmt::Write;

use crate::report::{Report, WorkerReport};
use crate::units::duration;

/// The table's head; the columns are as wide as here.
const HEAD: &str = "    PID PROCESS          SLOT WORKER           STATE       HINTS    TAKEN  IGNORED     P50≤     P99≤ OFF-CPU%   WAIT%  PREEMPT  ESC";

/// The report as a table of at most `rows` lines (0: all), ending in a newline. Hints in the first line and shares of time
/// are since `previous`, or since the agent's start and the worker's registration.
pub fn render(report: &Report, previous: Option<&Report>, rows: usize) -> String {
    let totals = report.totals();
    let before = previous.map(Report::totals).unwrap_or_default();
    let interval_ns = previous.map_or(report.uptime_ns, |previous| report.time_ns.saturating_sub(previous.time_ns));
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "morpheusd {}, up {}: {} workers in {} processes, {} hints in {} ({} taken, {} ignored, {} moot)",
        report.mode,
        duration(report.uptime_ns),
        report.workers(),
        report.processes.len(),
        totals.hints().saturating_sub(before.hints()),
        duration(interval_ns),
        totals.taken.saturating_sub(before.taken),
        totals.ignored.saturating_sub(before.ignored),
        totals.moot.saturating_sub(before.moot),
    );
    let _ = writeln!(text, "{HEAD}");
    // A thread's number may be reused, its slot too; both at once within one interval only with the same process.
    let mut last: HashMap<(u32, u32, u32), &WorkerReport> = HashMap::new();
    for process in previous.iter().flat_map(|previous| &previous.processes) {
        for worker in &process.workers {
            last.insert((process.pid, worker.slot, worker.tid), worker);
        }
    }
    let mut lines: Vec<_> = report
        .processes
        .iter()
        .flat_map(|process| process.workers.iter().map(move |worker| (process, worker)))
        .collect();
    lines.sort_by_key(|(process, worker)| (std::cmp::Reverse(worker.totals.hints()), process.pid, worker.slot));
    let shown = if rows == 0 { lines.len() } else { rows.saturating_sub(3).min(lines.len()) };
    for (process, worker) in &lines[..shown] {
        let before = last.get(&(process.pid, worker.slot, worker.tid)).map(|worker| &worker.totals);
        let whole_ns = if before.is_some() { interval_ns } else { worker.age_ns }.max(1);
        let share = |now: u64, before: u64| {
            let part = now.saturating_sub(before) as f64 / whole_ns as f64;
            format!("{:.1}", (part * 100.0).min(100.0))
        };
        let latency = worker.totals.histogram();
        let bound = |per_mille| latency.quantile(per_mille).map_or_else(|| "-".to_owned(), duration);
        let _ = writeln!(
            text,
            "{:>7} {:<16} {:>4} {:<16} {:<10} {:>6} {:>8} {:>8} {:>8} {:>8} {:>8} {:>7} {:>8} {:>4}",
            process.pid,
            cut(&process.name),
            worker.slot,
            cut(&worker.name),
            worker.state,
            worker.totals.hints(),
            worker.totals.taken,
            worker.totals.ignored,
            bound(500),
            bound(990),
            share(worker.totals.off_cpu_ns, before.map_or(0, |before| before.off_cpu_ns)),
            share(worker.totals.runqueue_wait_ns, before.map_or(0, |before| before.runqueue_wait_ns)),
            worker.totals.involuntary_switches,
            worker.totals.escalations,
        );
    }
    if shown < lines.len() {
        let _ = writeln!(text, "… {} more", lines.len() - shown);
    }
    text
}

fn cut(name: &str) -> String {
    if name.chars().count() <= 16 { name.to_owned() } else { name.chars().take(15).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::report::tests::{busy, idle};

    #[test]
    fn workers_stand_in_the_order_of_their_hints() {
        insta::assert_snapshot!(render(&busy(), None, 0));
    }

    #[test]
    fn shares_are_of_the_time_since_the_last_picture() {
        let mut later = busy();
        later.time_ns += 1_000_000_000;
        later.uptime_ns += 1_000_000_000;
        later.processes[0].workers[0].totals.off_cpu_ns += 250_000_000;
        insta::assert_snapshot!(render(&later, Some(&busy()), 0));
    }

    #[test]
    fn what_does_not_fit_the_terminal_is_counted() {
        insta::assert_snapshot!(render(&busy(), None, 4));
    }

    #[test]
    fn an_agent_without_workers_has_an_empty_table() {
        insta::assert_snapshot!(render(&idle(), None, 24));
    }
}
