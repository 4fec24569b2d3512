//! A process's standing with one agent: the conversation if there is one, the workers, and the next attempt if not.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use morpheus_abi::protocol::Registration;
use morpheus_abi::{RuntimeLine, Slot, WorkerState};

use crate::lines::Lines;
use crate::refusal::NotAvailable;
use crate::socket::Link;
use crate::watch;

/// Wait after the first failed attempt to connect, doubled after each further one up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// So long after its start, at most, an agent finds this process's workers registering.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What several threads see of a panicking one stays usable: every change below is complete or has not happened.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The domains of a process, by socket. They live as long as the process; usually there is one.
pub(crate) struct Domains(Mutex<Vec<&'static Domain>>);

impl Domains {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// The domain of the agent at this path.
    pub(crate) fn at(&self, socket: &Path) -> &'static Domain {
        let mut domains = lock(&self.0);
        if let Some(domain) = domains.iter().find(|domain| domain.path == socket) {
            return domain;
        }
        let domain = Box::leak(Box::new(Domain::new(socket.into())));
        domains.push(domain);
        domain
    }
}

/// See the module.
pub(crate) struct Domain {
    path: PathBuf,
    /// The process it belongs to: a forked child finds another one here and keeps its hands off.
    pub(crate) pid: u32,
    state: Mutex<State>,
    /// Somebody registered, or the conversation ended.
    changed: Condvar,
}

struct State {
    link: Option<Link>,
    workers: Vec<Arc<Record>>,
    /// Private lines of workers that are gone.
    spare: Vec<Lines>,
    next_try: Instant,
    wait: Duration,
    watched: bool,
}

/// A worker, as its thread and the watcher share it.
pub(crate) struct Record {
    pub(crate) domain: &'static Domain,
    registration: Registration,
    seat: Mutex<Seat>,
    /// The seat has changed and the thread has not yet moved.
    moved: AtomicBool,
}

/// Where a worker is and where it should be.
struct Seat {
    /// The lines its thread looks at.
    lines: Lines,
    /// Its private lines, if it ever had some.
    private: Option<Lines>,
    /// Its place with the agent of the present conversation.
    place: Option<Place>,
}

#[derive(Clone, Copy)]
struct Place {
    lines: Lines,
    slot: Slot,
    slot_generation: u32,
}

impl Place {
    fn new(link: &Link, (slot, slot_generation): (Slot, u32)) -> Self {
        let mapping = link.mapping;
        let lines = Lines {
            kernel: &mapping.kernel.lines[slot.index()],
            runtime: &mapping.runtime.lines[slot.index()],
            header: &mapping.kernel.header,
            mapping: Some(mapping),
        };
        Self { lines, slot, slot_generation }
    }
}

impl Record {
    /// The runtime line of the worker in this slot generation.
    fn runtime_line(&self, slot_generation: u32) -> RuntimeLine {
        RuntimeLine {
            slot_generation,
            escapable: self.registration.escapable.into(),
            escalation_policy: self.registration.policy.number(),
            grace_ns: self.registration.grace_ns,
            ..RuntimeLine::default()
        }
    }

    /// Called by the worker's thread: moves to the lines the watcher has got for it, if it has. Never waits.
    pub(crate) fn settle(&self) -> bool {
        if !self.moved.load(Ordering::Acquire) {
            return false;
        }
        // Taken just now? Then the next checkpoint will do it.
        if let Ok(mut seat) = self.seat.try_lock() {
            self.moved.store(false, Ordering::Relaxed);
            match seat.place {
                Some(place) => {
                    seat.lines = place.lines;
                    place.lines.occupy(self.runtime_line(place.slot_generation), WorkerState::Running);
                }
                // The agent went again before the thread came by. Nothing is pending any more.
                None => seat.lines.occupy(self.runtime_line(0), WorkerState::Running),
            }
        }
        true
    }

    /// The slot, when an agent has given one.
    pub(crate) fn slot(&self) -> Option<Slot> {
        lock(&self.seat).place.map(|place| place.slot)
    }
}

impl Domain {
    fn new(path: PathBuf) -> Self {
        let state = State {
            link: None,
            workers: Vec::new(),
            spare: Vec::new(),
            next_try: Instant::now(),
            wait: FIRST_WAIT,
            watched: false,
        };
        Self { path, pid: std::process::id(), state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Makes the calling thread a worker of this agent, or without one a worker that waits for it if `or_wait` says so.
    pub(crate) fn register(
        &'static self,
        registration: Registration,
        or_wait: bool,
    ) -> Result<Arc<Record>, NotAvailable> {
        let mut state = lock(&self.state);
        let place = match self.try_place(&mut state, registration) {
            Ok(place) => Some(place),
            Err(_) if or_wait => None,
            Err(error) => return Err(error),
        };
        let private = place.is_none().then(|| state.spare.pop().unwrap_or_else(Lines::private));
        let lines = place.map(|place| place.lines).or(private).expect("a worker without a place has private lines");
        let record = Arc::new(Record {
            domain: self,
            registration,
            seat: Mutex::new(Seat { lines, private, place }),
            moved: AtomicBool::new(false),
        });
        lines.occupy(record.runtime_line(place.map_or(0, |place| place.slot_generation)), WorkerState::Running);
        state.workers.push(Arc::clone(&record));
        if !state.watched {
            // Without a watcher nothing is lost but the agent's coming and going.
            state.watched = watch::start(self).is_ok();
        }
        drop(state);
        self.changed.notify_all();
        Ok(record)
    }

    fn try_place(&self, state: &mut State, registration: Registration) -> Result<Place, NotAvailable> {
        if state.link.is_none() {
            if Instant::now() < state.next_try {
                return Err(NotAvailable::NoAgent { path: self.path.clone(), source: None });
            }
            self.connect(state)?;
        }
        let link = state.link.as_ref().expect("connected above, or before");
        let answer = link.register(registration);
        match answer {
            Ok(seat) => Ok(Place::new(link, seat)),
            Err(NotAvailable::Refused(refusal)) => Err(NotAvailable::Refused(refusal)),
            Err(error) => {
                state.lose();
                Err(error)
            }
        }
    }

    /// Opens a conversation, and registers the workers that wait for one.
    fn connect(&self, state: &mut State) -> Result<(), NotAvailable> {
        let attempt = Link::open(&self.path);
        // Also after success: an agent that welcomes and dies shall not be courted in a tight loop.
        state.next_try = Instant::now() + state.wait;
        let link = attempt.inspect_err(|_| state.wait = LONGEST_WAIT.min(state.wait * 2))?;
        for worker in &state.workers {
            match link.register(worker.registration) {
                Ok(seat) => {
                    let mut seat_now = lock(&worker.seat);
                    seat_now.place = Some(Place::new(&link, seat));
                    worker.moved.store(true, Ordering::Release);
                    seat_now.lines.nudge();
                }
                // No room for this one, or its thread is gone: it keeps what it has.
                Err(NotAvailable::Refused(_)) => {}
                Err(error) => {
                    state.link = Some(link);
                    state.lose();
                    return Err(error);
                }
            }
        }
        state.wait = FIRST_WAIT;
        state.link = Some(link);
        Ok(())
    }

    /// Ends the worker that `record` describes.
    pub(crate) fn unregister(&self, record: &Arc<Record>) {
        let mut state = lock(&self.state);
        state.workers.retain(|worker| !Arc::ptr_eq(worker, record));
        let seat = lock(&record.seat);
        if let Some(private) = seat.private {
            private.clear_private();
            state.spare.push(private);
        }
        if let (Some(place), Some(link)) = (seat.place, &state.link)
            && link.unregister(place.slot, place.slot_generation).is_err()
        {
            drop(seat);
            state.lose();
        }
    }

    /// The watcher's work: a step is to wait for the conversation's end, or to try for a new one.
    pub(crate) fn watch(&self) -> ! {
        loop {
            let mut state = lock(&self.state);
            if let Some(link) = &state.link {
                let socket = Arc::clone(&link.socket);
                drop(state);
                watch::wait_for_end(&socket);
                let mut state = lock(&self.state);
                if state.link.as_ref().is_some_and(|link| Arc::ptr_eq(&link.socket, &socket)) {
                    state.lose();
                }
            } else if state.workers.is_empty() {
                drop(self.changed.wait(state).unwrap_or_else(PoisonError::into_inner));
            } else {
                let wait = state.next_try.saturating_duration_since(Instant::now());
                if wait.is_zero() {
                    // Whatever the reason: the next attempt is set, and nobody is there to be told.
                    let _ = self.connect(&mut state);
                } else {
                    drop(self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner));
                }
            }
        }
    }
}

impl State {
    /// The agent is gone: its pages become private memory, and its places mean nothing any more.
    fn lose(&mut self) {
        if let Some(link) = self.link.take() {
            // The places first: who sees that it is not attached finds no slot either.
            for worker in &self.workers {
                lock(&worker.seat).place = None;
            }
            link.mapping.retire();
        }
    }
}
