//! `morpheusd status`: the report in a few lines.

use std::fmt::Write;

use crate::report::Report;
use crate::units::duration;

/// The report as text, ending in a newline.
pub fn render(report: &Report) -> String {
    let totals = report.totals();
    let latency = totals.histogram();
    let bound = |per_mille| latency.quantile(per_mille).map_or_else(|| "-".to_owned(), duration);
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<11} {value}");
    };
    line("mode", format!("{}, pid {}, up {}", report.mode, report.pid, duration(report.uptime_ns)));
    line("processes", report.processes.len().to_string());
    line("workers", format!("{} ({} gone)", report.workers(), report.gone.workers));
    let reasons: Vec<String> = totals.hints.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    line("hints", if reasons.is_empty() { "none".to_owned() } else { reasons.join(", ") });
    line("", format!("taken {}, ignored {}, moot {}", totals.taken, totals.ignored, totals.moot));
    line("hint→yield", format!("p50 ≤ {}, p99 ≤ {}", bound(500), bound(990)));
    line("escalations", totals.escalations.to_string());
    let refused: Vec<String> = report.refused.iter().map(|(reason, count)| format!("{count} × {reason}")).collect();
    line("refused", if refused.is_empty() { "none".to_owned() } else { refused.join(", ") });
    text
}

#[cfg(test)]
mod tests {
    use crate::report::tests::busy;

    #[test]
    fn the_status_says_the_mode_the_counts_and_the_latency() {
        insta::assert_snapshot!(super::render(&busy()));
    }
}
