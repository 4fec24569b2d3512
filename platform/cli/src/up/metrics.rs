//! Figures of host, instances and ingress in the text form of Prometheus, and the endpoint they are scraped from.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use holm_api::Backend;
use holm_api::server::METRICS_TYPE;
use holm_model::report::Phase;
use holm_planner::{Disk, Room};
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::backend::Host;

/// Connections to the endpoint at a time.
const MAX_SCRAPES: usize = 16;
/// Longest time of one scrape.
const SCRAPE: Duration = Duration::from_secs(20);
/// Rest after a connection could not be accepted.
const REST: Duration = Duration::from_millis(100);

/// Labels of one figure.
type Labels = Vec<(&'static str, String)>;

/// One family of figures, as it is now.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    unit: Option<Unit>,
    values: Vec<(Labels, u64)>,
}

/// All families of one moment.
#[derive(Debug)]
struct Snapshot(Vec<Family>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for family in &self.0 {
            let mut metric = encoder.encode_descriptor(family.name, family.help, family.unit.as_ref(), family.kind)?;
            for (labels, value) in &family.values {
                let one = metric.encode_family(labels)?;
                match family.kind {
                    MetricType::Counter => ConstCounter::new(*value).encode(one)?,
                    _ => ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX)).encode(one)?,
                }
            }
        }
        Ok(())
    }
}

fn gauge(name: &'static str, help: &'static str, unit: Option<Unit>, values: Vec<(Labels, u64)>) -> Family {
    Family { name, help, kind: MetricType::Gauge, unit, values }
}

fn counter(name: &'static str, help: &'static str, unit: Option<Unit>, values: Vec<(Labels, u64)>) -> Family {
    Family { name, help, kind: MetricType::Counter, unit, values }
}

fn alone(value: u64) -> Vec<(Labels, u64)> {
    vec![(Vec::new(), value)]
}

fn labels<const N: usize>(labels: [(&'static str, &dyn ToString); N]) -> Labels {
    labels.map(|(name, value)| (name, value.to_string())).to_vec()
}

/// Everything there is to tell now.
pub(super) async fn text(host: &Host) -> String {
    let mut families = of_host(host);
    families.extend(of_instances(host).await);
    families.extend(of_ingress(host).await);
    let mut registry = Registry::with_prefix("holm");
    registry.register_collector(Box::new(Snapshot(families)));
    let mut text = String::new();
    // Writing to memory does not fail.
    let _ = encode(&mut text, &registry);
    text
}

fn of_host(host: &Host) -> Vec<Family> {
    let state = host.control.state();
    let mut families = vec![
        gauge("build", "Which Holm runs", None, vec![(labels([("version", &env!("CARGO_PKG_VERSION"))]), 1)]),
        counter("events", "Events in the log", None, alone(state.seq.0)),
        gauge("apps", "Apps, each environment counted", None, alone(state.apps.len() as u64)),
        gauge("tokens", "Access tokens that were not revoked", None, alone(state.site.tokens.len() as u64)),
    ];
    if let Some(site) = &state.site.host {
        let about = labels([("acceleration", &site.acceleration), ("network", &site.network)]);
        families.push(gauge("host", "How microVMs run and are connected", None, vec![(about, 1)]));
    }
    let unit = || Some(Unit::Bytes);
    if let Some((taken, cap)) = Room::of(&state).figures() {
        families.push(gauge("memory_taken", "Memory that instances take at the most", unit(), alone(taken)));
        families.push(gauge("memory_cap", "Memory that instances may take together", unit(), alone(cap)));
    }
    if let Some((promised, cap)) = Disk::of(&state).figures() {
        families.push(gauge("disk_promised", "Disk promised to volumes, snapshots and logs", unit(), alone(promised)));
        families.push(gauge("disk_cap", "Disk that may be promised together", unit(), alone(cap)));
    }
    let under_way = state.apps.keys().filter(|app| state.active_deployment(app).is_some()).count();
    families.push(gauge("deployments_under_way", "Deployments that have not ended", None, alone(under_way as u64)));
    if let Ok(seen) = rustix::fs::statvfs(&host.state_dir) {
        let (free, size) = (seen.f_bavail * seen.f_frsize, seen.f_blocks * seen.f_frsize);
        families.push(gauge("state_folder_free", "Free space for the state", Some(Unit::Bytes), alone(free)));
        families.push(gauge("state_folder_size", "Size of the state's file system", Some(Unit::Bytes), alone(size)));
    }
    families
}

async fn of_instances(host: &Host) -> Vec<Family> {
    let state = host.control.state();
    let mut phases = std::collections::BTreeMap::<(String, String, &str), u64>::new();
    let mut live = Vec::new();
    for (name, instance) in &state.instances {
        let phase = match instance.phase {
            Phase::Ended => "ended",
            Phase::Healthy => "healthy",
            Phase::Unhealthy => "unhealthy",
            Phase::Stopping => "stopping",
            _ => "starting",
        };
        *phases.entry((name.app.to_string(), name.process.to_string(), phase)).or_default() += 1;
        if instance.end.is_none() {
            live.push(name.clone());
        }
    }
    let counts = phases.into_iter().map(|((app, process, phase), count)| {
        (labels([("app", &app), ("process", &process), ("phase", &phase)]), count)
    });
    let mut families = vec![gauge("instances", "Instances by phase", None, counts.collect())];
    let (mut cpu, mut memory, mut on_host, mut dropped) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let asked =
        live.iter().map(|name| async move { (name, host.live(name).await, host.agent.metrics(name).await.ok()) });
    for (name, seen, metrics) in join_all(asked).await {
        let about = labels([("app", &name.app), ("process", &name.process), ("instance", name)]);
        if let Some(metrics) = metrics {
            cpu.push((about.clone(), metrics.cpu_usec / 1000));
            memory.push((about.clone(), metrics.memory.current));
            dropped.push((about.clone(), metrics.logs_dropped));
        }
        if let Some(bytes) = seen.and_then(|seen| seen.host_memory) {
            on_host.push((about, bytes));
        }
    }
    let unit = || Some(Unit::Bytes);
    families.push(counter("instance_cpu_milliseconds", "Processor time of the app", None, cpu));
    families.push(gauge("instance_memory", "Memory of the app in its guest", unit(), memory));
    families.push(gauge("instance_host_memory", "Memory the microVM takes on the host", unit(), on_host));
    families.push(counter("instance_log_records_dropped", "Lines lost before Holm took them", None, dropped));
    families
}

async fn of_ingress(host: &Host) -> Vec<Family> {
    let Some(stats) = host.front.ingress().stats().await else { return Vec::new() };
    let reason = |refusal: &holm_ingress::Refusal| match serde_json::to_value(refusal) {
        Ok(serde_json::Value::String(reason)) => reason,
        _ => "other".to_owned(),
    };
    let (mut accepted, mut active, mut received, mut sent) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut failures, mut refused) = (Vec::new(), Vec::new());
    for (refusal, count) in &stats.refused {
        refused.push((labels([("route", &""), ("reason", &reason(refusal))]), *count));
    }
    for (route, of_route) in &stats.routes {
        let about = labels([("route", route)]);
        accepted.push((about.clone(), of_route.accepted));
        active.push((about.clone(), of_route.active as u64));
        received.push((about.clone(), of_route.bytes_in));
        sent.push((about.clone(), of_route.bytes_out));
        failures.push((about, of_route.connect_failures));
        for (refusal, count) in &of_route.refused {
            refused.push((labels([("route", route), ("reason", &reason(refusal))]), *count));
        }
    }
    let unit = || Some(Unit::Bytes);
    vec![
        counter("ingress_connections", "Connections accepted, refused ones included", None, alone(stats.accepted)),
        gauge("ingress_connections_open", "Connections open now", None, alone(stats.active as u64)),
        counter("ingress_accept_errors", "Connections that could not be accepted", None, alone(stats.accept_errors)),
        counter("ingress_refused", "Connections refused, by route and reason", None, refused),
        counter("ingress_route_connections", "Connections that reached the route", None, accepted),
        gauge("ingress_route_connections_open", "Connections open on the route", None, active),
        counter("ingress_route_received", "Bytes from clients", unit(), received),
        counter("ingress_route_sent", "Bytes to clients", unit(), sent),
        counter("ingress_route_connect_failures", "Instances that could not be reached", None, failures),
    ]
}

/// Answers `GET /metrics` on `listener` until `stop`.
pub(super) async fn serve(listener: TcpListener, host: Arc<Host>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_SCRAPES));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(REST).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (host, stop) = (Arc::clone(&host), stop.clone());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let host = Arc::clone(&host);
                async move { Ok::<_, Infallible>(answer(&host, &request).await) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(SCRAPE).keep_alive(false);
            let serving = http.serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                // A scraper that went away is no matter.
                _ = tokio::time::timeout(SCRAPE, serving) => {}
                () = stop.cancelled() => {}
            }
            drop(place);
        });
    }
}

async fn answer(host: &Host, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::new()));
    if request.method() == Method::GET && request.uri().path() == "/metrics" {
        *response.body_mut() = Full::new(text(host).await.into());
        response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(METRICS_TYPE));
    } else {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    response
}
