//! `holm init`: a manifest to start from.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use holm_api::Problem;
use holm_manifest::{AppName, HealthCheck, HealthProbe, Manifest, Memory, Process, ProcessName, Route, RouteMatch};
use serde::Serialize;

use crate::args::Init;
use crate::exit::{Exit, Failure};
use crate::output::Output;

#[derive(Serialize)]
struct Written {
    file: String,
    app: AppName,
}

pub(crate) fn run(init: &Init, out: &Output) -> Result<(), Failure> {
    let app = match &init.name {
        Some(name) => name.clone(),
        None => name_of_this_folder()?,
    };
    let text = manifest(&app, init.image.as_deref(), init.port)?.to_toml();
    // What is written must be what is read: an image's name comes from the command line unchecked.
    Manifest::parse(&text, &init.file.display().to_string())?;
    let mut open = OpenOptions::new();
    let written = open.write(true).create_new(true).open(&init.file).and_then(|mut f| f.write_all(text.as_bytes()));
    written.map_err(|error| {
        let problem = Problem::failed(format!("cannot write `{}`", init.file.display())).because(&error);
        match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Failure::new(Exit::Refused, problem.hint("edit it, or write another one with `-f FILE`"))
            }
            _ => Failure::new(Exit::Failed, problem),
        }
    })?;
    let written = Written { file: init.file.display().to_string(), app };
    out.show("init", &written, |w| format!("wrote {} for the app `{}`; deploy it with `holm deploy`\n", w.file, w.app))
}

/// The manifest of an app with one process type, `web`.
fn manifest(app: &AppName, image: Option<&str>, port: Option<u16>) -> Result<Manifest, Failure> {
    let web = ProcessName::new("web").map_err(|error| Failure::usage(error.to_string()))?;
    let health = port.map(|port| HealthCheck {
        probe: HealthProbe::Tcp { port },
        interval_ms: 2000,
        timeout_ms: 2000,
        startup_ms: 60_000,
        failures: 3,
    });
    let process = Process { health, ..Process::new(Memory::from_mib(256)) };
    let route =
        port.map(|port| Route { on: RouteMatch::TcpPort(port), process: web.clone(), port, proxy_protocol: false });
    Ok(Manifest {
        image: image.map(str::to_owned),
        routes: route.into_iter().collect(),
        ..Manifest::new(app.clone(), BTreeMap::from([(web, process)]))
    })
}

fn name_of_this_folder() -> Result<AppName, Failure> {
    let folder = std::env::current_dir()?;
    let name = folder.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    AppName::new(plain.trim_matches('-')).map_err(|error| {
        let folder = Path::new(&name).display();
        Failure::new(Exit::Usage, Problem::bad_request(format!("`{folder}` cannot be the app's name")).because(error))
            .hint("name it: `holm init APP`")
    })
}
