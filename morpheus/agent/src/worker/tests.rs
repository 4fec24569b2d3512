//! The table against a model: a list of what was given to whom.

use super::*;
use morpheus_abi::EscalationPolicy;
use morpheus_abi::protocol::WorkerName;
use proptest::prelude::*;

fn registration(tid: u32) -> Registration {
    Registration {
        tid,
        escapable: false,
        policy: EscalationPolicy::None,
        grace_ns: 0,
        rotation_ns: 0,
        name: WorkerName::new("w"),
    }
}

#[derive(Debug, Clone)]
enum Step {
    Enter { uid: u32 },
    Leave { which: usize },
    Register { which: usize, tid: u32 },
    Unregister { which: usize, stale: bool },
    Rested { which: usize },
    RestedProcess { which: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0u32..3).prop_map(|uid| Step::Enter { uid }),
        1 => any::<usize>().prop_map(|which| Step::Leave { which }),
        6 => (any::<usize>(), 1u32..200).prop_map(|(which, tid)| Step::Register { which, tid }),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(which, stale)| Step::Unregister { which, stale }),
        1 => any::<usize>().prop_map(|which| Step::Rested { which }),
        1 => any::<usize>().prop_map(|which| Step::RestedProcess { which }),
    ];
    prop::collection::vec(step, 0..300)
}

/// What has been given and not taken back, and what rests.
#[derive(Default)]
struct Model {
    processes: Vec<(u32, u32)>,
    workers: Vec<(Place, u32)>,
    resting_slots: BTreeSet<(u32, Slot)>,
    resting_processes: BTreeSet<u32>,
    generations: BTreeSet<u32>,
}

fn pick<T: Copy>(from: &[T], which: usize) -> Option<T> {
    (!from.is_empty()).then(|| from[which % from.len()])
}

proptest! {
    #[test]
    fn no_place_has_two_owners_and_none_is_given_again_before_it_has_rested(steps in steps()) {
        let limits = Limits { processes_per_user: 3, workers_per_user: 90 };
        let mut table = Table::new(limits);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Enter { uid } => {
                    let full = model.processes.iter().filter(|(_, of)| *of == uid).count() >= limits.processes_per_user;
                    match table.enter(7, uid) {
                        Err(refusal) => prop_assert!(full && refusal == Refusal::Full),
                        Ok(index) => {
                            prop_assert!(!full && (1..PROCESSES).contains(&index));
                            prop_assert!(model.processes.iter().all(|(other, _)| *other != index));
                            prop_assert!(!model.resting_processes.contains(&index));
                            model.processes.push((index, uid));
                        }
                    }
                }
                Step::Leave { which } => {
                    let Some((index, _)) = pick(&model.processes, which) else { continue };
                    let mut left: Vec<_> = table.leave(index).iter().map(|worker| worker.place).collect();
                    left.sort();
                    let (mut theirs, others): (Vec<_>, Vec<_>) =
                        model.workers.iter().partition(|(place, _)| place.process == index);
                    theirs.sort();
                    prop_assert_eq!(left, theirs.into_iter().map(|(place, _)| place).collect::<Vec<_>>());
                    model.workers = others;
                    model.processes.retain(|(other, _)| *other != index);
                    model.resting_slots.retain(|(other, _)| *other != index);
                    model.resting_processes.insert(index);
                }
                Step::Register { which, tid } => {
                    let Some((index, uid)) = pick(&model.processes, which) else {
                        prop_assert_eq!(table.register(1, tid, registration(tid)), Err(Refusal::Order));
                        continue;
                    };
                    let taken = model.workers.iter().any(|(_, other)| *other == tid);
                    let of_user = model.workers.iter().filter(|(place, _)| {
                        model.processes.iter().any(|(other, of)| *other == place.process && *of == uid)
                    }).count();
                    let used = model.workers.iter().filter(|(place, _)| place.process == index).count()
                        + model.resting_slots.iter().filter(|(process, _)| *process == index).count();
                    match table.register(index, tid, registration(tid)) {
                        Err(Refusal::AlreadyRegistered) => prop_assert!(taken),
                        Err(Refusal::Full) => {
                            prop_assert!(!taken && (of_user >= limits.workers_per_user || used >= MAX_WORKERS));
                        }
                        Err(other) => prop_assert!(false, "{other}"),
                        Ok(place) => {
                            prop_assert!(!taken && of_user < limits.workers_per_user && used < MAX_WORKERS);
                            prop_assert!(model.generations.insert(place.generation), "a generation came again");
                            prop_assert!(place.generation != 0 && place.process == index);
                            prop_assert!(!model.resting_slots.contains(&(index, place.slot)));
                            let at = |other: &Place| (other.process, other.slot);
                            prop_assert!(model.workers.iter().all(|(other, _)| at(other) != at(&place)));
                            prop_assert_eq!(table.place_of(tid), Some(place));
                            model.workers.push((place, tid));
                        }
                    }
                }
                Step::Unregister { which, stale } => {
                    let Some((place, tid)) = pick(&model.workers, which) else { continue };
                    let generation = if stale { place.generation.wrapping_sub(1) } else { place.generation };
                    let done = table.unregister(place.process, place.slot, generation);
                    if stale {
                        prop_assert_eq!(done, Err(Refusal::NoSuchSlot));
                    } else {
                        prop_assert_eq!(done.map(|worker| (worker.place, worker.tid)), Ok((place, tid)));
                        prop_assert_eq!(table.place_of(tid), None);
                        prop_assert!(table.rests(place.process));
                        model.workers.retain(|(other, _)| *other != place);
                        model.resting_slots.insert((place.process, place.slot));
                    }
                }
                Step::Rested { which } => {
                    let Some((index, _)) = pick(&model.processes, which) else { continue };
                    table.rested(index);
                    model.resting_slots.retain(|(process, _)| *process != index);
                    prop_assert!(!table.rests(index));
                }
                Step::RestedProcess { which } => {
                    let resting: Vec<u32> = model.resting_processes.iter().copied().collect();
                    let Some(index) = pick(&resting, which) else { continue };
                    table.rested_process(index);
                    model.resting_processes.remove(&index);
                }
            }
            prop_assert_eq!(table.workers(), model.workers.len());
            prop_assert_eq!(table.processes().count(), model.processes.len());
        }
    }
}

#[test]
fn generations_leave_zero_out_when_they_begin_again() {
    let mut table = Table::new(Limits::default());
    table.last_generation = u32::MAX;
    let index = table.enter(1, 0).unwrap();
    assert_eq!(table.register(index, 5, registration(5)).unwrap().generation, 1);
}

#[test]
fn the_page_maps_have_an_end() {
    let mut table = Table::new(Limits { processes_per_user: usize::MAX, workers_per_user: 1 });
    for _ in 1..PROCESSES {
        table.enter(1, 0).unwrap();
    }
    assert_eq!(table.enter(1, 1), Err(Refusal::Full));
}
