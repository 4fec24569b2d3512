//! Single cases of memory: addresses at the edges, snapshots left behind, revocation, regions of terabytes.

use std::vec::Vec;

use holm_abi::{Backing, Error, Protection};

use super::space::Placement;
use super::tests::{BASE, PAGE};
use super::*;
use crate::machine::CpuId;
use crate::object::Object;
use crate::sim::SimMachine;
use crate::testing::memory::{boot, first_thread, settle};

/// Addresses that lead nowhere, in every way.
#[test]
fn no_address_makes_an_access_more_than_fail() {
    let (mut kernel, root) = boot();
    let mut bytes = [0; 64];
    let nowhere = [
        0,
        0xfff,
        0x1_0000,
        0x40_0000 - 1,
        crate::machine::HALF - 32,
        crate::machine::USER_END - 32,
        crate::machine::USER_END,
        0x7fff_ffff_ffff,
        0x8000_0000_0000,
        0xffff_7fff_ffff_ffff,
        0xffff_8000_0000_0000,
        u64::MAX - 32,
        u64::MAX,
    ];
    for address in nowhere {
        assert_eq!(kernel.copy_in(root, address, &mut bytes), Err(Error::Fault), "{address:#x}");
        assert_eq!(kernel.copy_out(root, address, &bytes), Err(Error::Fault), "{address:#x}");
        assert_eq!(kernel.copy_between(root, address, root, 0x40_2800, 64), Err(Error::Fault), "{address:#x}");
        assert_eq!(kernel.copy_between(root, 0x40_2800, root, address, 64), Err(Error::Fault), "{address:#x}");
        assert_eq!(kernel.copy_in(root, address, &mut []), Ok(()));
    }
    // Across the end of what is mapped: what lies before is done, the rest is not.
    assert_eq!(kernel.copy_out(root, 0x40_6000 - 8, &[7; 16]), Err(Error::Fault));
    kernel.copy_in(root, 0x40_6000 - 8, &mut bytes[..8]).unwrap();
    assert_eq!(bytes[..8], [7; 8]);
    // Text is not the kernel's to write for anyone.
    assert_eq!(kernel.copy_out(root, 0x40_0000, &[1]), Err(Error::Fault));
}

#[test]
fn a_snapshot_that_its_maker_leaves_behind_is_made_by_the_next() {
    let (mut kernel, root) = boot();
    let space = kernel.units.get(root).unwrap().memory.space.unwrap();
    let region = kernel.region_new(Some(root), 300, Backing::Anonymous, &[]).unwrap();
    let rights = Protection::READ | Protection::WRITE;
    kernel.map_step(space, region, 0, 300 * PAGE, Placement::Free(BASE), rights, rights, None).unwrap();
    for page in 0..300 {
        kernel.copy_out(root, BASE + page * PAGE, &[1]).unwrap();
    }
    let frames = kernel.units.get(root).unwrap().quotas.frames.used;
    let gone = crate::thread::ThreadId::from_number(u64::MAX);
    assert_eq!(kernel.region_snapshot_step(region, root, gone), Ok(None));
    assert_eq!(kernel.units.get(root).unwrap().quotas.frames.used, frames + 300);
    let thread = first_thread(&kernel, root);
    let copy = loop {
        if let Some(copy) = kernel.region_snapshot_step(region, root, thread).unwrap() {
            break copy;
        }
    };
    settle(&mut kernel);
    assert_eq!(kernel.units.get(root).unwrap().quotas.frames.used, frames + 300);
    for page in 0..300 {
        kernel.copy_out(root, BASE + page * PAGE, &[2]).unwrap();
        let (frame, _) = kernel.region_page(copy, page, false).unwrap();
        let mut byte = [0];
        kernel.machine.frame_read(frame, 0, &mut byte);
        assert_eq!(byte, [1]);
    }
    kernel.region_release(copy);
    settle(&mut kernel);
    assert_eq!(kernel.units.get(root).unwrap().quotas.frames.used, frames);
}

#[test]
fn revoking_a_capability_takes_its_mappings_away_and_no_others() {
    let (mut kernel, root) = boot();
    let caller = crate::testing::memory::caller(&kernel, root);
    let made =
        kernel.vm_region_create(caller, holm_abi::RegionSpec { bytes: 64 * PAGE, ..holm_abi::RegionSpec::new() });
    let Ok(crate::Outcome::Done(handle)) = made else { panic!("{made:?}") };
    let handle = holm_abi::Handle::from_register(handle).unwrap();
    let find = |kernel: &mut Kernel<SimMachine>, handle| {
        kernel.resolve(root, handle, crate::cap::Types::ANY, holm_abi::Rights::NONE).unwrap()
    };
    let first = find(&mut kernel, handle);
    let rights = first.rights;
    let policy = holm_abi::ObjectType::Region.transfer_flags();
    let Ok(crate::Outcome::Done(weaker)) = kernel.cap_derive(caller, first, rights, policy, 0) else { panic!() };
    let weaker = holm_abi::Handle::from_register(weaker).unwrap();
    let second = find(&mut kernel, weaker);
    for (index, cap) in [first, second, first, second].into_iter().enumerate() {
        let mut spec = holm_abi::MapSpec::new();
        spec.address = BASE + index as u64 * 64 * PAGE;
        (spec.protection, spec.flags) = (Protection::READ | Protection::WRITE, holm_abi::MapFlags::FIXED);
        assert_eq!(kernel.vm_map(caller, Object::Unit(root), cap, spec), Ok(crate::Outcome::Done(spec.address)));
        for page in 0..64 {
            kernel.copy_out(root, spec.address + page * PAGE, &[9]).unwrap();
        }
    }
    // A hole makes two mappings of one.
    assert_eq!(kernel.vm_unmap(caller, Object::Unit(root), BASE + 70 * PAGE, 2 * PAGE), Ok(crate::Outcome::OK));
    let flags = holm_abi::RevokeFlags::NONE;
    while kernel.cap_revoke(caller, weaker, flags) == Ok(crate::Outcome::Again) {}
    let mut byte = [0];
    for index in 0..4 {
        let address = BASE + index * 64 * PAGE;
        let expected = if index % 2 == 0 { Ok(()) } else { Err(Error::Fault) };
        assert_eq!(kernel.copy_in(root, address, &mut byte), expected);
        let root_space = kernel.units.get(root).unwrap().memory.root.unwrap();
        let seen = kernel.machine.user_read(CpuId(1), root_space, address + 5 * PAGE);
        assert_eq!(seen, if index % 2 == 0 { Some(9) } else { None });
    }
    settle(&mut kernel);
}

#[test]
fn a_region_of_terabytes_costs_what_is_touched() {
    let (mut kernel, root) = boot();
    let before = kernel.units.get(root).unwrap().quotas;
    let pages = holm_abi::limits::MAX_REGION / PAGE;
    let region = kernel.region_new(Some(root), pages, Backing::Anonymous, &[]).unwrap();
    for page in [0, 1, 1 << 20, 1 << 33, pages - 1] {
        kernel.region_page(region, page, true).unwrap();
    }
    assert_eq!(kernel.region_page(region, pages, true), Err(Error::Fault));
    let entry = kernel.regions.get(region).unwrap();
    let found: Vec<u64> = core::iter::successors(entry.tree.next(&kernel.nodes, 0, pages), |(page, _)| {
        entry.tree.next(&kernel.nodes, page + 1, pages)
    })
    .map(|(page, _)| page)
    .collect();
    assert_eq!(found, [0, 1, 1 << 20, 1 << 33, pages - 1]);
    let used = kernel.units.get(root).unwrap().quotas;
    assert_eq!(used.frames.used - before.frames.used, 5);
    assert!(used.kernel.used - before.kernel.used < 32 * super::tree::NODE_BYTES);
    assert_eq!(kernel.region_decommit_step(region, 1, pages), Ok(Progress::Done));
    assert_eq!(kernel.units.get(root).unwrap().quotas.frames.used - before.frames.used, 1);
    kernel.region_release(region);
    settle(&mut kernel);
    let after = kernel.units.get(root).unwrap().quotas;
    assert_eq!((after.frames.used, after.kernel.used), (before.frames.used, before.kernel.used));
}
