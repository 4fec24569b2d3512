//! From a [`Manifest`] back to the text of a `holm.toml`: what `holm init` writes.

use std::collections::BTreeMap;

use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, Value, value};

use crate::model::{HealthCheck, HealthProbe, Manifest, Process, Route, RouteMatch, StopPolicy};
use crate::parse::SCHEMA;
use crate::rollout::{items, restart_item};
use crate::secret::secrets_table;
use crate::unit::{format_duration_ms, format_memory};
use crate::volume::{mounts_table, volume_table};

impl Manifest {
    /// The manifest as a `holm.toml`, which [`Manifest::parse`] reads back as an equal one.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut document = DocumentMut::new();
        document["schema"] = value(i64::from(SCHEMA));
        document["app"] = value(self.app.as_str());
        if let Some(image) = &self.image {
            document["image"] = value(image);
        }
        let processes =
            self.processes.iter().map(|(name, process)| (name.as_str(), Item::Table(process_table(process))));
        document["process"] = implicit(processes);
        for (name, item) in items(self) {
            document[name] = item;
        }
        if !self.volumes.is_empty() {
            let volumes = self.volumes.iter().map(|(name, volume)| (name.as_str(), Item::Table(volume_table(volume))));
            document["volume"] = implicit(volumes);
        }
        if !self.routes.is_empty() {
            document["route"] = routes_item(&self.routes);
        }
        if !self.ingress.is_default() {
            document["ingress"] = Item::Table(self.ingress.to_table());
        }
        if !self.config.is_empty() {
            document["config"] = Item::Table(config_table(&self.config));
        }
        if !self.secrets.is_empty() {
            document["secrets"] = Item::Table(secrets_table(&self.secrets));
        }
        if !self.environments.is_empty() {
            let environments = self.environments.iter().map(|(name, environment)| {
                let mut table = Table::new();
                if !environment.instances.is_empty() {
                    let counts = environment.instances.iter().map(|(process, n)| (process.as_str(), i64::from(*n)));
                    table["instances"] = value(counts.collect::<InlineTable>());
                }
                match environment.routes.as_deref() {
                    Some([]) => table["route"] = value(Array::new()),
                    Some(routes) => table["route"] = routes_item(routes),
                    None => {}
                }
                if !environment.config.is_empty() {
                    table["config"] = Item::Table(config_table(&environment.config));
                }
                (name.as_str(), Item::Table(table))
            });
            document["environment"] = implicit(environments);
        }
        document.to_string()
    }
}

/// A table that has only tables and needs no head of its own.
fn implicit<'n>(entries: impl Iterator<Item = (&'n str, Item)>) -> Item {
    let mut table = Table::new();
    table.set_implicit(true);
    for (name, item) in entries {
        table.insert(name, item);
    }
    Item::Table(table)
}

fn process_table(process: &Process) -> Table {
    let mut table = Table::new();
    if let Some(command) = &process.command {
        table["command"] = value(Array::from_iter(command));
    }
    table["cpu"] = if process.cpu_millis.is_multiple_of(1000) {
        value(i64::from(process.cpu_millis / 1000))
    } else {
        value(f64::from(process.cpu_millis) / 1000.0)
    };
    table["memory"] = value(format_memory(process.memory));
    table["instances"] = value(i64::from(process.instances));
    if !process.mounts.is_empty() {
        table["mounts"] = value(mounts_table(&process.mounts));
    }
    if let Some(health) = &process.health {
        table["health"] = Item::Table(health_table(health));
    }
    if process.stop != StopPolicy::default() {
        table["stop"] = Item::Table(stop_table(&process.stop));
    }
    if let Some(item) = restart_item(process.restart) {
        table["restart"] = item;
    }
    table
}

fn health_table(health: &HealthCheck) -> Table {
    let mut table = Table::new();
    match &health.probe {
        HealthProbe::Tcp { port } => {
            table["tcp"] = value(InlineTable::from_iter([("port", i64::from(*port))]));
        }
        HealthProbe::Http { port, path } => {
            let fields = [("port", Value::from(i64::from(*port))), ("path", Value::from(path))];
            table["http"] = value(InlineTable::from_iter(fields));
        }
        HealthProbe::Exec { command } => table["exec"] = value(Array::from_iter(command)),
    }
    table["interval"] = value(format_duration_ms(health.interval_ms));
    table["timeout"] = value(format_duration_ms(health.timeout_ms));
    table["startup"] = value(format_duration_ms(health.startup_ms));
    table["failures"] = value(i64::from(health.failures));
    table
}

fn stop_table(stop: &StopPolicy) -> Table {
    let mut table = Table::new();
    if let Some(signal) = &stop.signal {
        table["signal"] = value(signal);
    }
    table["grace"] = value(format_duration_ms(stop.grace_ms));
    table["drain"] = value(format_duration_ms(stop.drain_ms));
    table
}

fn routes_item(routes: &[Route]) -> Item {
    let mut tables = ArrayOfTables::new();
    for route in routes {
        let mut table = Table::new();
        table["process"] = value(route.process.as_str());
        table["port"] = value(i64::from(route.port));
        match &route.on {
            RouteMatch::TcpPort(port) => table["listen"] = value(i64::from(*port)),
            RouteMatch::Sni(name) => table["sni"] = value(name),
        }
        if route.proxy_protocol {
            table["proxy_protocol"] = value(true);
        }
        tables.push(table);
    }
    Item::ArrayOfTables(tables)
}

fn config_table(config: &BTreeMap<String, String>) -> Table {
    config.iter().map(|(name, text)| (name.as_str(), value(text))).collect()
}
