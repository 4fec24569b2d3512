//! Disk is promised when a command is accepted, and never more than there is.

use std::collections::BTreeMap;

use holm_control::{Command, Refusal, Rules, VolumeCommand, decide};
use holm_manifest::{Manifest, ReleaseCommand, Volume, VolumeName, VolumeSize};
use holm_model::event::{Event, Recorded};
use holm_model::footprint::INSTANCE_DISK;
use holm_model::id::AppKey;
use holm_model::report::{End, EndCause};
use holm_model::state::State;
use holm_model::volume::{VolumeId, VolumeOrigin};
use holm_planner::{Disk, REMEMBERED, plan};
use jiff::Timestamp;
use proptest::prelude::*;

use crate::fixture::{app, image, manifest, process};

const MIB: u64 = 1 << 20;
const APPS: [&str; 2] = ["one", "two"];
const VOLUMES: [&str; 3] = ["a", "b", "c"];

/// What a manifest of the tests asks for.
#[derive(Debug, Clone, Default, PartialEq)]
struct Wish {
    /// MiB of each volume.
    volumes: BTreeMap<usize, u64>,
    web: u32,
}

impl Wish {
    fn manifest(&self, name: &str) -> Box<Manifest> {
        let mut manifest = manifest(name);
        manifest.processes.remove(&process("worker"));
        manifest.processes.get_mut(&process("web")).unwrap().instances = self.web;
        for (index, mib) in &self.volumes {
            let volume = Volume { size: size(*mib), backup: None };
            manifest.volumes.insert(VolumeName::new(VOLUMES[*index]).unwrap(), volume);
        }
        Box::new(manifest)
    }
}

fn size(mib: u64) -> VolumeSize {
    VolumeSize::from_mib(mib).unwrap()
}

fn volume(app: usize, name: usize) -> VolumeId {
    format!("{}:{}", APPS[app], VOLUMES[name]).parse().unwrap()
}

/// What the model knows of an app.
#[derive(Debug, Clone, Default)]
struct Known {
    releases: Vec<Wish>,
    current: Option<Wish>,
    /// Under way, and whether its release was made.
    coming: Option<(Wish, bool)>,
    by_hand: Option<u32>,
    /// MiB of each volume that is there, and of its snapshots.
    volumes: BTreeMap<usize, (u64, u64)>,
    /// Whether an instance was ever placed: its log may be remembered.
    placed: bool,
    destroyed: Option<bool>,
}

impl Known {
    fn wishes(&self) -> Vec<&Wish> {
        let wishes = self.current.iter().chain(self.coming.as_ref().map(|(wish, _)| wish));
        wishes.filter(|_| self.destroyed.is_none()).collect()
    }

    /// MiB that are promised to it.
    fn promised(&self) -> u64 {
        let volumes: u64 = (0..VOLUMES.len())
            .map(|index| {
                let wanted = self.wishes().iter().filter_map(|wish| wish.volumes.get(&index).copied()).max();
                let (there, snapshots) = self.volumes.get(&index).copied().unwrap_or_default();
                there.max(wanted.unwrap_or(0)) + snapshots
            })
            .sum();
        let count = self.wishes().iter().map(|wish| u64::from(self.by_hand.unwrap_or(wish.web))).max();
        let logs = match count {
            Some(count) => 2 * count + REMEMBERED as u64,
            None if self.placed => REMEMBERED as u64,
            None => 0,
        };
        volumes + logs * INSTANCE_DISK / MIB
    }

    /// What the planner makes of the release that should run.
    fn make(&mut self) {
        let wanted = match &self.coming {
            Some((wish, true)) => Some(wish.clone()),
            _ => self.current.clone(),
        };
        let Some(wish) = wanted.filter(|_| self.destroyed.is_none()) else { return };
        for (index, mib) in wish.volumes {
            let there = self.volumes.entry(index).or_default();
            there.0 = there.0.max(mib);
        }
    }
}

struct World {
    state: State,
    cap: u64,
    known: [Known; 2],
}

impl World {
    fn new(cap: u64) -> Self {
        let mut world = Self { state: State::default(), cap, known: Default::default() };
        world.host(cap);
        world
    }

    fn host(&mut self, cap: u64) {
        self.cap = cap;
        self.fold(Event::HostStarted {
            version: "1".to_owned(),
            acceleration: "kvm".to_owned(),
            why: String::new(),
            network: "user".to_owned(),
            memory: None,
            disk: Some(cap * MIB),
        });
    }

    fn fold(&mut self, event: Event) {
        let (seq, at) = (self.state.seq.next(), Timestamp::UNIX_EPOCH);
        self.state.apply(&Recorded { seq, at, actor: "test".to_owned(), cause: None, event });
    }

    /// Records what was decided, and checks that nothing promises more than there is or was.
    fn record(&mut self, event: Event) {
        let before = Disk::of(&self.state).promised();
        self.fold(event.clone());
        let after = Disk::of(&self.state).promised();
        assert!(after <= before.max(self.cap * MIB), "{event:?}: {} of {} MiB", after / MIB, self.cap);
        let there: u64 = self.state.volumes.values().map(|volume| volume.size.bytes() + volume.snapshots).sum();
        assert!(there <= after, "{there} bytes of volumes, {after} promised");
    }

    fn plan(&mut self) {
        for round in 0.. {
            assert!(round < 100, "the planner does not settle");
            let decisions = plan(&self.state, Timestamp::UNIX_EPOCH).decisions;
            if decisions.is_empty() {
                break;
            }
            decisions.into_iter().for_each(|event| self.record(event));
        }
        for (index, name) in APPS.iter().enumerate() {
            let key = app(name);
            let known = &mut self.known[index];
            known.make();
            if known.coming.is_some() && known.destroyed.is_none() && self.state.active_deployment(&key).is_none() {
                // Of a release without instances nothing is waited for.
                known.current = known.coming.take().map(|(wish, _)| wish);
            }
            if self.state.apps.contains_key(&key) {
                known.placed |= self.state.instances_of(&key).next().is_some();
            } else if let Some(volumes) = known.destroyed {
                let left = if volumes { BTreeMap::new() } else { std::mem::take(&mut known.volumes) };
                *known = Known { volumes: left, ..Known::default() };
            }
        }
    }

    /// Asks for `command`, which makes of the model what `then` does, and checks that it is accepted exactly when it fits.
    fn ask(&mut self, command: &Command, then: impl FnOnce(&mut [Known; 2], &[Event])) {
        let promised = |known: &[Known; 2]| known.iter().map(Known::promised).sum::<u64>();
        let answer = decide(&self.state, &Rules::default(), command);
        let mut after = self.known.clone();
        match answer {
            Ok(events) => {
                then(&mut after, &events);
                let (before, asked) = (promised(&self.known), promised(&after));
                assert!(asked <= before.max(self.cap), "{command:?}: {asked} of {} MiB were accepted", self.cap);
                events.into_iter().for_each(|event| self.record(event));
                self.known = after;
            }
            Err(Refusal::NoDisk { shortage, .. }) => {
                then(&mut after, &[]);
                let (before, asked) = (promised(&self.known), promised(&after));
                assert!(asked > self.cap && asked > before, "{command:?} was refused: {asked} of {} MiB", self.cap);
                let free = self.cap.saturating_sub(before);
                assert_eq!((shortage.needs / MIB, shortage.free / MIB), (asked - before, free));
            }
            Err(_) => {}
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Deploy(index, wish) => {
                let manifest = wish.manifest(APPS[index]);
                let command = Command::Deploy { app: app(APPS[index]), image: None, manifest };
                self.ask(&command, |known, _| known[index].coming = Some((wish, false)));
            }
            Act::Ready(index) => self.ready(index),
            Act::End(index, well) => self.end_deployment(index, well),
            Act::Rollback(index, to) => self.roll_back(index, to),
            Act::Scale(index, count) => {
                let command = Command::Scale { app: app(APPS[index]), process: process("web"), instances: count };
                self.ask(&command, |known, _| known[index].by_hand = count);
            }
            Act::Create(index, name, mib, restored) => {
                let origin = match restored {
                    true => VolumeOrigin::Staged { key: uuid::Uuid::nil(), what: "a backup".to_owned() },
                    false => VolumeOrigin::Empty,
                };
                self.volume(index, name, VolumeCommand::Create { size: size(mib), origin }, |_| Some((mib, 0)));
            }
            Act::Grow(index, name, mib) => {
                self.volume(index, name, VolumeCommand::Grow { size: size(mib) }, |there| Some((mib, there.1)));
            }
            Act::Delete(index, name) => self.volume(index, name, VolumeCommand::Delete, |_| None),
            Act::Snapshots(index, name, mib) => {
                let command = VolumeCommand::KeepForSnapshots { bytes: mib * MIB };
                self.volume(index, name, command, |there| Some((there.0, mib)));
            }
            Act::Destroy(index, volumes) => {
                let command = Command::Destroy { app: app(APPS[index]), volumes };
                self.ask(&command, |known, events| {
                    if !events.is_empty() {
                        known[index].destroyed = Some(volumes);
                        known[index].coming = None;
                    }
                });
            }
            Act::Host(cap) => self.host(cap),
            Act::InstancesEnd => {
                let open = self.state.instances.iter().filter(|(_, i)| i.retired.is_some() && i.end.is_none());
                for instance in open.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
                    let end = End { cause: EndCause::Stopped, at: Timestamp::UNIX_EPOCH, last_log: Vec::new() };
                    self.record(Event::InstanceEnded { instance, end });
                }
            }
        }
        self.plan();
        let known: u64 = self.known.iter().map(Known::promised).sum();
        assert_eq!(Disk::of(&self.state).promised() / MIB, known, "{:#?}", self.known);
    }

    fn volume(
        &mut self,
        index: usize,
        name: usize,
        change: VolumeCommand,
        then: impl FnOnce((u64, u64)) -> Option<(u64, u64)>,
    ) {
        let command = Command::Volume { volume: volume(index, name), change };
        self.ask(&command, |known, _| {
            let there = known[index].volumes.remove(&name).unwrap_or_default();
            known[index].volumes.extend(then(there).map(|now| (name, now)));
        });
    }

    /// The release of a deployment is made.
    fn ready(&mut self, index: usize) {
        let key = app(APPS[index]);
        let Some((wish, ready @ false)) = &mut self.known[index].coming else { return };
        let wish = wish.clone();
        *ready = true;
        let deployment = self.state.active_deployment(&key).unwrap().0;
        self.known[index].releases.push(wish);
        let release = self.state.apps[&key].last_release.next();
        let (digest, reference) = (image(&release.to_string()).digest, "x".to_owned());
        self.record(Event::ReleaseReady { app: key, deployment, release, digest, reference });
    }

    fn end_deployment(&mut self, index: usize, well: bool) {
        let key = app(APPS[index]);
        let Some((deployment, _)) = self.state.active_deployment(&key) else { return };
        let known = &mut self.known[index];
        let Some((wish, ready)) = known.coming.take() else { return };
        if well && ready {
            known.current = Some(wish);
            self.record(Event::DeploymentSucceeded { app: key, deployment });
        } else {
            let (why, last_log) = ("x".to_owned(), Vec::new());
            self.record(Event::DeploymentFailed { app: key, deployment, why, last_log, back_to: None });
        }
    }

    fn roll_back(&mut self, index: usize, to: usize) {
        let releases = self.known[index].releases.clone();
        let Some(wish) = releases.get(to).cloned() else { return };
        let to = Some(holm_model::id::ReleaseNumber(to as u64 + 1));
        let command = Command::Rollback { app: app(APPS[index]), to };
        self.ask(&command, |known, _| known[index].coming = Some((wish, true)));
    }
}

#[derive(Debug, Clone)]
enum Act {
    Deploy(usize, Wish),
    Ready(usize),
    End(usize, bool),
    Rollback(usize, usize),
    Scale(usize, Option<u32>),
    Create(usize, usize, u64, bool),
    Grow(usize, usize, u64),
    Delete(usize, usize),
    Snapshots(usize, usize, u64),
    Destroy(usize, bool),
    Host(u64),
    InstancesEnd,
}

fn act() -> impl Strategy<Value = Act> {
    let (apps, names, mib) = (0..APPS.len(), 0..VOLUMES.len(), || 16..120_u64);
    let wish = (prop::collection::btree_map(0..VOLUMES.len(), mib(), 0..3), 0..4_u32);
    let wish = wish.prop_map(|(volumes, web)| Wish { volumes, web });
    let own = (apps.clone(), names);
    prop_oneof![
        6 => (apps.clone(), wish).prop_map(|(app, wish)| Act::Deploy(app, wish)),
        6 => apps.clone().prop_map(Act::Ready),
        6 => (apps.clone(), prop::bool::weighted(0.7)).prop_map(|(app, well)| Act::End(app, well)),
        2 => (apps.clone(), 0..4_usize).prop_map(|(app, to)| Act::Rollback(app, to)),
        2 => (apps.clone(), prop::option::of(0..6_u32)).prop_map(|(app, count)| Act::Scale(app, count)),
        4 => (own.clone(), mib(), any::<bool>()).prop_map(|((app, name), mib, from)| Act::Create(app, name, mib, from)),
        4 => (own.clone(), mib()).prop_map(|((app, name), mib)| Act::Grow(app, name, mib)),
        2 => own.clone().prop_map(|(app, name)| Act::Delete(app, name)),
        3 => (own, 0..60_u64).prop_map(|((app, name), mib)| Act::Snapshots(app, name, mib)),
        1 => (apps, any::<bool>()).prop_map(|(app, volumes)| Act::Destroy(app, volumes)),
        1 => (0..700_u64).prop_map(Act::Host),
        2 => Just(Act::InstancesEnd),
    ]
}

proptest! {
    #[test]
    fn no_history_promises_more_disk_than_there_is_and_what_fits_is_accepted(
        cap in 0..700_u64,
        acts in prop::collection::vec(act(), 1..60),
    ) {
        let mut world = World::new(cap);
        acts.into_iter().for_each(|act| world.act(act));
    }
}

fn refused(answer: Result<Vec<Event>, Refusal>) -> (String, String, Option<String>) {
    let refusal = answer.unwrap_err();
    assert_eq!(refusal.code(), "no_disk", "{refusal}");
    (refusal.what(), refusal.why(), refusal.hint())
}

#[test]
fn what_does_not_fit_is_refused_with_the_figures_and_what_to_do() {
    let mut world = World::new(160);
    let wish = |mib, web| Wish { volumes: [(0, mib)].into(), web };
    let deploy = |mib, web| Command::Deploy { app: app("one"), image: None, manifest: wish(mib, web).manifest("one") };
    let ask = |world: &World, command: &Command| decide(&world.state, &Rules::default(), command);
    // One instance, one that takes its place and eight that are remembered: 50 MiB.
    let (what, why, hint) = refused(ask(&world, &deploy(111, 1)));
    assert_eq!(what, "there is no room on the disk for `one`");
    assert_eq!(why, "it needs 161 MiB of disk more, and 160 of the host's 160 MiB are not promised yet");
    assert!(hint.unwrap().contains("holm up --disk"));
    world.act(Act::Deploy(0, wish(100, 1)));
    // The room is taken while the image is fetched.
    let create = |mib| Command::Volume {
        volume: volume(1, 0),
        change: VolumeCommand::Create { size: size(mib), origin: VolumeOrigin::Empty },
    };
    let (what, why, _) = refused(ask(&world, &create(16)));
    assert_eq!(what, "there is no room on the disk for `two:a`");
    assert_eq!(why, "it needs 16 MiB of disk more, and 10 of the host's 160 MiB are not promised yet");
    world.act(Act::Ready(0));
    world.act(Act::End(0, true));
    let grow = |mib| Command::Volume { volume: volume(0, 0), change: VolumeCommand::Grow { size: size(mib) } };
    refused(ask(&world, &grow(111)));
    assert!(ask(&world, &grow(110)).is_ok());
    let keep =
        |mib| Command::Volume { volume: volume(0, 0), change: VolumeCommand::KeepForSnapshots { bytes: mib * MIB } };
    refused(ask(&world, &keep(11)));
    let scale = |count| Command::Scale { app: app("one"), process: process("web"), instances: Some(count) };
    refused(ask(&world, &scale(3)));
    assert!(ask(&world, &scale(2)).is_ok());
    // A host that comes back with less takes nothing away, and less of it is always accepted.
    world.host(10);
    assert!(ask(&world, &deploy(16, 1)).is_ok());
    assert!(ask(&world, &Command::Restart { app: app("one") }).is_ok());
    assert!(ask(&world, &scale(0)).is_ok());
    assert!(ask(&world, &keep(0)).is_ok());
    refused(ask(&world, &grow(101)));
    world.act(Act::Destroy(0, true));
    world.act(Act::InstancesEnd);
    assert_eq!(Disk::of(&world.state).figures(), Some((0, 10 * MIB)));
}

#[test]
fn the_logs_of_release_commands_count() {
    let key: AppKey = app("one");
    let mut world = World::new(1000);
    let mut manifest = Wish { volumes: BTreeMap::new(), web: 1 }.manifest("one");
    let (command, memory) = (vec!["migrate".to_owned()], holm_manifest::Memory::from_mib(32));
    manifest.release = Some(ReleaseCommand { command, cpu_millis: 500, memory, timeout_ms: 1000 });
    let asked = decide(&world.state, &Rules::default(), &Command::Deploy { app: key, image: None, manifest });
    asked.unwrap().into_iter().for_each(|event| world.record(event));
    assert_eq!(Disk::of(&world.state).promised(), 20 * INSTANCE_DISK);
}
