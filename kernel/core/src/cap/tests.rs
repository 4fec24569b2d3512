//! Capabilities against a small model that ends descendants one by one, at once.

use std::collections::BTreeMap;
use std::format;
use std::string::String;
use std::vec::Vec;

use holm_abi::{CapTransfer, ConcurrencyClass, Error, Handle, RevokeFlags, Rights, TransferFlags, TransferMode};
use proptest::prelude::*;

use super::{Cap, Progress, Types};
use crate::caller::{Answer, Caller, Outcome};
use crate::kernel::Kernel;
use crate::object::Object;
use crate::quota::Quota;
use crate::sim::SimMachine;
use crate::testing::ipc;
use crate::unit::UnitId;

#[derive(Debug, Clone)]
struct ModelCap {
    object: Object,
    rights: Rights,
    transfer: TransferFlags,
    parent: Option<usize>,
    lent: bool,
    depth: u32,
    dead: bool,
    holder: Option<(UnitId, Handle)>,
}

#[derive(Debug, Default)]
struct Model {
    caps: Vec<ModelCap>,
    gone: Vec<(UnitId, Handle)>,
}

impl Model {
    fn end(&mut self, cap: usize) {
        self.caps[cap].dead = true;
        self.end_children(cap, false);
    }

    fn end_children(&mut self, cap: usize, only_lent: bool) {
        for child in 0..self.caps.len() {
            if self.caps[child].parent == Some(cap) && !self.caps[child].dead && (!only_lent || self.caps[child].lent) {
                self.end(child);
            }
        }
    }

    fn close(&mut self, cap: usize) {
        let holder = self.caps[cap].holder.take().unwrap();
        self.gone.push(holder);
        self.end_children(cap, true);
    }

    fn alive_of(&self, object: Object) -> u32 {
        self.caps.iter().filter(|cap| cap.object == object && !cap.dead && cap.holder.is_some()).count() as u32
    }
}

/// Everything that a failed call must not change.
fn state(kernel: &Kernel<SimMachine>) -> String {
    let mut text = String::new();
    for (id, unit) in kernel.units.iter() {
        let handles: Vec<_> =
            unit.caps.handles().map(|(handle, slot)| (handle, slot.rights, slot.object, slot.content)).collect();
        text += &format!(
            "{id:?} {} {} {} {handles:?}\n",
            unit.quotas.handles.used,
            unit.quotas.kernel.used - unit.caps.bytes(),
            unit.references
        );
    }
    text + &format!("{:?}", kernel.caps.grants.iter().map(|(id, node)| (id, node.holder)).collect::<Vec<_>>())
}

fn subset(bits: u64) -> Rights {
    Rights::from_register(bits & Rights::ALL.bits()).unwrap()
}

/// Mostly everything, sometimes less, so that histories go on.
fn rights(bits: u16) -> Rights {
    if bits.is_multiple_of(4) { subset(u64::from(bits) >> 2) } else { Rights::ALL.without(subset(1 << (bits % 9))) }
}

const MODES: [TransferMode; 3] = [TransferMode::Move, TransferMode::Borrow, TransferMode::Clone];
const NEEDED: [TransferFlags; 3] =
    [TransferFlags::MOVE_ALLOWED, TransferFlags::BORROW_ALLOWED, TransferFlags::CLONE_ALLOWED];

/// Whether a call was refused: as the model expects, or for want of room, which the model does not know.
fn is_refused(answer: Answer, expected: Option<Error>) -> bool {
    match (answer, expected) {
        (Err(Error::NoHandles | Error::Quota), None) => true,
        (Err(error), Some(expected)) => {
            assert_eq!(error, expected);
            true
        }
        (answer, expected) => panic!("{answer:?}, not {expected:?}"),
    }
}

struct World {
    kernel: Kernel<SimMachine>,
    units: Vec<UnitId>,
    callers: Vec<Caller>,
    objects: Vec<Object>,
    model: Model,
}

impl World {
    fn new() -> Self {
        let (mut kernel, units, callers) = ipc::kernel(5, 1);
        let callers: Vec<Caller> = callers.into_iter().map(|threads| threads[0]).collect();
        for unit in &units[..3] {
            let quotas = &mut kernel.units.get_mut(*unit).unwrap().quotas;
            quotas.handles = Quota::new(24);
            quotas.kernel = Quota::new(40 * super::Grant::BYTES);
        }
        // Objects that nothing else happens to; a thread is LOCAL_ONLY.
        let objects = std::vec![Object::Unit(units[3]), Object::Unit(units[4]), Object::Thread(callers[4].thread)];
        Self { kernel, units, callers, objects, model: Model::default() }
    }

    fn held(&self, which: u16) -> Option<usize> {
        let held: Vec<usize> =
            (0..self.model.caps.len()).filter(|cap| self.model.caps[*cap].holder.is_some()).collect();
        (!held.is_empty()).then(|| held[usize::from(which) % held.len()])
    }

    /// One random call, in the kernel and in the model; both must agree on the answer.
    fn step(&mut self, op: u8, a: u16, b: u16, c: u16) {
        let before = state(&self.kernel);
        let failed = self.call(op, a, b, c);
        if failed {
            assert_eq!(before, state(&self.kernel), "a call that failed changed something");
        }
        self.check();
    }

    fn call(&mut self, op: u8, a: u16, b: u16, c: u16) -> bool {
        match op {
            0..=2 => {
                let unit = self.units[usize::from(a) % 3];
                let object = self.objects[usize::from(b) % 3];
                let policy = if c.is_multiple_of(5) {
                    TransferFlags::from_register(u64::from(c) % 8).unwrap()
                } else {
                    TransferFlags::ALL
                };
                match self.kernel.cap_install(unit, object, rights(c), policy) {
                    Ok(handle) => self.model.caps.push(ModelCap {
                        object,
                        rights: rights(c),
                        transfer: policy,
                        parent: None,
                        lent: false,
                        depth: 0,
                        dead: false,
                        holder: Some((unit, handle)),
                    }),
                    Err(error) => {
                        assert!(matches!(error, Error::NoHandles | Error::Quota), "{error:?}");
                        return true;
                    }
                }
                false
            }
            3..=6 => {
                let Some(cap) = self.held(a) else { return false };
                self.derive(cap, rights(b), TransferFlags::from_register((u64::from(c) % 8) | 1).unwrap())
            }
            7..=11 => {
                let Some(cap) = self.held(a) else { return false };
                self.grant(cap, usize::from(b) % 3, rights(c), usize::from(b / 3) % 3)
            }
            12..=13 => {
                let Some(cap) = self.held(a) else { return false };
                let (unit, handle) = self.model.caps[cap].holder.unwrap();
                let caller = self.callers[self.units.iter().position(|id| *id == unit).unwrap()];
                let children_only = b.is_multiple_of(2);
                let flags = if children_only { RevokeFlags::CHILDREN_ONLY } else { RevokeFlags::NONE };
                let answer = self.kernel.cap_revoke(caller, handle, flags);
                if self.model.caps[cap].dead {
                    assert_eq!(answer, Err(Error::Revoked));
                    return true;
                }
                assert_eq!(answer, Ok(Outcome::OK));
                if children_only {
                    self.model.end_children(cap, false)
                } else {
                    self.model.end(cap)
                }
                false
            }
            14..=17 => {
                let Some(cap) = self.held(a) else { return false };
                let (unit, handle) = self.model.caps[cap].holder.unwrap();
                self.kernel.cap_close_handle(unit, handle).unwrap();
                self.model.close(cap);
                false
            }
            18 => {
                let _ = self.kernel.caps_sweep_step();
                false
            }
            _ => {
                // A whole unit is torn down, in steps with sweeps between them.
                if a.is_multiple_of(8) {
                    let unit = self.units[usize::from(b) % 3];
                    while self.kernel.caps_teardown_step(unit) == Progress::More {
                        if c.is_multiple_of(2) {
                            let _ = self.kernel.caps_sweep_step();
                        }
                    }
                    for cap in 0..self.model.caps.len() {
                        if self.model.caps[cap].holder.is_some_and(|(holder, _)| holder == unit) {
                            self.model.close(cap);
                        }
                    }
                }
                false
            }
        }
    }

    fn derive(&mut self, cap: usize, rights: Rights, transfer: TransferFlags) -> bool {
        let from = self.model.caps[cap].clone();
        let (unit, handle) = from.holder.unwrap();
        let caller = self.callers[self.units.iter().position(|id| *id == unit).unwrap()];
        let found = self.kernel.resolve(unit, handle, Types::ANY, Rights::DERIVE);
        let answer = found.and_then(|found| self.kernel.cap_derive(caller, found, rights, transfer, 0));
        let expected = if from.dead {
            Some(Error::Revoked)
        } else if !from.rights.contains(Rights::DERIVE) || !from.rights.contains(rights) {
            Some(Error::Access)
        } else if !from.transfer.contains(transfer) {
            Some(Error::NotPermitted)
        } else if from.depth >= 32 {
            Some(Error::TooDeep)
        } else {
            None
        };
        match (answer, expected) {
            (Ok(Outcome::Done(handle)), None) => {
                let holder = Some((unit, Handle::from_register(handle).unwrap()));
                let depth = from.depth + 1;
                self.model.caps.push(ModelCap {
                    rights,
                    transfer,
                    parent: Some(cap),
                    lent: false,
                    depth,
                    holder,
                    ..from
                });
                false
            }
            (answer, expected) => is_refused(answer, expected),
        }
    }

    fn grant(&mut self, cap: usize, to: usize, rights: Rights, mode: usize) -> bool {
        let from = self.model.caps[cap].clone();
        let (unit, handle) = from.holder.unwrap();
        let caller = self.callers[self.units.iter().position(|id| *id == unit).unwrap()];
        let to = self.units[to];
        let target = Cap {
            handle,
            object: Object::Unit(to),
            rights: Rights::ALL,
            badge: 0,
            grant: super::GrantId::from_number(0),
        };
        let answer = self.kernel.cap_grant(caller, target, handle, rights, MODES[mode]);
        let local = from.object.object_type().concurrency_class() == ConcurrencyClass::LocalOnly;
        let expected = if from.dead {
            Some(Error::Revoked)
        } else if !from.rights.contains(Rights::TRANSFER) || !from.rights.contains(rights) {
            Some(Error::Access)
        } else if local || !from.transfer.contains(NEEDED[mode]) {
            Some(Error::NotPermitted)
        } else if mode > 0 && from.depth >= 32 {
            Some(Error::TooDeep)
        } else {
            None
        };
        match (answer, expected) {
            (Ok(Outcome::Done(handle)), None) => {
                let holder = Some((to, Handle::from_register(handle).unwrap()));
                let depth = from.depth + 1;
                match MODES[mode] {
                    TransferMode::Move => {
                        self.model.gone.push(from.holder.unwrap());
                        self.model.caps[cap].holder = holder;
                        self.model.caps[cap].rights = rights;
                    }
                    TransferMode::Borrow => {
                        let (rights, transfer) = (rights.without(Rights::TRANSFER), TransferFlags::NONE);
                        self.model.caps.push(ModelCap {
                            rights,
                            transfer,
                            parent: Some(cap),
                            lent: true,
                            depth,
                            holder,
                            ..from
                        });
                    }
                    TransferMode::Clone => {
                        self.model.caps.push(ModelCap {
                            rights,
                            parent: Some(cap),
                            lent: false,
                            depth,
                            holder,
                            ..from
                        });
                    }
                }
                false
            }
            (answer, expected) => is_refused(answer, expected),
        }
    }

    fn check(&mut self) {
        let mut used: BTreeMap<UnitId, u64> = BTreeMap::new();
        for cap in self.model.caps.clone() {
            let Some((unit, handle)) = cap.holder else { continue };
            *used.entry(unit).or_default() += 1;
            match self.kernel.resolve(unit, handle, Types::ANY, Rights::NONE) {
                Ok(found) => {
                    assert!(!cap.dead, "{handle:?} was revoked");
                    assert_eq!((found.object, found.rights), (cap.object, cap.rights));
                }
                Err(error) => assert!(cap.dead && error == Error::Revoked, "{cap:?} {error:?}"),
            }
        }
        for (unit, handle) in &self.model.gone {
            assert_eq!(self.kernel.resolve(*unit, *handle, Types::ANY, Rights::NONE), Err(Error::BadHandle));
        }
        for unit in &self.units {
            assert_eq!(self.kernel.units.get(*unit).unwrap().quotas.handles.used, *used.get(unit).unwrap_or(&0));
        }
        for object in self.objects.clone() {
            let (count, alive) = (*self.kernel.references(object).unwrap(), self.model.alive_of(object) + 1);
            assert!(count >= alive, "{object:?} has {count} references of {alive}");
        }
    }

    /// When all was swept, exactly what lives is counted; when all was closed, nothing is left.
    fn finish(&mut self) {
        while self.kernel.caps_sweep_step() == Progress::More {}
        self.check();
        for object in self.objects.clone() {
            assert_eq!(*self.kernel.references(object).unwrap(), self.model.alive_of(object) + 1, "{object:?}");
        }
        for unit in self.units.clone() {
            while self.kernel.caps_teardown_step(unit) == Progress::More {}
        }
        while self.kernel.caps_sweep_step() == Progress::More {}
        assert_eq!(self.kernel.caps.grants.len(), 0, "{:?}", self.kernel.caps.grants);
        for (_, unit) in self.kernel.units.iter() {
            assert_eq!((unit.quotas.handles.used, unit.references), (0, 1));
            assert_eq!(unit.quotas.kernel.used, unit.caps.bytes());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn capabilities_follow_the_model(
        steps in proptest::collection::vec((0u8..20, any::<u16>(), any::<u16>(), any::<u16>()), 0..120),
    ) {
        let mut world = World::new();
        for (op, a, b, c) in steps {
            world.step(op, a, b, c);
        }
        world.finish();
    }
}

#[test]
fn a_chain_of_derivations_ends_at_the_limit_and_falls_as_one() {
    let mut world = World::new();
    world.call(0, 0, 0, 1);
    world.model.caps[0].rights = Rights::ALL;
    let (unit, first) = world.model.caps[0].holder.unwrap();
    world.kernel.units.get_mut(unit).unwrap().quotas.handles = Quota::new(100);
    world.kernel.units.get_mut(unit).unwrap().quotas.kernel = Quota::new(1 << 20);
    let root = world.kernel.cap_install(unit, world.objects[0], Rights::ALL, TransferFlags::ALL).unwrap();
    let mut handles = std::vec![root];
    let caller = world.callers[0];
    loop {
        let cap = world.kernel.resolve(unit, *handles.last().unwrap(), Types::ANY, Rights::DERIVE).unwrap();
        match world.kernel.cap_derive(caller, cap, Rights::ALL, TransferFlags::ALL, 0) {
            Ok(Outcome::Done(handle)) => handles.push(Handle::from_register(handle).unwrap()),
            other => {
                assert_eq!(other, Err(Error::TooDeep));
                break;
            }
        }
    }
    assert_eq!(handles.len(), 33);
    world.kernel.cap_revoke(caller, root, RevokeFlags::NONE).unwrap();
    for handle in handles {
        assert_eq!(world.kernel.resolve(unit, handle, Types::ANY, Rights::NONE), Err(Error::Revoked));
    }
    assert!(world.kernel.resolve(unit, first, Types::ANY, Rights::NONE).is_ok());
}

#[test]
fn ten_thousand_descendants_fall_at_once_and_are_swept_in_bounded_steps() {
    let (mut kernel, units, callers) = ipc::kernel(2, 1);
    let caller = callers[0][0];
    let object = Object::Unit(units[1]);
    let root = kernel.cap_install(units[0], object, Rights::ALL, TransferFlags::ALL).unwrap();
    let cap = kernel.resolve(units[0], root, Types::ANY, Rights::NONE).unwrap();
    let mut last = root;
    for _ in 0..10_000 {
        let Outcome::Done(handle) = kernel.cap_derive(caller, cap, Rights::READ, TransferFlags::ALL, 0).unwrap() else {
            panic!("cap_derive answers a handle")
        };
        last = Handle::from_register(handle).unwrap();
    }
    kernel.cap_revoke(caller, root, RevokeFlags::CHILDREN_ONLY).unwrap();
    assert_eq!(kernel.resolve(units[0], last, Types::ANY, Rights::NONE), Err(Error::Revoked));
    assert!(kernel.resolve(units[0], root, Types::ANY, Rights::NONE).is_ok());
    // Those that come after the revocation live, whatever the sweeper does.
    let young = kernel.cap_derive(caller, cap, Rights::READ, TransferFlags::ALL, 0).unwrap();
    let Outcome::Done(young) = young else { panic!("cap_derive answers a handle") };
    let mut steps = 0;
    while kernel.caps_sweep_step() == Progress::More {
        steps += 1;
    }
    assert!((10_000 / 4..10_000 / 4 + 3).contains(&steps), "{steps}");
    assert_eq!(kernel.caps.grants.len(), 2);
    assert!(kernel.resolve(units[0], Handle::from_register(young).unwrap(), Types::ANY, Rights::READ).is_ok());
    assert_eq!(kernel.units.get(units[1]).unwrap().references, 3);
}

#[test]
fn a_handle_of_another_type_or_without_the_right_is_refused() {
    let (mut kernel, units, _) = ipc::kernel(1, 1);
    let handle = kernel.cap_install(units[0], Object::Console, Rights::READ, TransferFlags::ALL).unwrap();
    let console = Types::of(holm_abi::ObjectType::Console);
    let timer = Types::of(holm_abi::ObjectType::Timer);
    assert!(kernel.resolve(units[0], handle, console.or(timer), Rights::READ).is_ok());
    assert_eq!(kernel.resolve(units[0], handle, timer, Rights::READ), Err(Error::WrongType));
    assert_eq!(kernel.resolve(units[0], handle, console, Rights::WRITE), Err(Error::Access));
    assert_eq!(kernel.resolve(units[0], Handle::NONE, console, Rights::NONE), Err(Error::BadHandle));
    assert_eq!(kernel.resolve(units[0], Handle::from_raw(-1), console, Rights::NONE), Err(Error::BadHandle));
    assert_eq!(kernel.resolve(units[0], Handle::initial(999), console, Rights::NONE), Err(Error::BadHandle));
}

#[test]
fn a_capability_that_is_moved_cannot_be_named_twice_in_a_message() {
    let (mut kernel, units, _) = ipc::kernel(1, 1);
    let cap = kernel.cap_install(units[0], Object::Console, Rights::ALL, TransferFlags::ALL).unwrap();
    for (one, two, allowed) in [(0, 0, false), (0, 1, false), (2, 0, false), (1, 1, true), (1, 2, true), (2, 2, true)] {
        let transfer = |mode: usize| CapTransfer { cap, mode: MODES[mode], rights: Rights::READ };
        let decided = kernel.parcel_decide(units[0], &[transfer(one), transfer(two)], None);
        assert_eq!(decided.map(|parcel| parcel.len()), if allowed { Ok(2) } else { Err(Error::Invalid) });
    }
}
