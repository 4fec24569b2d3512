//! Revoking memory: when the call returns, no mapping made through what it ended is left, in any unit.

use holm_abi::{Backing, Error, Handle, MapSpec, Protection, RevokeFlags, Rights, TransferFlags, TransferMode};

use super::{Cap, GrantId, Types};
use crate::caller::Outcome;
use crate::machine::{Machine, PAGE_SIZE};
use crate::object::Object;
use crate::testing::ipc;

const AT: u64 = 0x40_0000;
const PAGES: u64 = 200;

#[test]
fn revoke_of_memory_returns_when_nothing_is_mapped_through_it() {
    let (mut kernel, units, callers) = ipc::kernel(3, 1);
    let region = kernel.region_new(None, PAGES, Backing::Anonymous, &[]).unwrap();
    let owner = callers[0][0];
    let all = holm_abi::ObjectType::Region.rights();
    let root = kernel.cap_install(units[0], Object::Region(region), all, TransferFlags::ALL).unwrap();
    // The other units get clones of a derivation and map through them; the owner maps through its own.
    let own = kernel.resolve(units[0], root, Types::ANY, Rights::DERIVE).unwrap();
    let Ok(Outcome::Done(middle)) = kernel.cap_derive(owner, own, all, TransferFlags::ALL, 0) else {
        panic!("derived")
    };
    let middle = Handle::from_register(middle).unwrap();
    let mut handles = std::vec![root];
    for unit in &units[1..] {
        let target = Cap {
            handle: middle,
            object: Object::Unit(*unit),
            rights: Rights::ALL,
            badge: 0,
            grant: GrantId::from_number(0),
        };
        let Ok(Outcome::Done(handle)) = kernel.cap_grant(owner, target, middle, all, TransferMode::Clone) else {
            panic!("granted")
        };
        handles.push(Handle::from_register(handle).unwrap());
    }
    for ((unit, caller), handle) in units.iter().zip(&callers).zip(&handles) {
        let space = kernel.space_new(*unit, AT, 4 * AT).unwrap();
        kernel.units.get_mut(*unit).unwrap().memory.space = Some(space);
        let cap = kernel.resolve(*unit, *handle, Types::ANY, Rights::MAP).unwrap();
        let protection = Protection::READ | Protection::WRITE;
        let spec = MapSpec { address: AT, bytes: PAGES * PAGE_SIZE as u64, protection, ..MapSpec::new() };
        let mapped = kernel.vm_map(caller[0], Object::Unit(*unit), cap, spec);
        assert_eq!(mapped, Ok(Outcome::Done(AT)));
        for page in 0..PAGES {
            kernel.copy_out(*unit, AT + page * PAGE_SIZE as u64, &[page as u8]).unwrap();
        }
    }
    // A handle that is closed leaves its mapping; the mapping is found all the same.
    kernel.cap_close_handle(units[2], handles[2]).unwrap();
    let mut calls = 1;
    while kernel.cap_revoke(owner, middle, RevokeFlags::NONE) == Ok(Outcome::Again) {
        calls += 1;
        assert!(calls < 1000, "the call comes to its end");
    }
    for unit in &units[1..] {
        assert_eq!(kernel.copy_in(*unit, AT, &mut [0]), Err(Error::Fault));
        let space = kernel.units.get(*unit).unwrap().memory.root;
        if let Some(space) = space {
            assert!((0..PAGES).all(|page| kernel.machine.translate(space, AT + page * PAGE_SIZE as u64).is_none()));
        }
    }
    let mut byte = [0];
    kernel.copy_in(units[0], AT + 7 * PAGE_SIZE as u64, &mut byte).unwrap();
    assert_eq!(byte, [7], "what was mapped through the rest stays");
    assert_eq!(
        kernel.cap_revoke(owner, middle, RevokeFlags::NONE),
        Err(Error::Revoked),
        "the next call is another one"
    );
    assert_eq!(kernel.resolve(units[1], handles[1], Types::ANY, Rights::NONE), Err(Error::Revoked));
}
