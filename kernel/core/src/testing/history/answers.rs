//! What calls that are over have answered, and whether they may.

use super::*;
use crate::thread::ThreadState;

impl World {
    /// Notes the answers of calls that are over; those who received before those whom they replied to.
    pub(super) fn learn(&mut self) {
        let mut waiting: Vec<(ThreadId, UnderWay)> = self.under_way.iter().map(|(id, call)| (*id, *call)).collect();
        waiting.sort_by_key(|(_, call)| matches!(call.what, What::Call(_)));
        for (thread, call) in waiting {
            let Some(entry) = self.kernel.threads.get(thread) else { continue };
            let registers = entry.registers;
            if let What::Receive(Some(serial)) = call.what
                && !call.waited
            {
                self.reply_made(thread, call, serial, Error::from_register(registers.rax));
            }
            if let Some(call) = self.under_way.get_mut(&thread) {
                call.waited = true;
            }
            let state = self.kernel.threads.get(thread).map(|entry| entry.state);
            if matches!(state, Some(ThreadState::Blocked | ThreadState::Ended)) {
                continue;
            }
            self.under_way.remove(&thread);
            match (Error::from_register(registers.rax), call.what) {
                (Ok(word), What::Receive(_)) => {
                    self.received(thread, call, [registers.rdx, registers.r10, registers.rdi], Short::told(word));
                }
                (Ok(_), What::Send(serial)) => {
                    self.went_through(call, Rights::SEND);
                    self.model[self.tree.0[call.cap].of.channel].sent.insert(serial);
                }
                (Ok(_), What::Call(serial)) => {
                    self.went_through(call, Rights::SEND);
                    assert!(self.replied.remove(&serial), "call {serial} went on without a reply");
                    assert_eq!(registers.rdx, !serial, "another call's reply");
                }
                (Err(error), _) => self.refused(call, error),
            }
        }
    }

    /// A message call was done through a capability.
    fn went_through(&self, call: UnderWay, right: Rights) {
        let known = &self.tree.0[call.cap];
        assert!(known.of.sends == (right == Rights::SEND) && known.rights.contains(right), "{call:?} by {known:?}");
        // What waits is not ended by another thread that closes its handle; and a call goes on when it was received.
        let goes_on = call.waited && (known.closed || matches!(call.what, What::Call(_)));
        assert!(goes_on || known.lives(), "{call:?} by {known:?}");
    }

    /// The first half of a reply with a receive after it: the call of `serial` is over, or the reply was refused.
    fn reply_made(&mut self, thread: ThreadId, call: UnderWay, serial: u64, answer: Result<u64, Error>) {
        let known = self.tree.0[call.cap];
        let waits = self.under_way.values().any(|other| other.what == What::Call(serial));
        let over = self.kernel.threads.get(thread).is_some_and(|thread| thread.state == ThreadState::Blocked)
            || !matches!(answer, Err(Error::BadHandle | Error::Revoked | Error::Access | Error::NotFound));
        match answer {
            _ if over => {
                // Of a caller that is ending nobody knows.
                assert!(waits || self.dead.contains(&true), "a reply to call {serial}, which does not wait");
                assert!(known.lives() && known.rights.contains(Rights::RECEIVE), "replied through {known:?}");
                self.replied.insert(serial);
            }
            Err(Error::NotFound) => assert!(!waits, "no reply to call {serial}, which waits"),
            // It stays owed; but it is not tried for ever.
            _ => {}
        }
        self.owed.remove(&thread);
    }

    fn received(&mut self, thread: ThreadId, call: UnderWay, [word, sender, token]: [u64; 3], told: Short) {
        self.went_through(call, Rights::RECEIVE);
        let channel = &mut self.model[self.tree.0[call.cap].of.channel];
        assert!(channel.received.insert(word), "message {word} came twice");
        let last = channel.order.insert((sender, thread), word).unwrap_or(0);
        assert!(word > last, "message {word} of {sender} came after {last}");
        assert_eq!(token != 0, told.flags.contains(ShortFlags::CALL));
        if token != 0 {
            channel.sent.insert(word);
            self.owed.insert(thread, Owed { token, serial: word, cap: call.cap });
        }
    }

    fn refused(&self, call: UnderWay, error: Error) {
        let known = &self.tree.0[call.cap];
        let right = if matches!(call.what, What::Receive(_)) { Rights::RECEIVE } else { Rights::SEND };
        let far = Of { sends: !known.of.sends, ..known.of };
        let other = self.tree.0.iter().any(|cap| cap.of == far && cap.life == Life::Holds && !cap.closed);
        match error {
            Error::TimedOut | Error::WouldBlock | Error::Canceled | Error::Interrupted | Error::Deadlock => {}
            Error::NotFound if matches!(call.what, What::Receive(Some(_))) => {}
            // Of a call through a handle that another thread closed, nobody knows any more whether what it came from was
            // revoked (see docs/CAVEATS.md).
            Error::Revoked if known.closed => {}
            // Who received a call may have ended.
            Error::PeerClosed if matches!(call.what, What::Call(_)) && self.dead.contains(&true) => {}
            Error::PeerClosed => assert!(!other, "a channel closed though somebody holds its other end"),
            _ => known.must_answer(right, &Err::<u64, _>(error), &[]),
        }
    }
}
