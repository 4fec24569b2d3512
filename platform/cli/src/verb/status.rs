//! `holm status`, `ps` and `releases`: pictures of the state.

use holm_api::view::{self, AppView, CrashView, DiskView, InstanceView, Progress, ReleaseView};
use holm_model::id::AppKey;
use holm_model::report::Phase;
use holm_model::state::Host;
use jiff::Timestamp;
use serde::Serialize;

use super::Context;
use super::route::{no_app, routes_table};
use crate::args::{NamedApp, Ps};
use crate::exit::Failure;
use crate::output::{Output, harmless};
use crate::table::{ago, size, table};

#[derive(Serialize)]
struct Status {
    host: Option<Host>,
    /// Disk that is promised; `null` where nobody has said how much there is.
    disk: Option<DiskView>,
    apps: Vec<AppView>,
    /// The instances that have not ended; only when one app was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    instances: Option<Vec<InstanceView>>,
}

pub(crate) async fn status(app: &NamedApp, context: &Context<'_>) -> Result<(), Failure> {
    let out = context.out;
    let app = app.resolve_if_named()?;
    // Also for one app: what its host has free depends on the others.
    let state = context.client.state(None).await?;
    let disk = DiskView::of(&state);
    let Some(app) = app else {
        let apps = state.apps.keys().filter_map(|key| AppView::of(&state, key, out.now)).collect();
        let status = Status { host: state.site.host, disk, apps, instances: None };
        return out.show("status", &status, |status| overview(status, out.now));
    };
    let one = AppView::of(&state, &app, out.now).ok_or_else(|| no_app(&app))?;
    let instances = view::instances(&state, Some(&app), false);
    let status = Status { host: state.site.host, disk, apps: vec![one], instances: Some(instances) };
    out.show("status", &status, |status| {
        let instances = status.instances.as_deref().unwrap_or_default();
        status.apps.iter().map(|app| one_app(app, instances, out)).collect()
    })
}

fn overview(status: &Status, now: Timestamp) -> String {
    let host = status.host.as_ref().map_or_else(String::new, |host| {
        let since = ago(host.since, now);
        format!("holm {}, {}, {} network, started {since}\n", host.version, host.acceleration, host.network)
    });
    let disk = status.disk.map_or_else(String::new, |DiskView { promised, cap }| {
        format!("disk: {} of {} promised to volumes, snapshots and logs\n", size(promised), size(cap))
    });
    let host = format!("{host}{disk}");
    if status.apps.is_empty() {
        return format!("{host}no apps yet; write a manifest with `holm init` and bring it out with `holm deploy`\n");
    }
    let rows: Vec<Vec<String>> = status.apps.iter().map(|app| app_row(app, now)).collect();
    format!("{host}\n{}", table(&["APP", "RELEASE", "HEALTHY", "ROUTES", "STATE"], &rows))
}

fn app_row(app: &AppView, now: Timestamp) -> Vec<String> {
    let healthy: u32 = app.processes.iter().map(|process| process.healthy).sum();
    let wanted: u32 = app.processes.iter().map(|process| process.wanted).sum();
    let routes: Vec<String> = app.routes.iter().map(|route| route.route.on.to_string()).collect();
    let release = app.release.as_ref().map_or_else(|| "-".to_owned(), |release| release.release.to_string());
    vec![app.app.to_string(), release, format!("{healthy}/{wanted}"), routes.join(" "), app_state(app, now)]
}

/// The state of an app in a few words.
fn app_state(app: &AppView, now: Timestamp) -> String {
    if app.destroyed {
        return "being destroyed".to_owned();
    }
    let deployment = app.deployment.as_ref();
    let short: u32 = app.processes.iter().map(|p| p.wanted.saturating_sub(p.healthy + p.done)).sum();
    match deployment.map(|deployment| (deployment.status, deployment)) {
        Some((Progress::Preparing, d)) => format!("{} prepares its image", d.deployment),
        Some((Progress::RollingOut, d)) => format!("{} rolls out", d.deployment),
        _ if app.stopped => "stopped".to_owned(),
        Some((Progress::Failed, d)) => {
            format!("{} failed {}", d.deployment, d.ended_at.map(|at| ago(at, now)).unwrap_or_default())
        }
        _ if app.processes.iter().any(|process| process.crash_loop.is_some()) => {
            let looping = app.processes.iter().filter(|process| process.crash_loop.is_some());
            let names: Vec<String> = looping.map(|process| process.process.to_string()).collect();
            format!("crash loop: {}", names.join(", "))
        }
        _ if app.processes.iter().any(|process| process.waiting.is_some()) => "waits for memory".to_owned(),
        _ if short > 0 => format!("{short} not healthy"),
        _ => "ok".to_owned(),
    }
}

fn one_app(app: &AppView, instances: &[InstanceView], out: &Output) -> String {
    let mut text = format!("{}: {}\n", out.bold(&app.app.to_string()), app_state(app, out.now));
    match &app.release {
        Some(release) => text.push_str(&format!(
            "  release     {} {}, made {} by {}\n",
            release.release,
            release.reference,
            ago(release.created_at, out.now),
            release.created_by
        )),
        None => text.push_str("  release     none serves yet\n"),
    }
    if let Some(deployment) = &app.deployment {
        let at = ago(deployment.ended_at.unwrap_or(deployment.requested_at), out.now);
        let (number, status) = (deployment.deployment, deployment.status.as_str().replace('_', " "));
        text.push_str(&format!("  deployment  {number} {status} {at}, asked for by {}\n", deployment.actor));
        if let Some(why) = &deployment.why {
            text.push_str(&format!("              {}\n", harmless(why)));
        }
    }
    for process in &app.processes {
        let by_hand = if process.scaled { ", scaled by hand" } else { "" };
        let (name, healthy, wanted) = (&process.process, process.healthy, process.wanted);
        let done = if process.done > 0 { format!(", {} done", process.done) } else { String::new() };
        text.push_str(&format!("  process     {name}: {healthy} of {wanted} healthy{done}{by_hand}\n"));
        if let Some(crash) = &process.crash_loop {
            text.push_str(&format!("              {}\n", harmless(&crash_line(crash, out.now))));
        }
        if let Some(room) = &process.waiting {
            text.push_str(&format!("              {room}\n"));
        }
    }
    if !app.routes.is_empty() {
        text.push_str(&format!("\n{}", routes_table(&app.routes)));
    }
    if !instances.is_empty() {
        text.push_str(&format!("\n{}", instances_table(instances, out.now)));
    }
    text
}

/// A crash loop in one line.
pub(crate) fn crash_line(crash: &CrashView, now: Timestamp) -> String {
    let next = match crash.next_try {
        Some(at) => format!("the next try is in {} s", at.duration_since(now).as_secs().max(0) + 1),
        None => "another one is being tried".to_owned(),
    };
    let CrashView { deaths, newest, cause, .. } = crash;
    format!("crash loop: {deaths} died in a row, the newest, {newest}, {cause}; {next}")
}

#[derive(Serialize)]
struct Instances {
    instances: Vec<InstanceView>,
}

pub(crate) async fn ps(ps: &Ps, context: &Context<'_>) -> Result<(), Failure> {
    let out = context.out;
    let app: Option<AppKey> = ps.app.resolve_if_named()?;
    let state = context.client.state(app.as_ref()).await?;
    if let Some(app) = app.as_ref().filter(|app| !state.apps.contains_key(app)) {
        return Err(no_app(app).into());
    }
    let body = Instances { instances: view::instances(&state, app.as_ref(), ps.all) };
    out.show("ps", &body, |body| instances_table(&body.instances, out.now))
}

fn instances_table(instances: &[InstanceView], now: Timestamp) -> String {
    let row = |instance: &InstanceView| {
        let detail = match (&instance.end, &instance.detail, &instance.retired) {
            (Some(end), _, _) => end.cause.to_string(),
            (None, Some(detail), _) => detail.clone(),
            (None, None, Some(retired)) => retired.clone(),
            (None, None, None) => String::new(),
        };
        let phase = match (&instance.retired, instance.phase) {
            (Some(_), Phase::Healthy | Phase::Unhealthy | Phase::Starting) => "going".to_owned(),
            (_, phase) => phase.to_string(),
        };
        let since = ago(instance.since, now);
        vec![instance.instance.to_string(), instance.release.to_string(), phase, since, harmless(&detail)]
    };
    let rows: Vec<Vec<String>> = instances.iter().map(row).collect();
    table(&["INSTANCE", "RELEASE", "PHASE", "SINCE", "DETAIL"], &rows)
}

#[derive(Serialize)]
struct Releases {
    app: AppKey,
    releases: Vec<ReleaseView>,
}

pub(crate) async fn releases(app: &NamedApp, context: &Context<'_>) -> Result<(), Failure> {
    let out = context.out;
    let app = app.resolve()?;
    let state = context.client.state(Some(&app)).await?;
    if !state.apps.contains_key(&app) {
        return Err(no_app(&app).into());
    }
    let body = Releases { releases: view::releases(&state, &app), app };
    out.show("releases", &body, |body| {
        let row = |release: &ReleaseView| {
            let state = match (release.current, release.proven) {
                (true, _) => "serves",
                (false, true) => "was healthy",
                (false, false) => "never healthy",
            };
            let made = ago(release.created_at, out.now);
            let (by, image) = (release.created_by.clone(), release.reference.clone());
            vec![release.release.to_string(), state.to_owned(), made, by, image]
        };
        let rows: Vec<Vec<String>> = body.releases.iter().map(row).collect();
        table(&["RELEASE", "STATE", "MADE", "BY", "IMAGE"], &rows)
    })
}
