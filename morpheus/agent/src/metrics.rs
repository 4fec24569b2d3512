//! Prometheus metrics: the report as text, and the small server that gives it out. The server is an operator like any
//! other: it asks the daemon over its socket, so a slow scraper never holds the daemon up.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::report::{Report, Totals};
use crate::server::operator;

/// The report in Prometheus's text format, version 0.0.4. Counters cover workers that are gone, too.
pub fn render(report: &Report) -> String {
    let totals = report.totals();
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, samples: &[(String, String)]| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP morpheus_{name} {help}\n# TYPE morpheus_{name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "morpheus_{name}{labels} {value}");
        }
    };
    let plain = |value: u64| vec![(String::new(), value.to_string())];
    let seconds = |ns: u64| vec![(String::new(), format!("{}", ns as f64 / 1e9))];
    metric(
        "info",
        "gauge",
        "The agent; the value is always 1.",
        &[(format!("{{mode=\"{}\"}}", report.mode), "1".to_owned())],
    );
    metric("uptime_seconds", "gauge", "Since the agent's start.", &seconds(report.uptime_ns));
    metric("processes", "gauge", "Processes with pages.", &plain(report.processes.len() as u64));
    metric("workers", "gauge", "Registered worker threads.", &plain(report.workers() as u64));
    let by = |label: &str, counts: &std::collections::BTreeMap<String, u64>| -> Vec<(String, String)> {
        counts.iter().map(|(value, count)| (format!("{{{label}=\"{value}\"}}"), count.to_string())).collect()
    };
    metric("hints_total", "counter", "Hints given.", &by("reason", &totals.hints));
    let outcomes = [("taken", totals.taken), ("ignored", totals.ignored), ("moot", totals.moot)]
        .map(|(outcome, count)| (format!("{{outcome=\"{outcome}\"}}"), count.to_string()));
    metric("hints_ended_total", "counter", "What became of hints.", &outcomes);
    metric("hint_latency_seconds", "histogram", "From a hint to the yield.", &histogram(&totals));
    metric("off_cpu_seconds_total", "counter", "Time workers were off the CPU.", &seconds(totals.off_cpu_ns));
    let waited = seconds(totals.runqueue_wait_ns);
    metric("runqueue_wait_seconds_total", "counter", "Time workers could run but had no CPU.", &waited);
    let switches = plain(totals.involuntary_switches);
    metric("involuntary_switches_total", "counter", "Times a worker was switched out while it could run.", &switches);
    metric("escalations_total", "counter", "Slices ended by consent.", &plain(totals.escalations));
    metric("refused_total", "counter", "Requests refused.", &by("reason", &report.refused));
    text
}

/// Cumulative buckets with the sum and the count. The upper ends are the powers of two that the programs count by.
fn histogram(totals: &Totals) -> Vec<(String, String)> {
    let counts = totals.histogram().0;
    let mut seen = 0;
    let mut samples = Vec::new();
    // 1 µs and below in one bucket; above, one each: 22 lines.
    for (bucket, count) in counts.iter().enumerate().take(counts.len() - 1) {
        seen += count;
        if bucket >= 9 {
            let end = (2u64 << bucket) as f64 / 1e9;
            samples.push((format!("_bucket{{le=\"{end}\"}}"), seen.to_string()));
        }
    }
    let count: u64 = counts.iter().sum();
    samples.push(("_bucket{le=\"+Inf\"}".to_owned(), count.to_string()));
    samples.push(("_sum".to_owned(), format!("{}", totals.latency_sum_ns as f64 / 1e9)));
    samples.push(("_count".to_owned(), count.to_string()));
    samples
}

/// Gives out the metrics of the agent at `socket` until the process ends, from a thread of its own. Returns the address,
/// which has the true port when 0 was asked for.
///
/// # Errors
/// When the address is not this machine's loopback, or is taken.
pub fn serve(address: SocketAddr, socket: PathBuf) -> anyhow::Result<SocketAddr> {
    anyhow::ensure!(address.ip().is_loopback(), "metrics are given out on loopback only, and {} is not", address.ip());
    let listener =
        std::net::TcpListener::bind(address).with_context(|| format!("cannot give out metrics at {address}"))?;
    let bound = listener.local_addr().context("cannot learn the metrics' port")?;
    listener.set_nonblocking(true).context("cannot prepare the metrics' socket")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Reports are made in blocking threads; a few at once are enough.
        .max_blocking_threads(4)
        .build()
        .context("cannot start the metrics' server")?;
    let serving = move || {
        runtime.block_on(async move {
            let scrape = move || {
                let socket = socket.clone();
                async move {
                    match tokio::task::spawn_blocking(move || operator::ask(&socket)).await {
                        Ok(Ok(report)) => {
                            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], render(&report)).into_response()
                        }
                        failed => {
                            tracing::warn!(?failed, "cannot make metrics");
                            (StatusCode::SERVICE_UNAVAILABLE, "no report\n").into_response()
                        }
                    }
                }
            };
            let listener = tokio::net::TcpListener::from_std(listener)?;
            axum::serve(listener, Router::new().route("/metrics", get(scrape))).await
        })
    };
    std::thread::Builder::new()
        .name("metrics".to_owned())
        .spawn(move || {
            if let Err(error) = serving() {
                tracing::error!(%error, "no metrics any more");
            }
        })
        .context("cannot start the metrics' thread")?;
    Ok(bound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::busy;

    #[test]
    fn the_metrics_are_those_of_the_report() {
        insta::assert_snapshot!(render(&busy()));
    }

    #[test]
    fn metrics_leave_the_machine_at_no_address() {
        let error = serve(([0, 0, 0, 0], 0).into(), PathBuf::new()).unwrap_err();
        assert!(error.to_string().contains("loopback only"), "{error}");
    }
}
