//! The privileged network on real microVMs: who reaches whom, and that nothing stays behind.
//!
//! Holm runs in a network namespace of the test's own, with another one as the outside. Two apps: `left` is busybox's
//! web server, from whose instances connections are tried; `right` is the example app, whose answers tell its instances
//! apart.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use holm_e2e::namespace::{HOST, OUTSIDE, WAN, World, missing};
use holm_e2e::{Batch, Test, run, skip, wait_for};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use xtask::client;
use xtask::images;
use xtask::workspace::cache;

const TESTS: [Test; 9] = [
    ("instances_reach_their_own_app_and_the_outside_only", instances_reach_their_own_app_and_the_outside_only),
    ("outside_reaches_instances_through_the_ingress_only", outside_reaches_instances_through_the_ingress_only),
    ("an_app_is_reached_over_ipv4_only_while_it_has_it", an_app_is_reached_over_ipv4_only_while_it_has_it),
    ("instances_find_their_own_app_by_name", instances_find_their_own_app_by_name),
    ("forwarding_host_still_follows_router_advertisements", forwarding_host_still_follows_router_advertisements),
    ("killed_holm_adopts_one_instance_and_clears_away_another", killed_holm_adopts_one_and_clears_away_another),
    (
        "image_whose_registry_has_no_address_fails_its_deployment_alone",
        image_whose_registry_has_no_address_fails_its_deployment_alone,
    ),
    ("stopped_app_leaves_no_tap_route_or_rule", stopped_app_leaves_no_tap_route_or_rule),
    ("destroyed_app_leaves_no_tap_route_or_rule", destroyed_app_leaves_no_tap_route_or_rule),
];

const END: Test = ("down_leaves_nothing_behind", down_leaves_nothing_behind);

/// An image whose registry's name does not resolve.
const LOST_IMAGE: &str = "registry.example/lost:1";

/// The port that both apps listen on, inside their instances.
const APP_PORT: u16 = 8080;

/// The port of the host that leads to `right`.
const RIGHT_PORT: u16 = 8200;

/// The port of the mirrors on the host and outside.
const MIRROR_PORT: u16 = 9000;

/// Prefixes that the router outside advertises before Holm starts, and later.
const EARLY: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0);
const LATE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 0);

/// An address behind the router that nobody has.
const NOWHERE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 9, 0, 0, 0, 9);

const LEFT_MANIFEST: &str = r#"schema = 1
app = "left"

[process.web]
memory = "64MiB"
instances = 2

[process.web.health]
tcp = { port = 8080 }
interval = "1s"

[process.web.stop]
grace = "2s"
drain = "1s"

[[route]]
process = "web"
port = 8080
listen = 8100
"#;

fn main() -> ExitCode {
    if let Some(why) = missing() {
        return skip(&why, &TESTS, END);
    }
    let up = ["--network", "privileged", "--accel", "tcg", "--sni-port", "8443"];
    let batch = World::new().and_then(|world| Ok(Batch::new(&up)?.in_world(world)));
    run(batch, begin, &TESTS, END)
}

fn begin(batch: &Batch) -> Result<()> {
    let world = batch.world()?;
    world.host.serve_mirror(MIRROR_PORT)?;
    world.outside.serve_mirror(MIRROR_PORT)?;
    // What a neighbour needs to try instances directly: Holm must stop it, not a missing route.
    let via = format!("{HOST}");
    world.outside.inside(|| command_in_thread("ip", &["-6", "route", "add", "fd00::/8", "via", &via]))??;
    world.advertise(EARLY, || has_address(world, EARLY))?;
    ensure!(forwarding(world)? == "0", "a new network namespace forwards");
    batch.begin()?;

    // Nobody answers for names in here. Holm goes on asking for half a minute, beside everything else.
    let lost = batch.site.manifest("lost", "schema = 1\napp = \"lost\"\n[process.web]\nmemory = \"64MiB\"\n")?;
    batch.site.ok(&["deploy", "--detach", LOST_IMAGE, "-f", &lost])?;

    let busybox = images::busybox(&cache(), &batch.path().join("busybox"))?;
    batch.site.ok(&["deploy", &busybox, "-f", &batch.site.manifest("left", LEFT_MANIFEST)?])?;
    let hello = images::hello(&batch.path().join("hello"), &batch.site.programs().hello)?;
    let manifest = images::hello_manifest(RIGHT_PORT, "hello").replace("app = \"hello\"", "app = \"right\"");
    let manifest = manifest.replace("instances = 1", "instances = 2");
    batch.site.ok(&["deploy", &hello, "-f", &batch.site.manifest("right", &manifest)?]).map(drop)
}

fn image_whose_registry_has_no_address_fails_its_deployment_alone(batch: &Batch) -> Result<()> {
    let ended = wait_for("the deployment to give up", || {
        let status = batch.site.json(&["status", "lost"])?;
        let deployment = &status["apps"][0]["deployment"];
        Ok((!deployment["ended_at"].is_null()).then(|| deployment.clone()))
    })?;
    let why = ended["why"].as_str().unwrap_or_default();
    ensure!(ended["status"] == "failed", "{ended}");
    ensure!(why.contains("registry.example") && why.contains("name"), "it does not say what has no address: {why}");
    // Both apps were brought out meanwhile, and serve.
    batch.world()?.host.inside(|| client::get(RIGHT_PORT, "/"))??;
    let refused = batch.site.run(&["logs", "lost"])?;
    ensure!(refused.stdout.is_empty(), "it has run: {refused:?}");
    Ok(())
}

fn command_in_thread(program: &str, arguments: &[&str]) -> Result<()> {
    let status = std::process::Command::new(program).args(arguments).status()?;
    ensure!(status.success(), "`{program} {}` failed", arguments.join(" "));
    Ok(())
}

/// A healthy instance.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Instance {
    name: String,
    pid: Pid,
    address: Ipv6Addr,
}

fn healthy(batch: &Batch, app: &str) -> Result<Vec<Instance>> {
    let shown = batch.site.json(&["ps"])?;
    let all = shown["instances"].as_array().with_context(|| format!("no instances in {shown}"))?;
    let of_app = |i: &&Value| i["instance"].as_str().is_some_and(|name| name.starts_with(&format!("{app}.")));
    let healthy = all.iter().filter(of_app).filter(|i| i["phase"] == "healthy" && i["retired"].is_null());
    let mut found = Vec::new();
    for instance in healthy {
        let name = instance["instance"].as_str().unwrap_or_default().to_owned();
        let explained = batch.site.json(&["explain", &name])?;
        let live = &explained["live"];
        // It may have ended since.
        let (Some(pid), Some(address)) = (live["pid"].as_i64(), live["address"].as_str()) else { continue };
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("not a process id")?;
        found.push(Instance { name, pid, address: address.parse()? });
    }
    Ok(found)
}

/// Both instances of an app.
fn both(batch: &Batch, app: &str) -> Result<[Instance; 2]> {
    wait_for("two healthy instances", || Ok(healthy(batch, app)?.try_into().ok()))
}

/// Gets a page from inside an instance; the error has what the client wrote. With `nc`, as wget of Debian's static
/// busybox crashes on an IPv6 address.
fn fetch(batch: &Batch, from: &Instance, address: Ipv6Addr, port: u16) -> Result<String> {
    let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} {port}");
    let answer = batch.site.ok(&["exec", &from.name, "--", "sh", "-c", &script])?;
    let (_, page) = answer.split_once("\r\n\r\n").with_context(|| format!("not an answer: {answer:?}"))?;
    Ok(page.to_owned())
}

/// That an instance does not get there: the packets are dropped, so only time tells it.
fn cannot_fetch(batch: &Batch, from: &Instance, address: Ipv6Addr, port: u16) -> Result<()> {
    match fetch(batch, from, address, port) {
        Ok(page) => bail!("{} reached [{address}]:{port}: {page}", from.name),
        Err(error) => {
            let error = format!("{error:#}");
            ensure!(error.contains("nc: timed out"), "failed in another way: {error}");
            Ok(())
        }
    }
}

fn instances_reach_their_own_app_and_the_outside_only(batch: &Batch) -> Result<()> {
    let ([one, two], [other, _]) = (both(batch, "left")?, both(batch, "right")?);
    ensure!(fetch(batch, &one, two.address, APP_PORT)? == "busybox\n");
    ensure!(fetch(batch, &two, one.address, APP_PORT)? == "busybox\n");
    let seen: Ipv6Addr = fetch(batch, &one, OUTSIDE, MIRROR_PORT)?.parse()?;
    ensure!(!seen.is_unique_local(), "the outside saw {seen}: not masqueraded");
    let addresses = batch.world()?.ask_host("ip", &["-6", "address", "show", "dev", WAN])?;
    ensure!(addresses.contains(&format!("{seen}/")), "the outside saw {seen}, which is not the host's:\n{addresses}");

    cannot_fetch(batch, &one, other.address, APP_PORT)?;
    cannot_fetch(batch, &one, HOST, MIRROR_PORT)?;
    // Both are there for those who may.
    let world = batch.world()?;
    let page = world.host.inside(|| client::get_from(SocketAddr::from((other.address, APP_PORT)), "/"))??;
    ensure!(page.contains(&other.name), "{page}");
    let page = world.outside.inside(|| client::get_from(SocketAddr::from((HOST, MIRROR_PORT)), "/"))??;
    ensure!(page == OUTSIDE.to_string(), "{page}");
    Ok(())
}

/// What a resolver inside an instance finds for `name`, or says when it finds nothing.
fn look_up(batch: &Batch, from: &Instance, name: &str) -> Result<String> {
    let script = format!("nslookup {name} 2>&1; true");
    batch.site.ok(&["exec", &from.name, "--", "sh", "-c", &script])
}

fn instances_find_their_own_app_by_name(batch: &Batch) -> Result<()> {
    let ([one, two], [other, _]) = (both(batch, "left")?, both(batch, "right")?);
    let found = wait_for("the addresses of both instances by name", || {
        let said = look_up(batch, &one, "web.process.internal")?;
        let has = |instance: &Instance| said.contains(&instance.address.to_string());
        Ok((has(&one) && has(&two)).then_some(said))
    })?;
    ensure!(!found.contains(&other.address.to_string()), "another app's instance is found: {found}");
    let none = look_up(batch, &two, "none.process.internal")?;
    ensure!(none.contains("NXDOMAIN"), "a name nobody has: {none}");
    Ok(())
}

fn outside_reaches_instances_through_the_ingress_only(batch: &Batch) -> Result<()> {
    let instances = both(batch, "right")?;
    let world = batch.world()?;
    let wanted: BTreeSet<&str> = instances.iter().map(|instance| instance.name.as_str()).collect();
    for (from, to) in [(&world.host, Ipv6Addr::LOCALHOST), (&world.outside, HOST)] {
        let mut seen = BTreeSet::new();
        wait_for("every instance to answer", || {
            let page = from.inside(|| client::get_from((to, RIGHT_PORT).into(), "/"))??;
            let name = page.strip_prefix("hello from ").and_then(|rest| rest.split(',').next());
            seen.insert(name.with_context(|| format!("odd answer: {page}"))?.to_owned());
            Ok((seen.len() == 2).then_some(()))
        })?;
        ensure!(seen.iter().map(String::as_str).eq(wanted.iter().copied()), "{seen:?} answered, not {wanted:?}");
    }
    let target: SocketAddr = (instances[0].address, APP_PORT).into();
    let reached = world.outside.inside(|| TcpStream::connect_timeout(&target, FUTILE))?;
    let error = reached.err().with_context(|| format!("the outside reached {target} past the ingress"))?;
    ensure!(error.kind() == ErrorKind::TimedOut, "failed in another way: {error}");
    Ok(())
}

/// How long a connection that must not come about is tried.
const FUTILE: std::time::Duration = std::time::Duration::from_secs(3);

fn an_app_is_reached_over_ipv4_only_while_it_has_it(batch: &Batch) -> Result<()> {
    let world = batch.world()?;
    both(batch, "right")?;
    let answers = || {
        let connected = world.host.inside(|| TcpStream::connect((Ipv4Addr::LOCALHOST, RIGHT_PORT)))?;
        Ok::<_, anyhow::Error>(connected.is_ok())
    };
    ensure!(!answers()?, "an app has IPv4 without having asked for it");
    batch.site.ok(&["ipv4", "allocate", "right"])?;
    wait_for("the app over IPv4", || Ok(answers()?.then_some(())))?;
    ensure!(batch.site.json(&["ipv4", "list"])?["apps"] == serde_json::json!(["right"]));
    batch.site.ok(&["ipv4", "release", "right"])?;
    wait_for("the end of the app's IPv4", || Ok((!answers()?).then_some(())))
}

fn forwarding(world: &World) -> Result<String> {
    let read = || std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding");
    Ok(world.host.inside(read)??.trim().to_owned())
}

/// Whether the host has a usable address in the advertised `prefix`.
fn has_address(world: &World, prefix: Ipv6Addr) -> Result<bool> {
    let shown = world.ask_host("ip", &["-6", "-oneline", "address", "show", "dev", WAN])?;
    let start = prefix.to_string().trim_end_matches(':').to_owned();
    let usable = |line: &str| line.contains(&format!("inet6 {start}:")) && !line.contains("tentative");
    Ok(shown.lines().any(usable))
}

fn forwarding_host_still_follows_router_advertisements(batch: &Batch) -> Result<()> {
    let world = batch.world()?;
    ensure!(forwarding(world)? == "1", "instances are routed without forwarding");
    ensure!(has_address(world, EARLY)?, "the host lost its address when Holm came");
    // A use of the route asks the router for its link address, and the host keeps the route only when a router answers.
    let nowhere = SocketAddr::from((NOWHERE, APP_PORT));
    let error = world.host.inside(|| TcpStream::connect_timeout(&nowhere, FUTILE))?.err().context("nowhere answers")?;
    ensure!(error.kind() == ErrorKind::TimedOut, "there was no route to use: {error}");
    let route = world.ask_host("ip", &["-6", "route", "show", "default"])?;
    ensure!(route.contains("proto ra") && route.contains(WAN), "the host lost its default route:\n{route}");
    world.advertise(LATE, || has_address(world, LATE))
}

/// Everything in the host's network that could be an instance's.
fn traces(world: &World) -> Result<String> {
    let links = world.ask_host("ip", &["-oneline", "link"])?;
    let routes = world.ask_host("ip", &["-6", "route", "show", "table", "all"])?;
    let rules = world.ask_host("nft", &["list", "ruleset"])?;
    Ok(format!("{links}\n{routes}\n{rules}"))
}

/// The tap of an instance, which must be there.
fn tap(world: &World, address: Ipv6Addr) -> Result<String> {
    let route = world.ask_host("ip", &["-6", "route", "show", &address.to_string()])?;
    let name = route.split(' ').skip_while(|word| *word != "dev").nth(1).map(str::to_owned);
    name.with_context(|| format!("no route to {address}: {route}"))
}

/// Names that must be gone from the host's network when `instances` are.
fn names(world: &World, instances: &[Instance]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for instance in instances {
        names.extend([tap(world, instance.address)?, instance.address.to_string()]);
    }
    let before = traces(world)?;
    ensure!(names.iter().all(|name| mentions(&before, name)), "{names:?} are not all in\n{before}");
    Ok(names)
}

/// Whether `name` stands in `text` as a whole word.
fn mentions(text: &str, name: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != ':').any(|word| word.trim_end_matches(':') == name)
}

fn wait_until_gone(world: &World, names: &[String]) -> Result<()> {
    let gone = wait_for("tap, route and rules to be gone", || {
        let now = traces(world)?;
        Ok((!names.iter().any(|name| mentions(&now, name))).then_some(()))
    });
    gone.with_context(|| format!("{names:?} are still in\n{}", traces(world).unwrap_or_default()))
}

/// The process of Holm itself.
fn holm(batch: &Batch) -> Result<Pid> {
    let program = batch.site.programs().holm.to_string_lossy().into_owned();
    let all = batch.site.processes()?;
    let found: Vec<_> = all.iter().filter(|(_, line)| line.starts_with(&format!("{program} up "))).collect();
    ensure!(found.len() == 1, "{} processes of Holm: {all:#?}", found.len());
    i32::try_from(found[0].0).ok().and_then(Pid::from_raw).context("not a process id")
}

fn killed_holm_adopts_one_and_clears_away_another(batch: &Batch) -> Result<()> {
    let [dead, alive] = both(batch, "right")?;
    let world = batch.world()?;
    let names = names(world, std::slice::from_ref(&dead))?;
    let doomed = [holm(batch)?, dead.pid];
    for pid in doomed {
        kill_process(pid, Signal::KILL)?;
    }
    for pid in doomed {
        wait_for("the end of the killed", || Ok(test_kill_process(pid).is_err().then_some(())))?;
    }
    // The network is the kernel's: it goes on without Holm.
    let direct: SocketAddr = (alive.address, APP_PORT).into();
    world.host.inside(|| client::get_from(direct, "/"))??;

    batch.up()?;
    let now = both(batch, "right")?;
    ensure!(now.contains(&alive), "{alive:?} was not adopted: {now:?}");
    ensure!(now.iter().all(|instance| instance.name != dead.name), "{} is back: {now:?}", dead.name);
    wait_until_gone(world, &names)?;
    let [one, two] = both(batch, "left")?;
    ensure!(fetch(batch, &one, two.address, APP_PORT)? == "busybox\n", "adopted instances lost each other");
    cannot_fetch(batch, &one, alive.address, APP_PORT)?;
    wait_for("the adopted instance behind the ingress", || {
        let page = world.host.inside(|| client::get(RIGHT_PORT, "/"))?;
        Ok(page.is_ok_and(|page| page.contains(&format!("{},", alive.name))).then_some(()))
    })
}

fn stopped_app_leaves_no_tap_route_or_rule(batch: &Batch) -> Result<()> {
    let (world, instances) = (batch.world()?, both(batch, "left")?);
    let names = names(world, &instances)?;
    batch.site.ok(&["stop", "left"])?;
    wait_until_gone(world, &names)?;
    // The other app is as it was, and the stopped one comes back.
    both(batch, "right")?;
    world.host.inside(|| client::get(RIGHT_PORT, "/"))??;
    batch.site.ok(&["start", "left"])?;
    let [one, two] = both(batch, "left")?;
    ensure!(fetch(batch, &one, two.address, APP_PORT)? == "busybox\n");
    Ok(())
}

fn destroyed_app_leaves_no_tap_route_or_rule(batch: &Batch) -> Result<()> {
    let (world, instances) = (batch.world()?, both(batch, "left")?);
    let names = names(world, &instances)?;
    batch.site.ok(&["destroy", "left", "--yes"])?;
    wait_until_gone(world, &names)?;
    both(batch, "right").map(drop)
}

fn down_leaves_nothing_behind(batch: &Batch) -> Result<()> {
    let world = batch.world()?;
    let host_id = std::fs::read_to_string(batch.site.state().join("host-id"))?;
    ensure!(!world.ask_host("nft", &["list", "tables"])?.is_empty(), "no firewall while Holm is up");
    batch.site.ok(&["down"])?;
    let left = batch.site.processes()?;
    ensure!(left.is_empty(), "processes are left: {left:#?}");
    ensure!(!batch.site.state().join("holm.sock").exists(), "the socket is left");
    let after = traces(world)?;
    for trace in ["holm", "fd"] {
        let found = after
            .lines()
            .find(|line| line.split([' ', '"']).any(|word| word.starts_with(trace) && !word.starts_with("holm-e2e")));
        ensure!(found.is_none(), "`{}` is left in\n{after}", found.unwrap_or_default());
    }
    ensure!(world.ask_host("nft", &["list", "tables"])?.is_empty(), "the firewall is left");
    ensure!(forwarding(world)? == "0", "forwarding is left on");
    ensure!(has_address(world, EARLY)? && has_address(world, LATE)?, "the host lost its addresses when Holm left");
    for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/cpu"] {
        let group = Path::new(root).join(format!("holm-{}", host_id.trim()));
        ensure!(!group.exists(), "{} is left", group.display());
    }
    Ok(())
}
