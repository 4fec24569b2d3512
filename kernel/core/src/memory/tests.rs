//! Memory against a model: whatever several units map, write, protect, share, snapshot and give back, every byte a processor
//! sees is the model's, through translation caches that go stale; and in the end nothing is left.

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use holm_abi::{Backing, Error, Protection, UnitSpec};
use proptest::prelude::*;

use super::space::Placement;
use super::*;
use crate::machine::{CpuId, PAGE_SIZE};
use crate::object::Object;
use crate::quota::Quotas;
use crate::sim::SimMachine;
use crate::testing::memory::{boot, first_thread, settle};
use crate::unit::create::Plan;
use crate::unit::{End, UnitId};

pub(super) const PAGE: u64 = PAGE_SIZE as u64;
/// Where the units of the model map.
pub(super) const BASE: u64 = 0x5000_0000;
/// Pages there.
const WINDOW: u64 = 10;
/// Pages of a large region: terabytes.
const LARGE: u64 = 1 << 30;

/// A region as it should be: what is not named is zero.
#[derive(Debug, Clone)]
struct Model {
    id: RegionId,
    pages: u64,
    owner: usize,
    bytes: BTreeMap<u64, u8>,
    /// A reference is held, as a handle would.
    held: bool,
}

#[derive(Debug, Clone, Copy)]
struct Shown {
    region: usize,
    page: u64,
    rights: Protection,
    ceiling: Protection,
}

struct World {
    kernel: Kernel<SimMachine>,
    root: UnitId,
    units: Vec<Option<UnitId>>,
    maps: Vec<BTreeMap<u64, Shown>>,
    regions: Vec<Model>,
}

/// The byte of a page that the model follows: not the same in all.
fn offset(page: u64) -> u64 {
    page * 37 % PAGE
}

#[derive(Debug, Clone)]
enum Step {
    Create { unit: usize, pages: u64 },
    Map { unit: usize, region: usize, page: u64, count: u64, at: u64, how: u8, rights: u8, ceiling: u8 },
    Unmap { unit: usize, at: u64, count: u64 },
    Protect { unit: usize, at: u64, count: u64, rights: u8 },
    Store { cpu: u32, unit: usize, at: u64, byte: u8 },
    Load { cpu: u32, unit: usize, at: u64 },
    CopyOut { unit: usize, at: u64, byte: u8 },
    Between { from: usize, source: u64, to: usize, target: u64 },
    Snapshot { unit: usize, region: usize },
    Decommit { region: usize, page: u64, count: u64 },
    Drop { region: usize },
    Kill { unit: usize },
    Work,
}

fn step() -> impl Strategy<Value = Step> {
    let unit = 0usize..3;
    let at = 0..WINDOW;
    prop_oneof![
        2 => (unit.clone(), prop_oneof![1u64..12, Just(LARGE)]).prop_map(|(unit, pages)| Step::Create { unit, pages }),
        6 => (unit.clone(), any::<usize>(), 0u64..12, 1u64..10, at.clone(), 0u8..4, 0u8..5, 0u8..5).prop_map(
            |(unit, region, page, count, at, how, rights, ceiling)| Step::Map {
                unit, region, page, count, at, how, rights, ceiling,
            }
        ),
        3 => (unit.clone(), at.clone(), 1u64..8).prop_map(|(unit, at, count)| Step::Unmap { unit, at, count }),
        3 => (unit.clone(), at.clone(), 1u64..8, 0u8..5)
            .prop_map(|(unit, at, count, rights)| Step::Protect { unit, at, count, rights }),
        16 => (0u32..2, unit.clone(), at.clone(), any::<u8>())
            .prop_map(|(cpu, unit, at, byte)| Step::Store { cpu, unit, at, byte }),
        10 => (0u32..2, unit.clone(), at.clone()).prop_map(|(cpu, unit, at)| Step::Load { cpu, unit, at }),
        4 => (unit.clone(), at.clone(), any::<u8>()).prop_map(|(unit, at, byte)| Step::CopyOut { unit, at, byte }),
        3 => (unit.clone(), at.clone(), unit.clone(), at)
            .prop_map(|(from, source, to, target)| Step::Between { from, source, to, target }),
        4 => (unit.clone(), any::<usize>()).prop_map(|(unit, region)| Step::Snapshot { unit, region }),
        2 => (any::<usize>(), 0u64..12, 1u64..8)

            .prop_map(|(region, page, count)| Step::Decommit { region, page, count }),
        2 => any::<usize>().prop_map(|region| Step::Drop { region }),
        1 => unit.prop_map(|unit| Step::Kill { unit }),
        2 => Just(Step::Work),
    ]
}

fn rights(number: u8) -> Protection {
    let read = Protection::READ;
    [Protection::NONE, read, read | Protection::WRITE, read | Protection::EXECUTE, read | Protection::WRITE]
        [number as usize]
}

impl World {
    fn new() -> Self {
        let (mut kernel, root) = boot();
        let units = (0..3).map(|_| Some(Self::unit(&mut kernel, root))).collect();
        Self { kernel, root, units, maps: vec![BTreeMap::new(); 3], regions: Vec::new() }
    }

    fn unit(kernel: &mut Kernel<SimMachine>, root: UnitId) -> UnitId {
        let quotas = Quotas::new(2000, 8, 64, 1 << 20);
        let spec = UnitSpec::new();
        kernel.unit_new(&Plan { parent: Some(root), creator: None, image: None, spec, quotas }).unwrap()
    }

    fn space(&self, unit: usize) -> Option<AddressSpaceId> {
        self.kernel.units.get(self.units[unit]?)?.memory.space
    }

    fn held(&self, which: usize) -> Option<usize> {
        let held: Vec<usize> = (0..self.regions.len()).filter(|index| self.regions[*index].held).collect();
        if held.is_empty() { None } else { Some(held[which % held.len()]) }
    }

    fn expected(&self, unit: usize, at: u64) -> Option<(Shown, u8)> {
        let shown = self.maps[unit].get(&at)?;
        Some((*shown, *self.regions[shown.region].bytes.get(&shown.page).unwrap_or(&0)))
    }

    fn address(&self, unit: usize, at: u64) -> u64 {
        let page = self.maps[unit].get(&at).map_or(0, |shown| shown.page);
        BASE + at * PAGE + offset(page)
    }

    /// A store as a processor does it: through its cache, faulting as often as it must.
    fn store(&mut self, cpu: u32, unit: usize, at: u64, byte: u8) {
        let Some(space) = self.space(unit) else { return };
        let address = self.address(unit, at);
        let root = self.kernel.spaces.get(space).unwrap().root;
        let allowed = self.maps[unit].get(&at).copied().filter(|shown| shown.rights.contains(Protection::WRITE));
        for _ in 0..3 {
            if self.kernel.machine.user_write(CpuId(cpu), root, address, byte).is_some() {
                let shown = allowed.expect("a store went where none may");
                self.regions[shown.region].bytes.insert(shown.page, byte);
                return;
            }
            match self.kernel.space_fault(space, address, Access::Write) {
                Ok(_) => assert!(allowed.is_some(), "a fault was resolved that must not be"),
                Err(Error::Fault) => return assert!(allowed.is_none(), "a store that is allowed faults"),
                Err(Error::Quota | Error::NoMemory) => return,
                Err(other) => panic!("{other:?}"),
            }
        }
        panic!("a store faults again and again");
    }

    fn load(&mut self, cpu: u32, unit: usize, at: u64) {
        let Some(space) = self.space(unit) else { return };
        let address = self.address(unit, at);
        let root = self.kernel.spaces.get(space).unwrap().root;
        let expected = self.expected(unit, at).filter(|(shown, _)| !shown.rights.is_none()).map(|(_, byte)| byte);
        for _ in 0..3 {
            if let Some(byte) = self.kernel.machine.user_read(CpuId(cpu), root, address) {
                assert_eq!(Some(byte), expected, "a load in unit {unit} at page {at}");
                return;
            }
            match self.kernel.space_fault(space, address, Access::Read) {
                Ok(_) => assert!(expected.is_some(), "a fault was resolved that must not be"),
                Err(Error::Fault) => return assert!(expected.is_none(), "a load that is allowed faults"),
                Err(Error::Quota | Error::NoMemory) => return,
                Err(other) => panic!("{other:?}"),
            }
        }
        panic!("a load faults again and again");
    }

    #[expect(clippy::too_many_arguments, reason = "a mapping is these")]
    fn map(
        &mut self,
        unit: usize,
        region: usize,
        page: u64,
        count: u64,
        at: u64,
        how: u8,
        allowed: (Protection, Protection),
    ) {
        let Some(space) = self.space(unit) else { return };
        let (rights, ceiling) = allowed;
        let model = &self.regions[region];
        let page = page % model.pages;
        let count = count.min(model.pages - page).min(WINDOW - at);
        let address = BASE + at * PAGE;
        let placement = match how {
            0 | 1 => Placement::Replace(address),
            2 => Placement::Free(address),
            _ => Placement::Wish { address, upper: false },
        };
        let taken = self.maps[unit].range(at..at + count).next().is_some();
        let id = model.id;
        let start = loop {
            match self.kernel.map_step(space, id, page * PAGE, count * PAGE, placement, rights, ceiling, None) {
                Ok(Some(start)) => break start,
                Ok(None) => {}
                Err(Error::Exists) => return assert!(how == 2 && taken),
                Err(Error::Quota) => return,
                Err(other) => panic!("{other:?}"),
            }
        };
        assert!(how != 2 || !taken);
        if how == 3 && taken {
            // Somewhere else: taken away at once, so that the window stays small.
            assert!(start >= BASE + WINDOW * PAGE || start + count * PAGE <= BASE);
            while self.kernel.unmap_step(space, start, start + count * PAGE).unwrap() == Progress::More {}
            return;
        }
        assert_eq!(start, address);
        for index in 0..count {
            self.maps[unit].insert(at + index, Shown { region, page: page + index, rights, ceiling });
        }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Create { unit, pages } => {
                let Some(id) = self.units[unit] else { return };
                let region = self.kernel.region_new(Some(id), pages, Backing::Anonymous, &[]).unwrap();
                self.regions.push(Model { id: region, pages, owner: unit, bytes: BTreeMap::new(), held: true });
            }
            Step::Map { unit, region, page, count, at, how, rights: now, ceiling } => {
                let Some(region) = self.held(region) else { return };
                let ceiling = rights(ceiling);
                self.map(unit, region, page, count, at, how, (rights(now) & ceiling, ceiling));
            }
            Step::Unmap { unit, at, count } => {
                let Some(space) = self.space(unit) else { return };
                let (start, end) = (BASE + at * PAGE, BASE + (at + count) * PAGE);
                while match self.kernel.unmap_step(space, start, end) {
                    Ok(progress) => progress == Progress::More,
                    Err(error) => panic!("{error:?}"),
                } {}
                self.maps[unit].retain(|page, _| !(at..at + count).contains(page));
            }
            Step::Protect { unit, at, count, rights: now } => {
                let Some(space) = self.space(unit) else { return };
                let (mut start, end) = (BASE + at * PAGE, BASE + (at + count) * PAGE);
                let now = rights(now);
                let mut result = Ok(());
                while start < end {
                    match self.kernel.protect_step(space, start, end, now) {
                        Ok(reached) => start = reached,
                        Err(error) => {
                            result = Err(error);
                            break;
                        }
                    }
                }
                for page in at..at + count {
                    match self.maps[unit].get_mut(&page) {
                        None => return assert_eq!(result, Err(Error::NotFound)),
                        Some(shown) if !shown.ceiling.contains(now) => {
                            return assert_eq!(result, Err(Error::NotPermitted));
                        }
                        Some(shown) => shown.rights = now,
                    }
                }
                assert_eq!(result, Ok(()));
            }
            Step::Store { cpu, unit, at, byte } => self.store(cpu, unit, at, byte),
            Step::Load { cpu, unit, at } => self.load(cpu, unit, at),
            Step::CopyOut { unit, at, byte } => {
                let Some(id) = self.units[unit] else { return };
                let address = self.address(unit, at);
                let shown = self.maps[unit].get(&at).copied();
                match self.kernel.copy_out(id, address, &[byte]) {
                    Ok(()) => {
                        let shown = shown.filter(|shown| shown.rights.contains(Protection::WRITE)).unwrap();
                        self.regions[shown.region].bytes.insert(shown.page, byte);
                    }
                    Err(Error::Fault) => assert!(shown.is_none_or(|shown| !shown.rights.contains(Protection::WRITE))),
                    Err(Error::Quota) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
            Step::Between { from, source, to, target } => {
                let (Some(from_unit), Some(to_unit)) = (self.units[from], self.units[to]) else { return };
                let (at, into) = (self.address(from, source), self.address(to, target));
                match self.kernel.copy_between(from_unit, at, to_unit, into, 1) {
                    Ok(()) => {
                        let (_, byte) = self.expected(from, source).filter(|(from, _)| !from.rights.is_none()).unwrap();
                        let shown = self.maps[to][&target];
                        assert!(shown.rights.contains(Protection::WRITE));
                        self.regions[shown.region].bytes.insert(shown.page, byte);
                    }
                    Err(Error::Fault) => {
                        let readable = self.maps[from].get(&source).is_some_and(|shown| !shown.rights.is_none());
                        let writable =
                            self.maps[to].get(&target).is_some_and(|shown| shown.rights.contains(Protection::WRITE));
                        assert!(!readable || !writable);
                    }
                    Err(Error::Quota) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
            Step::Snapshot { unit, region } => {
                let (Some(owner), Some(region)) = (self.units[unit], self.held(region)) else { return };
                let thread = first_thread(&self.kernel, self.root);
                let id = self.regions[region].id;
                let copy = loop {
                    match self.kernel.region_snapshot_step(id, owner, thread) {
                        Ok(Some(copy)) => break copy,
                        Ok(None) => {}
                        Err(Error::Quota) => return,
                        Err(other) => panic!("{other:?}"),
                    }
                };
                let model = self.regions[region].clone();
                self.regions.push(Model { id: copy, owner: unit, held: true, ..model });
            }
            Step::Decommit { region, page, count } => {
                let Some(region) = self.held(region) else { return };
                let model = &mut self.regions[region];
                let page = page % model.pages;
                let end = (page + count).min(model.pages);
                while self.kernel.region_decommit_step(model.id, page, end).unwrap() == Progress::More {}
                model.bytes.retain(|at, _| !(page..end).contains(at));
            }
            Step::Drop { region } => {
                let Some(region) = self.held(region) else { return };
                self.regions[region].held = false;
                self.kernel.region_release(self.regions[region].id);
            }
            Step::Kill { unit } => {
                // Regions that the unit made live on; it is followed by a new one in its place.
                let Some(id) = self.units[unit].take() else { return };
                self.kernel.unit_end(id, End::because(holm_abi::ExitReason::Killed, 0));
                self.kernel.release(Object::Unit(id));
                self.maps[unit].clear();
                let new = Self::unit(&mut self.kernel, self.root);
                self.units[unit] = Some(new);
                // Owners are told apart by their place: what the old one pays for is not counted for the new one.
                self.regions.iter_mut().filter(|model| model.owner == unit).for_each(|model| model.owner = usize::MAX);
            }
            Step::Work => {
                self.kernel.work_step();
            }
        }
    }

    /// What each unit is charged is what it has.
    fn check_quotas(&mut self) {
        settle(&mut self.kernel);
        for (index, unit) in self.units.iter().enumerate() {
            let Some(id) = unit else { continue };
            let entry = self.kernel.units.get(*id).unwrap();
            let tables = self.kernel.spaces.get(entry.memory.space.unwrap()).unwrap().tables;
            let pages: u64 = self
                .regions
                .iter()
                .filter(|model| model.owner == index)
                .filter_map(|model| self.kernel.regions.get(model.id))
                .map(|region| region.tree.pages())
                .sum();
            assert_eq!(entry.quotas.frames.used, tables + pages);
            let space = self.kernel.spaces.get(entry.memory.space.unwrap()).unwrap();
            let mut last = 0;
            for mapping in space.mappings.iter() {
                assert!(mapping.start >= last && mapping.end > mapping.start);
                last = mapping.end;
            }
        }
        for (_, region) in self.kernel.regions.iter() {
            assert_eq!(region.views.iter().map(|view| view.mappings).sum::<u32>(), region.mappings);
            if region.owner.is_some() {
                assert_eq!(region.tree.next(&self.kernel.nodes, 0, region.pages).is_some(), region.tree.pages() > 0);
            }
        }
    }
}

fn history(steps: Vec<Step>) {
    let mut world = World::new();
    let start = World::new();
    let before = (start.kernel.frames.free(), start.kernel.nodes.live(), start.kernel.regions.len());
    drop(start);
    for (number, step) in steps.into_iter().enumerate() {
        world.run(step);
        // What every unit sees, through the cache of a processor that may be stale.
        for unit in 0..3 {
            for at in (number as u64 % 2..WINDOW).step_by(2) {
                world.load(number as u32 / 2 % 2, unit, at);
            }
        }
    }
    for unit in 0..3 {
        for at in 0..WINDOW {
            world.load(0, unit, at);
            world.load(1, unit, at);
        }
    }
    world.check_quotas();
    let World { mut kernel, root, units, regions, .. } = world;
    for unit in units.into_iter().flatten() {
        kernel.unit_end(unit, End::because(holm_abi::ExitReason::Killed, 0));
        kernel.release(Object::Unit(unit));
    }
    settle(&mut kernel);
    for model in regions.iter().filter(|model| model.held) {
        kernel.region_release(model.id);
    }
    settle(&mut kernel);
    assert_eq!(kernel.units.len(), 1, "records of units are left");
    for _ in 0..3 {
        World::unit(&mut kernel, root);
    }
    assert_eq!((kernel.frames.free(), kernel.nodes.live(), kernel.regions.len()), before);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 4000, ..ProptestConfig::default() })]
    #[test]
    fn every_byte_is_the_models_and_nothing_is_left(steps in proptest::collection::vec(step(), 1..160)) {
        history(steps);
    }
}
