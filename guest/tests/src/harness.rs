//! Running tests: what a test gets, how it fails, what is printed.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use holm_rt::abi::{self, CALLS, Error, ObjectType};
use holm_rt::lock::Mutex;
use holm_rt::{Archive, Console, Deadline, Image, Object, System, UnitBuilder, println};

/// Why a test failed.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(alloc::format!("unexpected {}", error.name()))
    }
}

/// What a test answers.
pub(crate) type Outcome = Result<(), Failure>;

/// What tests work with.
pub(crate) struct World {
    pub(crate) archive: Archive,
    pub(crate) console: Console,
    pub(crate) system: System,
    /// This program.
    pub(crate) image: Image,
}

/// A test and its name.
pub(crate) type Test = (&'static str, fn(&World) -> Outcome);

/// The longest that a test waits for anything.
pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// Waits until a condition holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> Result<bool, Error>) -> Outcome {
    let end = soon();
    while !holds()? {
        if Deadline::after(Duration::ZERO) > end {
            return Err(Failure(alloc::format!("waited too long for {what}")));
        }
        holm_rt::time::sleep(Duration::from_micros(500))?;
    }
    Ok(())
}

/// Tries what a busy machine can spoil, though never every time, until it succeeds once.
pub(crate) fn one_of_five(attempt: impl Fn() -> Outcome) -> Outcome {
    let mut outcome = attempt();
    for _ in 1..5 {
        if outcome.is_ok() {
            break;
        }
        outcome = attempt();
    }
    outcome
}

/// A short while from now.
pub(crate) fn shortly() -> Deadline {
    Deadline::after(Duration::from_millis(5))
}

impl World {
    /// Takes over what `init` gave; `None` when it gave too little.
    pub(crate) fn take() -> Option<Self> {
        let archive: Archive = holm_rt::startup::take(ObjectType::Archive)?;
        let image = archive.open("tests").ok()?;
        let console = holm_rt::startup::take(ObjectType::Console)?;
        let system: System = holm_rt::startup::take(ObjectType::System)?;
        // The fuzzer may start this program too: its capabilities are not enough for the tests.
        system.capability().ok().filter(|info| info.rights.contains(abi::Rights::ADMIN))?;
        Some(Self { archive, console, system, image })
    }

    /// A child that runs this program in a role.
    pub(crate) fn child(&self, role: &str, arguments: &[&str]) -> UnitBuilder {
        let words = ["tests", role].into_iter().chain(arguments.iter().copied());
        UnitBuilder::new(&self.image, role).arguments(words)
    }

    /// Figures that must be the same before and after a test that leaks nothing, once everything is swept.
    pub(crate) fn inventory(&self) -> Result<[u64; 5], Failure> {
        let mut figures = self.figures()?;
        eventually("the background work to end", || {
            figures = self.figures()?;
            Ok(figures.1 == 0)
        })?;
        Ok(figures.0)
    }

    fn figures(&self) -> Result<([u64; 5], u64), Error> {
        let m = self.system.metrics()?;
        Ok(([m.units, m.threads, m.handles, m.objects, m.kernel_bytes], m.sweep_backlog))
    }
}

/// Errors that were seen, by the index of the call and of the error.
static SEEN: Mutex<Vec<(u64, Error)>> = Mutex::new(Vec::new());

/// Notes that a call answered an error.
pub(crate) fn saw(call: u64, error: Error) {
    let mut seen = SEEN.lock();
    if !seen.contains(&(call, error)) {
        seen.push((call, error));
    }
}

/// Checks that a call answered the error it had to.
pub(crate) fn must_answer<T>(call: u64, wanted: Error, result: Result<T, Error>) -> Outcome {
    let name = abi::call(call).map_or("?", |call| call.name);
    match result {
        Err(error) if error == wanted => {
            saw(call, error);
            Ok(())
        }
        Err(error) => Err(Failure(alloc::format!("{name} answered {} instead of {}", error.name(), wanted.name()))),
        Ok(_) => Err(Failure(alloc::format!("{name} succeeded instead of answering {}", wanted.name()))),
    }
}

/// Fails a test unless a condition holds.
macro_rules! check {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::harness::Failure(alloc::format!($($text)+)));
        }
    };
}
pub(crate) use check;

/// Fails a test unless two values are equal.
macro_rules! check_eq {
    ($left:expr, $right:expr) => {
        match (&$left, &$right) {
            (left, right) => {
                if left != right {
                    let place = alloc::format!("{}: {left:?} is not {right:?}", stringify!($left));
                    return Err($crate::harness::Failure(place));
                }
            }
        }
    };
}
pub(crate) use check_eq;

/// Runs the tests whose names contain one of the words; gives how many failed.
pub(crate) fn run(words: &[&str]) -> usize {
    let Some(world) = World::take() else {
        println!("tests: need the capabilities console, archive and system, and `tests` in the archive");
        return 1;
    };
    let all = [
        crate::units::TESTS,
        crate::threads::TESTS,
        crate::memory::TESTS,
        crate::caps::TESTS,
        crate::channels::TESTS,
        crate::events::TESTS,
        crate::time::TESTS,
        crate::sched::TESTS,
        crate::restricted::TESTS,
        crate::system::TESTS,
        crate::guards::TESTS,
        crate::starved::TESTS,
        crate::waits::TESTS,
        crate::pieces::TESTS,
        crate::large::TESTS,
        crate::errors::TESTS,
        crate::fuzz::TESTS,
    ];
    let chosen = all.iter().flat_map(|tests| tests.iter());
    let chosen = chosen.filter(|(name, _)| words.is_empty() || words.iter().any(|word| name.contains(word)));
    let (mut passed, mut failed) = (0, 0);
    let mut longest = 0;
    for (name, test) in chosen {
        let outcome = test(&world);
        if let Ok(metrics) = world.system.metrics()
            && metrics.max_kernel_ticks > longest
        {
            // In ticks: instructions when QEMU counts them; 0 when this kernel does not measure itself.
            longest = metrics.max_kernel_ticks;
            println!("longest stretch so far: {longest} by {} in {name}", entry_name(metrics.max_kernel_entry));
        }
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("test {name} ok");
            }
            Err(Failure(reason)) => {
                failed += 1;
                println!("test {name} FAILED: {reason}");
            }
        }
    }
    if words.is_empty() {
        match coverage() {
            0 => println!("test errors_every_pair_is_seen_or_listed ok"),
            unseen => {
                failed += 1;
                println!("test errors_every_pair_is_seen_or_listed FAILED: {unseen} pairs, listed above");
            }
        }
    }
    println!("tests: {passed} ok, {failed} failed");
    println!("tests done");
    failed
}

/// How the kernel was entered, as its metrics tell it.
fn entry_name(entry: u64) -> String {
    match (abi::call(entry), entry.checked_sub(1 << 16)) {
        (Some(call), _) => call.name.into(),
        (None, Some(vector)) => alloc::format!("vector-{vector:#x}"),
        (None, None) => alloc::format!("call-{entry}"),
    }
}

/// Prints which errors of which calls no test has seen and [`crate::unseen`] does not name; says how many.
fn coverage() -> usize {
    let seen = SEEN.lock();
    let (mut known, mut listed, mut missing) = (0, 0, 0);
    for call in CALLS {
        let unseen = call.errors().filter(|error| !seen.contains(&(call.number, *error)));
        let (reasons, names): (Vec<_>, Vec<_>) =
            unseen.partition(|error| crate::unseen::reason(call.name, *error).is_some());
        known += call.errors().count();
        listed += reasons.len();
        missing += names.len();
        if !names.is_empty() {
            let names: Vec<&str> = names.into_iter().map(Error::name).collect();
            println!("unseen {} {}", call.name, names.join(" "));
        }
    }
    println!("errors: seen {} of {known}, {listed} are not and say why", known - listed - missing);
    missing
}
