//! One connection: its peer, its pages once it has them, and the threads it registered; and what each request does.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use morpheus_abi::ABI_VERSION;
use morpheus_abi::protocol::{MAX_MESSAGE, Message, Refusal, Registration};
use rustix::event::epoll;
use rustix::io::Errno;

use super::credentials::{self, Peer};
use super::request::{self, Request, Sender, Stage};
use super::{Daemon, Source, now_ns, operator};
use crate::bpf::layout::Place;
use crate::bpf::pages::Pages;
use crate::mode::Thread;
use crate::thread::{self, PeersThread};
use crate::worker::Worker;

/// A connection.
pub(super) struct Session {
    pub(super) socket: OwnedFd,
    pub(super) peer: Peer,
    pub(super) served: Option<Served>,
}

/// What a process that said HELLO has.
pub(super) struct Served {
    /// Its index in the page maps and the table.
    pub(super) index: u32,
    pub(super) pages: Pages,
    /// The workers' threads, by generation.
    pub(super) threads: HashMap<u32, Bound>,
}

/// A registered thread.
pub(super) struct Bound {
    pub(super) thread: PeersThread,
    /// When it was registered: CLOCK_MONOTONIC in ns.
    pub(super) since_ns: u64,
}

/// What follows a packet.
enum Answer {
    Packet(Message, Vec<OwnedFd>),
    Report(OwnedFd),
}

impl Daemon {
    /// Reads packets until there are none. False when the connection is over.
    pub(super) fn serve(&mut self, number: u64) -> bool {
        let mut buffer = [0; MAX_MESSAGE + 1];
        loop {
            let Some(session) = self.sessions.get(&number) else { return false };
            let received = match credentials::receive(session.socket.as_fd(), &mut buffer) {
                Ok(received) if received.length == 0 => return false,
                Ok(received) => received,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::debug!(%error, "a connection failed");
                    return false;
                }
            };
            let sender = Sender {
                is_peer: received.sender == Some(session.peer.pid) && thread::lives(session.peer.pidfd.as_fd()),
                is_operator: session.peer.uid == 0 || session.peer.uid == rustix::process::geteuid().as_raw(),
            };
            let stage = if session.served.is_some() { Stage::Served } else { Stage::New };
            let packet = &buffer[..received.length.min(buffer.len())];
            let answer =
                request::read(packet, received.length, sender, stage).and_then(|request| self.fulfil(number, request));
            let goes_on = match &answer {
                Ok(_) => true,
                Err(refusal) => {
                    *self.refused.entry(*refusal as u32).or_default() += 1;
                    request::goes_on(*refusal)
                }
            };
            if !self.answer(number, answer) || !goes_on {
                return false;
            }
        }
    }

    fn answer(&self, number: u64, answer: Result<Answer, Refusal>) -> bool {
        let Some(session) = self.sessions.get(&number) else { return false };
        let sent = match answer {
            Ok(Answer::Packet(message, fds)) => {
                operator::send_with(&session.socket, &message.encode(), &fds.iter().collect::<Vec<_>>())
            }
            Ok(Answer::Report(fd)) => operator::send_with(&session.socket, &operator::bare(operator::REPORT), &[&fd]),
            Err(refusal) => {
                let refused = Message::Refused { refusal, abi_version: ABI_VERSION };
                operator::send_with(&session.socket, &refused.encode(), &[])
            }
        };
        // One that does not read its answers loses its connection, not our memory.
        sent.inspect_err(|error| tracing::debug!(%error, "cannot answer")).is_ok()
    }

    fn fulfil(&mut self, number: u64, request: Request) -> Result<Answer, Refusal> {
        match request {
            Request::Hello => self.hello(number),
            Request::Register(registration) => self.register(number, registration),
            Request::Unregister(slot, generation) => {
                let index = self.served(number)?.index;
                let worker = self.table.unregister(index, slot, generation)?;
                self.undo(number, worker);
                Ok(Answer::Packet(Message::Ok, Vec::new()))
            }
            Request::Status => operator::sealed(&self.report()).map(Answer::Report).map_err(internal),
        }
    }

    fn served(&self, number: u64) -> Result<&Served, Refusal> {
        self.sessions.get(&number).and_then(|session| session.served.as_ref()).ok_or(Refusal::Order)
    }

    fn hello(&mut self, number: u64) -> Result<Answer, Refusal> {
        let session = self.sessions.get_mut(&number).ok_or(Refusal::Internal)?;
        let index = self.table.enter(session.peer.pid, session.peer.uid)?;
        let made = Pages::new(self.mode.flags(), self.generation, now_ns())
            .and_then(|pages| self.mode.maps().install(index, &pages).map(|()| pages))
            .and_then(|pages| pages.hand_out().map(|fds| (pages, fds)));
        let (pages, fds) = match made {
            Ok(made) => made,
            Err(error) => {
                self.table.leave(index);
                // Nothing was bound to these pages, so no program has used them.
                self.table.rested_process(index);
                return Err(internal(error));
            }
        };
        session.served = Some(Served { index, pages, threads: HashMap::new() });
        let watched =
            epoll::add(&self.epoll, &session.peer.pidfd, Source::Process(number).data(), epoll::EventFlags::IN);
        watched.map_err(internal)?;
        tracing::info!(pid = session.peer.pid, uid = session.peer.uid, index, "a process has its pages");
        let welcome =
            Message::Welcome { abi_version: ABI_VERSION, flags: self.mode.flags(), generation: self.generation };
        Ok(Answer::Packet(welcome, fds.into()))
    }

    fn register(&mut self, number: u64, registration: Registration) -> Result<Answer, Refusal> {
        let session = self.sessions.get(&number).ok_or(Refusal::Internal)?;
        let thread = thread::identify(session.peer.pid, session.peer.pidfd.as_fd(), registration.tid)?;
        self.bury_namesake(thread.tid);
        let index = self.served(number)?.index;
        let place = match self.table.register(index, thread.tid, registration) {
            Err(Refusal::Full) if self.table.rests(index) => {
                self.rest(number);
                self.table.register(index, thread.tid, registration)?
            }
            other => other?,
        };
        if let Err(error) = self.establish(number, place, thread, &registration) {
            // The slot rests as any other: the thread may have been bound for a moment.
            let _ = self.table.unregister(index, place.slot, place.generation);
            return Err(internal(error));
        }
        tracing::debug!(?place, tid = registration.tid, name = %registration.name, "a worker is registered");
        Ok(Answer::Packet(Message::Registered { slot: place.slot, slot_generation: place.generation }, Vec::new()))
    }

    /// A thread with this number lives, so one that is registered under it and has ended was another.
    fn bury_namesake(&mut self, tid: u32) {
        let Some(place) = self.table.place_of(tid) else { return };
        let Some(number) = self.sessions_of_workers.get(&place.generation).copied() else { return };
        let ended = self
            .served(number)
            .ok()
            .and_then(|served| served.threads.get(&place.generation))
            .is_some_and(|bound| !thread::lives(bound.thread.pidfd.as_fd()));
        if ended {
            self.end_worker(place.generation);
        }
    }

    fn establish(
        &mut self,
        number: u64,
        place: Place,
        thread: PeersThread,
        registration: &Registration,
    ) -> anyhow::Result<()> {
        let session = self.sessions.get_mut(&number).expect("the caller has looked it up");
        let served = session.served.as_mut().expect("the table gave a place in its pages");
        self.mode.add(Thread { pidfd: thread.pidfd.as_fd(), tid: thread.tid }, place, registration)?;
        let maps = self.mode.maps();
        let done = maps
            .open(place, registration.rotation_ns, &served.pages)
            .and_then(|()| maps.bind(thread.pidfd.as_fd(), place))
            .map_err(anyhow::Error::from)
            .and_then(|()| {
                let source = Source::Worker(place.generation).data();
                Ok(epoll::add(&self.epoll, &thread.pidfd, source, epoll::EventFlags::IN)?)
            });
        if done.is_err() {
            maps.unbind(thread.pidfd.as_fd());
            maps.close(place);
            self.mode.remove(Thread { pidfd: thread.pidfd.as_fd(), tid: thread.tid }, place);
            return done;
        }
        served.threads.insert(place.generation, Bound { thread, since_ns: now_ns() });
        self.sessions_of_workers.insert(place.generation, number);
        Ok(())
    }

    /// Undoes what [`Daemon::establish`] did for a worker that the table has let go.
    pub(super) fn undo(&mut self, number: u64, worker: Worker) {
        let place = worker.place;
        self.sessions_of_workers.remove(&place.generation);
        let Some(served) = self.sessions.get_mut(&number).and_then(|session| session.served.as_mut()) else { return };
        let Some(Bound { thread, .. }) = served.threads.remove(&place.generation) else { return };
        self.mode.maps().unbind(thread.pidfd.as_fd());
        self.mode.maps().close(place);
        self.mode.remove(Thread { pidfd: thread.pidfd.as_fd(), tid: thread.tid }, place);
        self.gone.add(&super::snapshot::totals(&served.pages, place));
        let _: Result<(), Errno> = epoll::delete(&self.epoll, &thread.pidfd);
    }

    /// A worker's thread has ended.
    pub(super) fn end_worker(&mut self, generation: u32) {
        let Some(number) = self.sessions_of_workers.get(&generation).copied() else { return };
        let Some((index, place)) = self.served(number).ok().and_then(|served| {
            let bound = served.threads.get(&generation)?;
            Some((served.index, self.table.place_of(bound.thread.tid)?))
        }) else {
            return;
        };
        if let Ok(worker) = self.table.unregister(index, place.slot, generation) {
            tracing::debug!(?place, tid = worker.tid, "a worker's thread has ended");
            self.undo(number, worker);
        }
    }

    /// Waits for the running programs, after which the process's free slots may be used again.
    pub(super) fn rest(&mut self, number: u64) {
        let Ok(served) = self.served(number) else { return };
        let index = served.index;
        match self.mode.maps().wait_for_programs(index, &served.pages) {
            Ok(()) => self.table.rested(index),
            Err(error) => tracing::warn!(%error, "free slots stay unused"),
        }
        self.heartbeat();
    }

    /// Ends a connection and undoes everything of it.
    pub(super) fn close(&mut self, number: u64) {
        let Some(served) = self.sessions.get(&number).map(|session| session.served.as_ref().map(|s| s.index)) else {
            return;
        };
        if let Some(index) = served {
            for worker in self.table.leave(index) {
                self.undo(number, worker);
            }
            self.mode.maps().retire(index);
            match self.mode.maps().remove(index) {
                Ok(()) => self.table.rested_process(index),
                Err(error) => tracing::error!(%error, index, "a process's index stays unused"),
            }
        }
        // Closing the descriptors takes the socket and the pidfd out of epoll: nobody else holds them.
        self.sessions.remove(&number);
        self.heartbeat();
        tracing::debug!(number, "a connection is over");
    }
}

fn internal(error: impl std::fmt::Display) -> Refusal {
    tracing::error!("cannot serve a peer: {error:#}");
    Refusal::Internal
}
