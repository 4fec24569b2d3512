//! The event log: `holm_control`'s example `measure`, run as a release build.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use super::report::Measured;
use crate::build;
use crate::command::{command, output};
use crate::workspace::target;

/// Measures.
pub(super) fn measure() -> Result<Vec<Measured>> {
    println!("log: appends one at a time and many at once, and the start with 50 apps and 100,000 events");
    let program = build::release_example("holm-control", "measure", None)?;
    let report: Value = serde_json::from_str(&output(&mut command::<&str>(&target(), program, &[]))?)?;
    let figure = |name: &'static str, field: &str, how: String| -> Result<Measured> {
        let value = report[field].as_f64().with_context(|| format!("no {field} in {report}"))?;
        Ok(Measured { name, value, how, samples: BTreeMap::new() })
    };
    let said = |field: &str| report[field].as_f64().unwrap_or(f64::NAN);
    Ok(vec![
        figure(
            "append-p50",
            "append_p50_ms",
            format!("1,000 commands one after the other; p99 {:.1} ms", said("append_p99_ms")),
        )?,
        figure("append-group", "append_per_s", "50 at once, each waiting for its own".to_owned())?,
        figure(
            "recovery",
            "open_ms",
            format!(
                "{:.0} events and {:.0} documents, {:.0} MiB; replaying it all takes {:.0} ms",
                said("events"),
                said("documents"),
                said("mib"),
                said("verify_ms")
            ),
        )?,
    ])
}
