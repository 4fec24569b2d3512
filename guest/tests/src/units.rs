//! Units: life, ends, faults, quotas.

use alloc::format;
use core::time::Duration;

use holm_rt::abi::{
    Error, ExitReason, Identity, Label, Rights, SchedClass, UnitAttr, UnitAttrMask, UnitFlags, UnitState, number,
};
use holm_rt::startup::{padded, unpadded};
use holm_rt::{Channel, Object, Region, UnitBuilder, sys};

use crate::harness::{Outcome, Test, World, check, check_eq, must_answer, soon};

pub(crate) const TESTS: &[Test] = &[
    ("unit_runs_and_exits_with_its_code", runs_and_exits),
    ("unit_gets_arguments_environment_and_caps", arguments_environment_and_caps_arrive),
    ("unit_states_follow_its_life", states_follow),
    ("unit_stopped_and_killed_say_so", stopped_and_killed),
    ("unit_faults_end_it_alone_with_a_reason", faults_end_it_alone),
    ("unit_over_its_memory_quota_ends_alone", memory_quota_holds),
    ("unit_thread_and_handle_quotas_hold", count_quotas_hold),
    ("unit_quotas_never_grow_from_parent_to_child", quotas_never_grow),
    ("unit_labels_and_name_can_be_changed", labels_and_name),
    ("unit_identity_is_unique", identity_is_unique),
    ("unit_that_is_no_program_is_refused", no_program_is_refused),
    ("unit_without_image_can_be_made_and_dropped", empty_unit),
    ("unit_children_leak_nothing", children_leak_nothing),
    ("unit_ends_with_its_parent_when_asked", ends_with_parent),
];

fn runs_and_exits(world: &World) -> Outcome {
    for code in ["0", "7", "-5"] {
        let unit = world.child("exit", &[code]).start()?;
        let info = unit.wait(soon())?;
        check_eq!(info.state, UnitState::Stopped);
        check_eq!(info.exit_reason, ExitReason::Exited);
        check_eq!(format!("{}", info.exit_code), code);
        check_eq!((info.threads, info.handles, info.memory_bytes), (0, 0, 0));
        check!(
            info.start_time > 0 && info.exit_time >= info.start_time,
            "times {} {}",
            info.start_time,
            info.exit_time
        );
    }
    Ok(())
}

fn arguments_environment_and_caps_arrive(world: &World) -> Outcome {
    let (first, second) = Channel::queue(64, 4)?;
    let unit = world
        .child("arguments", &["one", "", "three words here"])
        .environment("COLOUR=blue")
        .environment("EMPTY=")
        .cap("first", first.cloned(Rights::RECEIVE | Rights::INSPECT))
        .cap("second", second.moved(Rights::SEND | Rights::INSPECT))
        .start()?;
    check_eq!(unit.wait(soon())?.exit_code, 0);
    Ok(())
}

fn states_follow(world: &World) -> Outcome {
    let unit = world.child("sleep", &[]).create()?;
    let info = unit.info()?;
    check_eq!((info.state, info.exit_reason, info.start_time), (UnitState::Created, ExitReason::None, 0));
    check_eq!(unpadded(&info.name), "sleep");
    check_eq!(info.parent, holm_rt::startup::unit_id());
    unit.start()?;
    check_eq!(unit.info()?.state, UnitState::Running);
    must_answer(number::unit_start, Error::BadState, unit.start())?;
    unit.stop(3)?;
    let info = unit.wait(soon())?;
    check_eq!((info.state, info.exit_reason, info.exit_code), (UnitState::Stopped, ExitReason::Stopped, 3));
    must_answer(number::unit_stop, Error::BadState, unit.stop(3))?;
    must_answer(number::unit_kill, Error::BadState, unit.kill(3))?;
    must_answer(number::unit_start, Error::BadState, unit.start())?;
    Ok(())
}

fn stopped_and_killed(world: &World) -> Outcome {
    let unit = world.child("spin", &[]).start()?;
    unit.kill(-9)?;
    let info = unit.wait(soon())?;
    check_eq!((info.state, info.exit_reason, info.exit_code), (UnitState::Failed, ExitReason::Killed, -9));
    let unit = world.child("sleep", &[]).start()?;
    sys::unit_destroy(unit.handle())?;
    let stale = unit.into_handle();
    must_answer(number::unit_start, Error::BadHandle, sys::unit_start(stale))?;
    Ok(())
}

fn faults_end_it_alone(world: &World) -> Outcome {
    for (kind, reasons) in [
        ("read", &[ExitReason::MemoryFault][..]),
        ("write", &[ExitReason::MemoryFault]),
        ("kernel", &[ExitReason::MemoryFault]),
        ("execute", &[ExitReason::MemoryFault]),
        ("stack", &[ExitReason::MemoryFault]),
        ("noncanonical", &[ExitReason::Exception, ExitReason::MemoryFault]),
        ("illegal", &[ExitReason::IllegalInstruction]),
        ("privileged", &[ExitReason::Exception]),
        ("port", &[ExitReason::Exception]),
        ("divide", &[ExitReason::Arithmetic]),
        ("breakpoint", &[ExitReason::Breakpoint]),
    ] {
        let unit = world.child("fault", &[kind]).start()?;
        let info = unit.wait(soon())?;
        check!(reasons.contains(&info.exit_reason), "{kind}: {:?} code {}", info.exit_reason, info.exit_code);
        check_eq!(info.state, UnitState::Failed);
        if kind == "read" {
            check_eq!(info.fault_address, 8);
        }
        check!(info.fault_instruction != 0, "{kind}: no address of the instruction");
    }
    Ok(())
}

fn memory_quota_holds(world: &World) -> Outcome {
    let unit = world.child("hog", &[]).memory(2 << 20, 0).start()?;
    let info = unit.wait(soon())?;
    check_eq!((info.exit_reason, info.state), (ExitReason::OutOfMemory, UnitState::Failed));
    check_eq!(info.memory_quota, 2 << 20);
    must_answer(
        number::unit_create,
        Error::Quota,
        world.child("exit", &["0"]).memory(4096, 0).create().map(|unit| unit.handle()),
    )?;
    Ok(())
}

fn count_quotas_hold(world: &World) -> Outcome {
    let unit = world.child("threads", &["20"]).counts(5, 0).start()?;
    check_eq!(unit.wait(soon())?.exit_code, 4);
    let unit = world.child("sleep", &[]).counts(0, 4).create()?;
    let (first, _second) = Channel::queue(64, 4)?;
    let mut granted = 0;
    let refused = loop {
        match unit.grant(first.handle(), Rights::RECEIVE, holm_rt::abi::TransferMode::Clone) {
            Ok(_) => granted += 1,
            Err(error) => break error,
        }
        check!(granted < 10, "a unit with 4 handles took 10");
    };
    check!(matches!(refused, Error::Quota | Error::NoHandles), "{refused:?}");
    crate::harness::saw(number::cap_grant, refused);
    check!(granted <= 3, "a unit with 4 handles took {granted} more");
    Ok(())
}

fn quotas_never_grow(world: &World) -> Outcome {
    let own = holm_rt::startup::own_unit();
    let mut info = holm_rt::abi::UnitInfo::new();
    sys::unit_get_info(own, &mut info)?;
    let more = world.child("exit", &["0"]).memory(info.memory_quota.saturating_add(4096), 0).create();
    if info.memory_quota < u64::MAX - 4096 {
        must_answer(number::unit_create, Error::NotPermitted, more.map(|unit| unit.handle()))?;
    }
    let unit = world.child("exit", &["0"]).class(SchedClass::BestEffort, 0, SchedClass::BestEffort).create()?;
    check_eq!(unit.info()?.max_sched_class, SchedClass::BestEffort);
    let params =
        holm_rt::abi::SchedParams { class: SchedClass::RtFixed, priority: 5, ..holm_rt::abi::SchedParams::new() };
    must_answer(number::sched_set_unit_params, Error::NotPermitted, unit.schedule(&params))?;
    Ok(())
}

fn labels_and_name(world: &World) -> Outcome {
    let unit = world.child("exit", &["0"]).label("role", "web").label("tenant", "a").create()?;
    let mut slots = [[0; Label::SIZE]; 4];
    check_eq!(sys::unit_get_labels(unit.handle(), &mut slots)?, 2);
    let second = Label::decode_whole(&slots[1])?;
    check_eq!((unpadded(&second.key), unpadded(&second.value)), ("tenant", "a"));
    let mut bytes = [0; Label::SIZE];
    Label { key: padded("role"), value: padded("db") }.encode_whole(&mut bytes);
    unit.set(&UnitAttr {
        mask: UnitAttrMask::NAME | UnitAttrMask::LABELS,
        labels: bytes.as_ptr() as u64,
        label_count: 1,
        name: padded("renamed"),
        ..UnitAttr::new()
    })?;
    check_eq!(unpadded(&unit.info()?.name), "renamed");
    check_eq!(sys::unit_get_labels(unit.handle(), &mut slots)?, 1);
    must_answer(
        number::unit_set_attr,
        Error::Fault,
        unit.set(&UnitAttr { mask: UnitAttrMask::LABELS, labels: 8, label_count: 1, ..UnitAttr::new() }),
    )?;
    let many =
        UnitAttr { mask: UnitAttrMask::LABELS, labels: bytes.as_ptr() as u64, label_count: 9, ..UnitAttr::new() };
    must_answer(number::unit_set_attr, Error::TooBig, unit.set(&many))?;
    Ok(())
}

fn identity_is_unique(world: &World) -> Outcome {
    let (one, two) = (world.child("exit", &["0"]).create()?, world.child("exit", &["0"]).create()?);
    let (first, second) = (one.identity()?, two.identity()?);
    check!(first.unique != second.unique && first.id != second.id, "two units have one identity");
    check!(first.unique != [0; 16], "the identity is zero");
    check_eq!(first.image_crc, second.image_crc);
    let (mut node, mut again) = (Identity::new(), Identity::new());
    sys::node_get_identity(&mut node)?;
    sys::node_get_identity(&mut again)?;
    check_eq!(node.unique, again.unique);
    check!(node.unique != [0; 16] && node.id == 0, "the node's identity is {:?}", node);
    Ok(())
}

fn no_program_is_refused(world: &World) -> Outcome {
    let data = world.archive.open("init.conf")?;
    let refused = UnitBuilder::new(&data, "data").create().map(|unit| unit.handle());
    must_answer(number::unit_create, Error::BadImage, refused)?;
    let unreadable = world.image.derive(Rights::READ)?;
    let refused = UnitBuilder::new(&unreadable, "weak").create().map(|unit| unit.handle());
    must_answer(number::unit_create, Error::Access, refused)?;
    let region = Region::new(4096)?;
    let caps = region.cloned(Rights::READ);
    region.revoke()?;
    must_answer(
        number::unit_create,
        Error::Revoked,
        world.child("exit", &["0"]).cap("gone", caps).create().map(|unit| unit.handle()),
    )?;
    Ok(())
}

fn empty_unit(_: &World) -> Outcome {
    let unit = UnitBuilder::empty("empty").create()?;
    let region = Region::new(4096)?;
    region.share(&unit, Rights::READ | Rights::MAP)?;
    check_eq!(unit.info()?.state, UnitState::Created);
    Ok(())
}

fn children_leak_nothing(world: &World) -> Outcome {
    let warm = world.child("exit", &["0"]).start()?;
    warm.wait(soon())?;
    drop(warm);
    let before = world.inventory()?;
    for round in 0..20 {
        const ROLES: [&[&str]; 4] = [&["exit", "1"], &["fault", "read"], &["fault", "illegal"], &["threads", "6"]];
        let role = ROLES[round % 4];
        let (first, second) = Channel::pair(64, 4)?;
        let unit = world
            .child(role[0], &role[1..])
            .cap("a", first.moved(Rights::SEND | Rights::RECEIVE))
            .cap("b", second.cloned(Rights::SEND))
            .start()?;
        unit.wait(soon())?;
    }
    check_eq!(world.inventory()?, before);
    Ok(())
}

fn ends_with_parent(world: &World) -> Outcome {
    let parent = world.child("sleep", &[]).start()?;
    let child = world.child("sleep", &[]).flags(UnitFlags::KILL_WITH_PARENT).create_under(parent.handle())?;
    child.start()?;
    parent.kill(0)?;
    parent.wait(soon())?;
    let info = child.wait(holm_rt::Deadline::after(Duration::from_secs(10)))?;
    check_eq!(info.exit_reason, ExitReason::Killed);
    Ok(())
}
