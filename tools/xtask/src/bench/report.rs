//! What came out: a table for people, a document with the raw samples for programs.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};

use super::machine::Machine;
use super::reach::{Reach, Reaches};
use super::samples::Samples;

/// One figure as it was measured.
#[derive(Debug)]
pub(super) struct Measured {
    /// Its name in the file of limits.
    pub(super) name: &'static str,
    /// The value that is held against its limit, in the unit of the limit.
    pub(super) value: f64,
    /// How it came about, in a line.
    pub(super) how: String,
    /// Everything that was measured for it, by what it is; names end with the unit.
    pub(super) samples: BTreeMap<String, Samples>,
}

/// The outcome of one run.
#[derive(Debug)]
pub(super) struct Report {
    schema: &'static str,
    machine: Machine,
    figures: Vec<(Reach, Measured)>,
}

impl Report {
    /// Holds what was measured against what should be reached.
    pub(super) fn new(
        schema: &'static str,
        reaches: &Reaches,
        machine: Machine,
        measured: Vec<Measured>,
    ) -> Result<Self> {
        let figures = measured.into_iter().map(|one| Ok((reaches.of(one.name)?.clone(), one)));
        Ok(Self { schema, machine, figures: figures.collect::<Result<_>>()? })
    }

    /// How many figures are not reached.
    pub(super) fn not_reached(&self) -> usize {
        self.figures.iter().filter(|(reach, one)| !reach.is_reached_by(one.value)).count()
    }

    /// The table, in Markdown.
    pub(super) fn table(&self) -> String {
        let Machine { processor, cpus, memory_mib, kernel, qemu, load_before } = &self.machine;
        let mut text = format!(
            "{cpus} \u{d7} {processor}, {memory_mib} MiB, Linux {kernel}, {qemu}; load before: {load_before}\n\n\
             | figure | reach | measured | verdict | how |\n| --- | --- | --- | --- | --- |\n"
        );
        for (reach, one) in &self.figures {
            let (value, unit) = (digits(one.value), &reach.unit);
            text += &format!(
                "| {} | {} | {value} {unit} | {} | {} |\n",
                reach.what,
                reach.limit(),
                verdict(reach, one),
                one.how
            );
        }
        text
    }

    /// The document.
    pub(super) fn document(&self) -> Value {
        let figure = |(reach, one): &(Reach, Measured)| {
            json!({
                "name": one.name,
                "what": reach.what,
                "unit": reach.unit,
                "at_most": reach.at_most,
                "at_least": reach.at_least,
                "measured": one.value,
                "reached": reach.is_reached_by(one.value),
                "how": one.how,
                "samples": one.samples,
            })
        };
        json!({
            "schema": self.schema,
            "machine": self.machine,
            "figures": self.figures.iter().map(figure).collect::<Vec<_>>(),
        })
    }
}

fn verdict(reach: &Reach, one: &Measured) -> &'static str {
    if reach.is_reached_by(one.value) { "reached" } else { "not reached" }
}

/// Three significant digits, or all before the point.
fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        value if value >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}
