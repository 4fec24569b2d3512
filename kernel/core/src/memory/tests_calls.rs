//! The system calls on memory and on the boot archive, with their flags and their refusals.

use std::string::String;
use std::vec::Vec;

use holm_abi::{
    ArchiveEntry, Backing, Error, Handle, MapFlags, MapSpec, MappingInfo, ObjectType, Protection, RegionFlags,
    RegionInfo, RegionSpec, Rights,
};

use super::*;
use crate::caller::{Answer, Caller, Out, Outcome};
use crate::cap::{Cap, Types};
use crate::dispatch::{Records, UserSlice};
use crate::machine::{CpuId, PAGE_SIZE};
use crate::object::Object;
use crate::sim::SimMachine;
use crate::testing::memory::{boot, caller, settle};

const PAGE: u64 = PAGE_SIZE as u64;
const AT: u64 = 0x5000_0000;
/// Room in the program's data for what calls read and write.
const SCRATCH: u64 = 0x40_4000;

struct World {
    kernel: Kernel<SimMachine>,
    caller: Caller,
}

impl World {
    fn new() -> Self {
        let (kernel, root) = boot();
        let caller = caller(&kernel, root);
        Self { kernel, caller }
    }

    fn me(&self) -> Object {
        Object::Unit(self.caller.unit)
    }

    fn cap(&mut self, handle: Handle) -> Cap {
        self.kernel.resolve(self.caller.unit, handle, Types::ANY, Rights::NONE).unwrap()
    }

    fn done(&mut self, answer: Answer) -> Cap {
        match answer {
            Ok(Outcome::Done(handle)) => self.cap(Handle::from_register(handle).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    fn region(&mut self, pages: u64) -> Cap {
        let made = self.kernel.vm_region_create(self.caller, RegionSpec { bytes: pages * PAGE, ..RegionSpec::new() });
        self.done(made)
    }

    fn map(&mut self, cap: Cap, change: impl FnOnce(&mut MapSpec)) -> Answer {
        let mut spec = MapSpec::new();
        (spec.address, spec.flags) = (AT, MapFlags::FIXED);
        spec.protection = Protection::READ | Protection::WRITE;
        change(&mut spec);
        loop {
            match self.kernel.vm_map(self.caller, self.me(), cap, spec) {
                Ok(Outcome::Again) => {}
                other => return other,
            }
        }
    }

    fn struct_at<S>(&mut self, decode: impl Fn(&[u8]) -> Result<S, Error>, size: usize) -> S {
        let mut bytes = vec![0; size];
        self.kernel.copy_in(self.caller.unit, SCRATCH, &mut bytes).unwrap();
        decode(&bytes).unwrap()
    }

    fn query(&mut self, address: u64) -> Result<MappingInfo, Error> {
        let out = Out { address: SCRATCH, bytes: MappingInfo::SIZE, of: core::marker::PhantomData };
        self.kernel.vm_query(self.caller, self.me(), address, out)?;
        Ok(self.struct_at(MappingInfo::decode, MappingInfo::SIZE))
    }

    fn frames(&self) -> u64 {
        self.kernel.units.get(self.caller.unit).unwrap().quotas.frames.used
    }
}

use std::vec;

#[test]
fn a_mapping_needs_rights_on_the_region_and_is_never_writable_and_executable() {
    let mut world = World::new();
    let region = world.region(4);
    let rx = Protection::READ | Protection::EXECUTE;
    assert_eq!(world.map(region, |spec| spec.protection = Protection::ALL), Err(Error::Invalid));
    assert_eq!(world.map(region, |spec| spec.protection = rx), Ok(Outcome::Done(AT)));
    let read_only = Cap { rights: Rights::MAP | Rights::READ, ..region };
    assert_eq!(world.map(read_only, |_| ()), Err(Error::Access));
    assert_eq!(world.map(read_only, |spec| spec.protection = rx), Err(Error::Access));
    // A wish is a wish for a page.
    assert_eq!(world.map(read_only, |spec| (spec.address, spec.flags) = (AT + 1, MapFlags::NONE)), Err(Error::Invalid));
    assert_eq!(world.map(read_only, |spec| spec.protection = Protection::READ), Ok(Outcome::Done(AT)));
    let target = world.me();
    let write = Protection::READ | Protection::WRITE;
    assert_eq!(world.kernel.vm_protect(world.caller, target, AT, PAGE, write), Err(Error::NotPermitted));
    assert_eq!(world.kernel.vm_protect(world.caller, target, AT, PAGE, Protection::NONE), Ok(Outcome::OK));
    assert_eq!(world.kernel.copy_in(world.caller.unit, AT, &mut [0]), Err(Error::Fault));
    assert_eq!(world.kernel.vm_protect(world.caller, target, AT, 5 * PAGE, Protection::READ), Err(Error::NotFound));
    assert_eq!(world.kernel.copy_in(world.caller.unit, AT, &mut [0]), Ok(()));
}

#[test]
fn a_mapping_goes_where_it_is_asked_for_or_where_there_is_room() {
    let mut world = World::new();
    let region = world.region(4);
    assert_eq!(world.map(region, |_| ()), Ok(Outcome::Done(AT)));
    let taken = MapFlags::FIXED | MapFlags::NO_REPLACE;
    assert_eq!(world.map(region, |spec| spec.flags = taken), Err(Error::Exists));
    assert_eq!(world.map(region, |spec| spec.flags = MapFlags::NO_REPLACE), Err(Error::Invalid));
    assert_eq!(world.map(region, |spec| spec.flags = MapFlags::FIXED | MapFlags::UPPER_HALF), Err(Error::Invalid));
    for change in [
        |spec: &mut MapSpec| spec.address += 1,
        |spec: &mut MapSpec| spec.offset = 1,
        |spec: &mut MapSpec| spec.bytes = 1,
        |spec: &mut MapSpec| spec.bytes = 5 * PAGE,
        |spec: &mut MapSpec| (spec.offset, spec.bytes) = (4 * PAGE, PAGE),
        |spec: &mut MapSpec| spec.offset = u64::MAX - PAGE + 1,
        |spec: &mut MapSpec| spec.address = 0,
        |spec: &mut MapSpec| spec.address = crate::machine::USER_END - PAGE,
        |spec: &mut MapSpec| spec.address = u64::MAX - PAGE + 1,
    ] {
        assert_eq!(world.map(region, change), Err(Error::Invalid));
    }
    let Ok(Outcome::Done(free)) = world.map(region, |spec| spec.flags = MapFlags::NONE) else { panic!() };
    assert!(free != AT && free.is_multiple_of(PAGE));
    let Ok(Outcome::Done(upper)) = world.map(region, |spec| spec.flags = MapFlags::UPPER_HALF) else { panic!() };
    assert!(upper >= crate::machine::HALF);
    let wish = AT + 64 * PAGE;
    let wished = world.map(region, |spec| (spec.address, spec.flags) = (wish, MapFlags::NONE));
    assert_eq!(wished, Ok(Outcome::Done(wish)));
}

#[test]
fn a_query_tells_mappings_and_holes() {
    let mut world = World::new();
    let region = world.region(8);
    world.map(region, |spec| (spec.offset, spec.bytes) = (2 * PAGE, 4 * PAGE)).unwrap();
    world.kernel.copy_out(world.caller.unit, AT + PAGE, &[1]).unwrap();
    let told = world.query(AT + 3 * PAGE + 17).unwrap();
    assert_eq!((told.address, told.bytes, told.offset), (AT, 4 * PAGE, 2 * PAGE));
    assert_eq!((told.resident_bytes, told.backing), (PAGE, Backing::Anonymous));
    assert_eq!(told.object_type, ObjectType::Region);
    let hole = world.query(AT + 4 * PAGE).unwrap();
    assert_eq!((hole.address, hole.region, hole.object_type), (AT + 4 * PAGE, 0, ObjectType::Invalid));
    assert!(hole.bytes > 1 << 40);
    assert_eq!(world.query(0).err(), Some(Error::Invalid));
    assert_eq!(world.query(u64::MAX).err(), Some(Error::Invalid));
}

#[test]
fn committed_regions_and_populated_mappings_have_their_pages_at_once() {
    let mut world = World::new();
    let before = world.frames();
    let spec = RegionSpec { bytes: 50 * PAGE, flags: RegionFlags::COMMIT, ..RegionSpec::new() };
    let mut restarts = 0;
    let region = loop {
        match world.kernel.vm_region_create(world.caller, spec) {
            Ok(Outcome::Again) => restarts += 1,
            answer => break world.done(answer),
        }
    };
    assert!(restarts > 3, "giving pages is bounded");
    assert_eq!(world.frames() - before, 50);
    world.map(region, |spec| spec.flags = MapFlags::FIXED | MapFlags::POPULATE).unwrap();
    let root = world.kernel.units.get(world.caller.unit).unwrap().memory.root.unwrap();
    for page in 0..50 {
        assert!(world.kernel.machine.user_write(CpuId(0), root, AT + page * PAGE, 1).is_some());
    }
    // A thread that ends in the midst of it keeps nothing.
    let spec = RegionSpec { bytes: 500 * PAGE, flags: RegionFlags::COMMIT, ..RegionSpec::new() };
    let (used, regions) = (world.frames(), world.kernel.regions.len());
    assert_eq!(world.kernel.vm_region_create(world.caller, spec), Ok(Outcome::Again));
    assert!(world.frames() > used);
    world.kernel.memory_abandon(world.caller.thread);
    settle(&mut world.kernel);
    assert_eq!((world.frames(), world.kernel.regions.len()), (used, regions));
    // More than the quota: nothing is kept either.
    let spec = RegionSpec { bytes: 1 << 40, flags: RegionFlags::COMMIT, ..RegionSpec::new() };
    let refused = loop {
        match world.kernel.vm_region_create(world.caller, spec) {
            Ok(Outcome::Again) => {}
            other => break other,
        }
    };
    assert_eq!(refused, Err(Error::NoMemory));
    settle(&mut world.kernel);
    assert_eq!((world.frames(), world.kernel.regions.len()), (used, regions));
}

#[test]
fn regions_are_read_and_written_without_being_mapped() {
    let mut world = World::new();
    let region = world.region(3);
    let text: Vec<u8> = (0..100).collect();
    world.kernel.copy_out(world.caller.unit, SCRATCH, &text).unwrap();
    let from = UserSlice { address: SCRATCH, length: 100 };
    let offset = PAGE - 30;
    assert_eq!(world.kernel.vm_region_write(world.caller, region, offset, from), Ok(Outcome::Done(100)));
    let to = UserSlice { address: SCRATCH + 200, length: 140 };
    assert_eq!(world.kernel.vm_region_read(world.caller, region, offset - 20, to), Ok(Outcome::Done(140)));
    let mut back = [9; 140];
    world.kernel.copy_in(world.caller.unit, SCRATCH + 200, &mut back).unwrap();
    assert_eq!((&back[..20], &back[20..120], &back[120..]), (&[0; 20][..], &text[..], &[0; 20][..]));
    // What nobody touched is read and stays untouched; the end of the region is the end.
    let used = world.frames();
    assert_eq!(world.kernel.vm_region_read(world.caller, region, 3 * PAGE - 10, to), Ok(Outcome::Done(10)));
    assert_eq!(world.kernel.vm_region_read(world.caller, region, 3 * PAGE, to), Ok(Outcome::Done(0)));
    assert_eq!(world.kernel.vm_region_read(world.caller, region, 3 * PAGE + 1, to), Err(Error::Invalid));
    assert_eq!(world.frames(), used);
    let bad = UserSlice { address: 0, length: 10 };
    assert_eq!(world.kernel.vm_region_write(world.caller, region, 0, bad), Err(Error::Fault));
    let out = Out { address: SCRATCH, bytes: RegionInfo::SIZE, of: core::marker::PhantomData };
    world.kernel.vm_region_get_info(world.caller, region, out).unwrap();
    let told = world.struct_at(RegionInfo::decode, RegionInfo::SIZE);
    assert_eq!((told.bytes, told.committed_bytes, told.mappings), (3 * PAGE, 2 * PAGE, 0));
}

#[test]
fn the_archive_lists_opens_and_maps_its_files() {
    let mut world = World::new();
    let archive = world.cap(Handle::initial(3));
    let list = Records::<ArchiveEntry>::new(SCRATCH, 8);
    let listed = loop {
        match world.kernel.archive_list(world.caller, archive, 0, list) {
            Ok(Outcome::Again | Outcome::Done(1)) => {}
            other => break other,
        }
    };
    assert_eq!(listed, Ok(Outcome::Done(2)));
    let mut bytes = [0; ArchiveEntry::SIZE];
    world.kernel.copy_in(world.caller.unit, list.at(1), &mut bytes).unwrap();
    let notes = ArchiveEntry::decode(&bytes).unwrap();
    assert_eq!((notes.bytes, notes.program), (9, 0));
    assert_eq!(String::from_utf8_lossy(&notes.name).trim_end_matches('\0'), "notes");
    world.kernel.copy_out(world.caller.unit, SCRATCH, b"notesmissing").unwrap();
    let name = |from, length| UserSlice { address: SCRATCH + from, length };
    assert_eq!(world.kernel.archive_open(world.caller, archive, name(5, 7)), Err(Error::NotFound));
    assert_eq!(world.kernel.archive_open(world.caller, archive, name(0, 1 << 40)), Err(Error::TooBig));
    let opened = world.kernel.archive_open(world.caller, archive, name(0, 5));
    let image = world.done(opened);
    let to = UserSlice { address: SCRATCH + 100, length: 50 };
    assert_eq!(world.kernel.image_read(world.caller, image, 5, to), Ok(Outcome::Done(4)));
    assert_eq!(world.kernel.image_read(world.caller, image, 50, to), Ok(Outcome::Done(0)));
    let mut text = [0; 4];
    world.kernel.copy_in(world.caller.unit, SCRATCH + 100, &mut text).unwrap();
    assert_eq!(&text, b"text");
    // Two regions of one file: what is written in one is not seen in the other.
    let first = world.kernel.image_map_region(world.caller, image);
    let first = world.done(first);
    world.map(first, |_| ()).unwrap();
    world.kernel.copy_out(world.caller.unit, AT, b"SOME").unwrap();
    let second = world.kernel.image_map_region(world.caller, image);
    let second = world.done(second);
    assert_eq!(world.kernel.vm_region_read(world.caller, second, 0, to), Ok(Outcome::Done(50)));
    let mut text = [0; 12];
    world.kernel.copy_in(world.caller.unit, SCRATCH + 100, &mut text).unwrap();
    assert_eq!(&text, b"some text\0\0\0");
    world.kernel.copy_in(world.caller.unit, AT, &mut text).unwrap();
    assert_eq!(&text, b"SOME text\0\0\0");
}

#[test]
fn an_unmapping_in_steps_leaves_alone_what_others_map_behind_it() {
    let mut world = World::new();
    let (large, small) = (world.region(400), world.region(1));
    assert_eq!(world.map(large, |_| ()), Ok(Outcome::Done(AT)));
    let target = world.me();
    for page in 0..400 {
        world.kernel.copy_out(world.caller.unit, AT + page * PAGE, &[1]).unwrap();
    }
    assert_eq!(world.kernel.vm_unmap(world.caller, target, AT, 400 * PAGE), Ok(Outcome::Again));
    // Another thread maps in between.
    assert_eq!(world.map(small, |_| ()), Ok(Outcome::Done(AT)));
    loop {
        let registers = world.kernel.threads.get(world.caller.thread).unwrap().registers;
        assert!(registers.rsi > AT);
        match world.kernel.vm_unmap(world.caller, target, registers.rsi, registers.rdx).unwrap() {
            Outcome::Again => {}
            other => break assert_eq!(other, Outcome::OK),
        }
    }
    assert_eq!(world.kernel.copy_out(world.caller.unit, AT, &[1]), Ok(()));
    assert_eq!(world.kernel.copy_out(world.caller.unit, AT + 399 * PAGE, &[1]), Err(Error::Fault));
}
