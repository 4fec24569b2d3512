//! `holm plan`: what a deploy would change, without doing it.

use std::collections::BTreeMap;

use holm_api::view::{NoDisk, NoRoom};
use holm_manifest::{Manifest, Route, Strategy};
use holm_model::id::{AppKey, Digest, InstanceName, ReleaseNumber};
use holm_model::state::{State, manifest_hash};
use serde::Serialize;
use serde_json::Value;

use super::Context;
use super::deploy::{Wish, wish};
use crate::args;
use crate::exit::Failure;
use crate::output::harmless;

/// What a deploy would do.
#[derive(Serialize)]
struct Plan {
    app: AppKey,
    image: String,
    /// The image's digest where its name fixes it; `null`: it is looked up when the image is deployed.
    digest: Option<Digest>,
    /// The release that serves now.
    current: Option<ReleaseNumber>,
    /// Whether anything would change; `null`: it depends on the digest.
    changes: Option<bool>,
    /// The fields of the manifest that differ from the current release's.
    manifest: Vec<Difference>,
    /// The instances that would be replaced, if anything changes.
    replaced: Vec<InstanceName>,
    /// Those of them that end before their successors start, since they have a volume.
    stop_first: Vec<InstanceName>,
    /// The version of the secrets that would come into service; `null`: it serves already, or there is none.
    secrets: Option<u64>,
    routes_added: Vec<String>,
    routes_removed: Vec<String>,
    /// How the new instances take the place of the old ones.
    strategy: Strategy,
    /// What would run once before the first new instance.
    release_command: Option<Vec<String>>,
    /// Why the host could not hold it; `null`: it could.
    no_room: Option<NoRoom>,
    /// Why its disk could not hold it; `null`: it could.
    no_disk: Option<NoDisk>,
}

/// A field that differs.
#[derive(Serialize)]
struct Difference {
    field: String,
    from: Option<Value>,
    to: Option<Value>,
}

pub(crate) async fn run(args: &args::Plan, context: &Context<'_>) -> Result<(), Failure> {
    let wish = wish(args)?;
    // Also of the others: what is free for this app depends on them.
    let state = context.client.state(None).await?;
    context.out.show("plan", &plan(&state, wish), render)
}

fn plan(state: &State, wish: Wish) -> Plan {
    let Wish { app, image, manifest } = wish;
    let manifest = manifest.manifest();
    let current = state.apps.get(&app).and_then(|doc| doc.current);
    let release = current.and_then(|number| state.release(&app, number));
    let digest: Option<Digest> = image.rsplit_once('@').and_then(|(_, digest)| digest.parse().ok());
    let same_manifest = release.is_some_and(|release| release.manifest_hash == manifest_hash(manifest));
    let same_image = release.and_then(|release| Some(release.digest == *digest.as_ref()?));
    let staged = state.apps.get(&app).filter(|doc| !doc.secrets.is_served());
    let secrets = staged.and_then(|doc| doc.secrets.newest.as_ref()).map(|version| version.number);
    let changes = match (same_manifest && secrets.is_none(), same_image) {
        (true, Some(same)) => Some(!same),
        (true, None) => None,
        (false, _) => Some(true),
    };
    let live: Vec<_> = state.instances_of(&app).filter(|(_, i)| i.is_live() && changes != Some(false)).collect();
    let with_volume = live.iter().filter(|(name, i)| holm_planner::gives_way(state, manifest, name, i));
    let stop_first: Vec<InstanceName> = with_volume.map(|(name, _)| (*name).clone()).collect();
    let replaced = live.iter().map(|(name, _)| (*name).clone()).collect();
    let routes = |manifest: &Manifest| -> Vec<String> {
        let routes = manifest.routes_in(&app.env).iter();
        let told = |route: &Route| if route.proxy_protocol { ", with a PROXY header" } else { "" };
        routes.map(|r| format!("{} to port {} of `{}`{}", r.on, r.port, r.process, told(r))).collect()
    };
    let (before, after) = (release.map(|release| routes(&release.manifest)).unwrap_or_default(), routes(manifest));
    let without = |of: &[String], other: &[String]| of.iter().filter(|r| !other.contains(r)).cloned().collect();
    let doc = state.apps.get(&app).cloned().unwrap_or_default();
    Plan {
        digest,
        current,
        changes,
        manifest: release.map(|release| differences(&release.manifest, manifest)).unwrap_or_default(),
        replaced,
        stop_first,
        secrets,
        routes_added: without(&after, &before),
        routes_removed: without(&before, &after),
        strategy: manifest.strategy,
        release_command: manifest.release.as_ref().filter(|_| changes != Some(false)).map(|r| r.command.clone()),
        no_room: holm_planner::fits(state, &app, &doc, manifest, true).err().map(NoRoom::from),
        no_disk: holm_planner::fits_disk(state, &app, &doc, Some(manifest)).err().map(NoDisk::from),
        app,
        image,
    }
}

/// The leaves of two manifests that differ, by path.
fn differences(from: &Manifest, to: &Manifest) -> Vec<Difference> {
    let leaves = |manifest: &Manifest| {
        let mut found = BTreeMap::new();
        if let Ok(value) = serde_json::to_value(manifest) {
            collect_leaves(String::new(), value, &mut found);
        }
        found
    };
    let (from, to) = (leaves(from), leaves(to));
    let fields: std::collections::BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let differing = fields.into_iter().filter(|field| from.get(*field) != to.get(*field));
    let difference = |field: &String| Difference {
        field: field.clone(),
        from: from.get(field).cloned(),
        to: to.get(field).cloned(),
    };
    differing.map(difference).collect()
}

fn collect_leaves(path: String, value: Value, found: &mut BTreeMap<String, Value>) {
    match value {
        // Routes are told apart from the rest, by what they match.
        Value::Array(_) if path == "routes" => {}
        Value::Object(fields) => {
            for (name, value) in fields {
                let inner = if path.is_empty() { name } else { format!("{path}.{name}") };
                collect_leaves(inner, value, found);
            }
        }
        leaf => drop(found.insert(path, leaf)),
    }
}

fn render(plan: &Plan) -> String {
    let app = &plan.app;
    let mut text = match (plan.current, plan.changes) {
        (None, _) => format!("{app} would get its first release\n"),
        (Some(current), Some(false)) => return format!("{app} is at {current} already: nothing would change\n"),
        (Some(current), Some(true)) => format!("{app} would get a new release after {current}\n"),
        (Some(current), None) => format!("{app} would get a new release after {current} if the image has changed\n"),
    };
    let digest = plan.digest.as_ref().map_or("looked up when it is deployed", Digest::as_str);
    text.push_str(&format!("  image   {}\n  digest  {digest}\n", harmless(&plan.image)));
    let shown = |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), Value::to_string);
    let mut block = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            text.push_str(&format!("\n{title}\n"));
            lines.iter().for_each(|line| text.push_str(&format!("  {}\n", harmless(line))));
        }
    };
    let fields = plan.manifest.iter().map(|d| format!("{}: {} \u{2192} {}", d.field, shown(&d.from), shown(&d.to)));
    block("manifest:", fields.collect());
    block("secrets:", plan.secrets.iter().map(|version| format!("version {version} comes into service")).collect());
    block("routes added:", plan.routes_added.clone());
    block("routes removed:", plan.routes_removed.clone());
    block("runs once before:", plan.release_command.iter().map(|command| command.join(" ")).collect());
    let replaced = match plan.strategy {
        Strategy::Rolling => "instances replaced, one after the other:",
        Strategy::BlueGreen => "instances replaced, all at once:",
    };
    let beside = plan.replaced.iter().filter(|name| !plan.stop_first.contains(name));
    block(replaced, beside.map(ToString::to_string).collect());
    let stop_first = plan.stop_first.iter().map(ToString::to_string).collect();
    block("instances that end before their successors start, since each has a volume:", stop_first);
    if let Some(room) = &plan.no_room {
        text.push_str(&format!("\nit would be refused: {room}\n"));
    }
    if let Some(disk) = &plan.no_disk {
        text.push_str(&format!("\nit would be refused: {disk}\n"));
    }
    text
}
