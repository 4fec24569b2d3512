//! What the calls that are over have answered, and whether they may.

use super::*;

impl World {
    /// Notes the answers of calls that are over.
    pub(super) fn learn(&mut self) {
        // A call that was received is known before the reply to it.
        let mut order: Vec<usize> = (0..self.actors.len()).collect();
        order.sort_by_key(|actor| matches!(self.actors[*actor].under_way, Some(UnderWay { op: Op::Call(..), .. })));
        for actor in order {
            let Some(UnderWay { op, again: false }) = self.actors[actor].under_way else { continue };
            let entry = self.kernel.threads.get(self.actors[actor].thread);
            let Some(entry) = entry.filter(|entry| entry.state != ThreadState::Ended) else {
                self.actors[actor].under_way = None;
                continue;
            };
            if entry.state == ThreadState::Blocked {
                continue;
            }
            let registers = entry.registers;
            self.actors[actor].under_way = None;
            if self.dead[self.actors[actor].unit] {
                continue;
            }
            let answer = Error::from_register(registers.rax);
            self.answered(actor, op, answer, registers.rdi);
        }
    }

    fn answered(&mut self, actor: usize, op: Op, answer: Result<u64, Error>, token: u64) {
        let unit = self.actors[actor].unit;
        let known = op.name().map(|name| (name, self.caps[&name]));
        let goes_on = |cap: usize| matches!(op, Op::Revoke(_)) && self.tree.0[cap].life == Life::Revoked;
        if let Some((name, cap)) = known
            && self.tree.0[cap].unit != unit
            && !goes_on(cap)
        {
            // It was moved away, or is on its way; perhaps while the call waited.
            let waited = matches!(op, Op::Receive(_) | Op::Call(..));
            assert!(
                waited || answer == Err(Error::BadHandle),
                "{op:?} by a handle of {name} that is stale: {answer:?}"
            );
            if !matches!(op, Op::Call(..)) {
                return;
            }
        }
        let through = |world: &Self, rights: Rights, others: &[Error]| {
            if let Some((_, cap)) = known {
                world.tree.0[cap].must_answer(rights, &answer, others);
            }
        };
        let handle = || Handle::from_register(answer.unwrap_or(0)).unwrap();
        match (op, answer) {
            (Op::Send(_), _) => through(self, Rights::SEND, if self.receives() { &[] } else { &[Error::PeerClosed] }),
            (Op::Receive(_), Err(Error::Canceled)) => {}
            (Op::Receive(_), Ok(_)) => {
                // One that is closed by another thread ends no call.
                assert_ne!(known.map(|(_, cap)| self.tree.0[cap].life), Some(Life::Revoked), "received after all");
            }
            (Op::Receive(_), _) => through(self, Rights::RECEIVE, &[Error::PeerClosed]),
            (Op::Derive(name, new), _) => {
                through(self, Rights::DERIVE, &[]);
                if answer.is_ok() {
                    self.know(new, unit, handle(), Some(self.caps[&name]), false);
                }
            }
            (Op::Grant(name, to, mode, new), _) => {
                through(self, Rights::TRANSFER, if self.dead[to] { &[Error::BadState] } else { &[] });
                if answer.is_ok() {
                    assert!(!self.dead[to], "granted to a unit that ended");
                    self.arrives(name, mode, new, to, handle());
                }
            }
            (Op::Post(name, mode, new), _) => {
                through(self, Rights::TRANSFER, if self.dead[2] { &[Error::PeerClosed] } else { &[] });
                if answer.is_ok() {
                    self.leaves(name, mode, new);
                    if self.dead[2] {
                        // It goes with the queue.
                        self.unit_gone(2);
                    }
                }
            }
            (Op::Fetch, Ok(_)) => {
                let name = self.queue.pop_front().expect("a message that nobody sent");
                let mut bytes = [0; CapTransfer::SIZE];
                self.kernel.copy_in(self.units[unit], RECORD, &mut bytes).unwrap();
                let cap = self.caps[&name];
                let known = &mut self.tree.0[cap];
                (known.unit, known.handle) = (2, CapTransfer::decode(&bytes).unwrap().cap);
            }
            (Op::Fetch, Err(error)) => {
                let none = if self.dead[1] { Error::PeerClosed } else { Error::WouldBlock };
                assert!(self.queue.is_empty() && [none, Error::WouldBlock].contains(&error), "{error:?}");
            }
            (Op::Call(..), _) => {
                // What it lent ends with it, however it ended.
                self.loan_over();
                match answer {
                    Ok(_) => {}
                    Err(Error::PeerClosed) => assert!(self.dead[2], "the service is there"),
                    Err(error) => {
                        let cap = known.map(|(_, cap)| &self.tree.0[cap]);
                        let gone = cap.is_some_and(|cap| cap.life != Life::Holds || cap.closed || cap.unit != unit);
                        assert!(gone && [Error::Revoked, Error::BadHandle].contains(&error), "{op:?} {error:?}");
                    }
                }
            }
            (Op::Serve, Ok(word)) => {
                let told = Short::told(word);
                self.actors[actor].token = token;
                let calls = |op: &Op| matches!(op, Op::Call(..));
                let caller = self.actors.iter().find_map(|actor| actor.under_way.map(|call| call.op).filter(calls));
                let Some(Op::Call(name, mode, new)) = caller else { panic!("a call that nobody made") };
                let cap = self.caps[&name];
                // Of a unit that is ending one cannot tell what it still has.
                if !self.dead[1] {
                    self.tree.0[cap].must_answer(Rights::TRANSFER, &Ok(()), &[]);
                }
                self.arrives(name, mode, new, 2, told.channel);
                self.tree.0[cap].closed &= mode != TransferMode::Move;
                self.loan = (mode == TransferMode::Borrow).then(|| self.caps[&new]);
            }
            (Op::Serve, Err(error)) => {
                assert!([Error::NotFound, Error::PeerClosed].contains(&error) && self.dead[1], "{error:?}");
            }
            (Op::Reply, Ok(_)) => self.loan_over(),
            (Op::Reply, Err(error)) => assert!(error == Error::NotFound || error == Error::Invalid, "{error:?}"),
            (Op::Revoke(_), _) => {
                let (_, cap) = known.unwrap();
                if answer.is_ok() {
                    self.tree.revoke(cap);
                    self.returned.push(cap);
                } else {
                    through(self, Rights::NONE, &[]);
                }
            }
            (Op::RevokeChildren(_), _) => {
                through(self, Rights::NONE, &[]);
                if let (Some((_, cap)), true) = (known, answer.is_ok()) {
                    self.tree.revoke_children(cap);
                }
            }
            (Op::Close(_), _) => {
                let (_, cap) = known.unwrap();
                assert_eq!(answer.is_ok(), !self.tree.0[cap].closed, "{answer:?}");
                if answer.is_ok() {
                    self.tree.close(cap);
                }
            }
            (Op::Kill(other), _) => {
                assert_eq!(answer.is_ok(), !self.dead[other], "{answer:?}");
                if answer.is_ok() {
                    self.unit_gone(other);
                }
            }
            (Op::Map(_), _) => {
                through(self, Rights::MAP, &[]);
                if let (Some((_, cap)), true) = (known, answer.is_ok()) {
                    self.mapped[unit] = Some(cap);
                }
            }
            (Op::Touch, _) => {}
        }
    }

    /// Whether anybody may still receive what is sent to the channel.
    fn receives(&self) -> bool {
        let object = self.tree.0[self.caps[&0]].of;
        self.tree.0.iter().any(|cap| cap.of == object && cap.lives())
    }

    /// A capability came to `to`, or one that was made of it.
    fn arrives(&mut self, name: usize, mode: TransferMode, new: usize, to: usize, handle: Handle) {
        let cap = self.caps[&name];
        match mode {
            TransferMode::Move => {
                let known = &mut self.tree.0[cap];
                self.stale.insert((known.unit, name), known.handle);
                (known.unit, known.handle) = (to, handle);
            }
            TransferMode::Borrow => self.know(new, to, handle, Some(cap), true),
            TransferMode::Clone => self.know(new, to, handle, Some(cap), false),
        }
    }

    /// A capability was queued in a message, or one that was made of it.
    fn leaves(&mut self, name: usize, mode: TransferMode, new: usize) {
        let cap = self.caps[&name];
        if mode == TransferMode::Move {
            let known = &mut self.tree.0[cap];
            self.stale.insert((known.unit, name), known.handle);
            known.unit = usize::MAX;
            return self.queue.push_back(name);
        }
        let (of, depth) = (self.tree.0[cap].of, self.tree.0[cap].depth + 1);
        let rights = crate::cap::transfer::arriving(mode, self.tree.0[cap].rights);
        self.caps.insert(new, self.tree.0.len());
        self.tree.0.push(Known {
            of,
            unit: usize::MAX,
            handle: Handle::NONE,
            rights,
            parent: Some(cap),
            lent: mode == TransferMode::Borrow,
            depth,
            life: Life::Holds,
            closed: false,
        });
        self.queue.push_back(new);
    }

    /// A call is over: what was lent for it ends.
    fn loan_over(&mut self) {
        if let Some(loan) = self.loan.take() {
            self.tree.revoke(loan);
        }
    }
}
