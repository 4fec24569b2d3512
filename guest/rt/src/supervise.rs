//! Supervision: what to restart when units end. The kernel never restarts anything by itself (seed 15.3).
//!
//! [`Rules`] decides and touches nothing; [`Supervisor`] does what it says to real units.

use alloc::vec::Vec;
use core::time::Duration;

use holm_abi::{Error, EventFlags, EventMask, ExitReason};

use crate::event::Source;
use crate::object::{Events, Unit};
use crate::time::{Deadline, now};

/// Which units are restarted when one ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Only that one.
    OneForOne,
    /// All.
    OneForAll,
    /// That one and those started after it.
    RestForOne,
}

/// When a unit is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Always.
    Always,
    /// When it ended by a fault, a kill, or with a code other than 0.
    OnFailure,
    /// Never.
    Never,
}

/// How often units may be restarted before the supervisor gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Restarts allowed …
    pub restarts: u32,
    /// … within this time.
    pub within: Duration,
}

/// What to do after a unit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: it stays ended.
    Leave,
    /// Stop these, last started first, then start those, in order.
    Restart {
        /// Units to stop: running ones only.
        stop: Vec<usize>,
        /// Units to start.
        start: Vec<usize>,
    },
    /// Too many restarts: stop these, last started first, and give up.
    GiveUp {
        /// Units to stop: running ones only.
        stop: Vec<usize>,
    },
}

/// The rules of one group of units, numbered in the order in which they are started.
#[derive(Debug, Clone)]
pub struct Rules {
    strategy: Strategy,
    limit: Limit,
    units: Vec<(Restart, bool)>,
    recent: Vec<u64>,
}

impl Rules {
    /// Rules for units with these restart policies; none runs yet.
    #[must_use]
    pub fn new(strategy: Strategy, limit: Limit, units: impl IntoIterator<Item = Restart>) -> Self {
        let units = units.into_iter().map(|restart| (restart, false)).collect();
        Self { strategy, limit, units, recent: Vec::new() }
    }

    /// A unit was started.
    pub fn started(&mut self, index: usize) {
        if let Some((_, running)) = self.units.get_mut(index) {
            *running = true;
        }
    }

    /// Whether a unit runs.
    #[must_use]
    pub fn is_running(&self, index: usize) -> bool {
        self.units.get(index).is_some_and(|(_, running)| *running)
    }

    /// How many units run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.units.iter().filter(|(_, running)| *running).count()
    }

    /// A unit ended by itself, at a time in nanoseconds: decides what to do and counts on it being done. Ends of units that
    /// it said to stop, and of units that do not run, are to be kept from it.
    pub fn ended(&mut self, index: usize, failed: bool, at: u64) -> Decision {
        let Some((restart, running)) = self.units.get_mut(index) else { return Decision::Leave };
        *running = false;
        if !matches!((*restart, failed), (Restart::Always, _) | (Restart::OnFailure, true)) {
            return Decision::Leave;
        }
        let window = u64::try_from(self.limit.within.as_nanos()).unwrap_or(u64::MAX);
        self.recent.retain(|then| at.saturating_sub(*then) < window);
        let group = match self.strategy {
            Strategy::OneForOne => index..index + 1,
            Strategy::OneForAll => 0..self.units.len(),
            Strategy::RestForOne => index..self.units.len(),
        };
        if self.recent.len() >= self.limit.restarts as usize {
            return Decision::GiveUp { stop: self.stop(0..self.units.len()) };
        }
        self.recent.push(at);
        let was: Vec<_> = group.clone().filter(|other| *other == index || self.is_running(*other)).collect();
        Decision::Restart { stop: self.stop(group), start: was }
    }

    /// The running units of a group, last first; they count as ended from now on.
    fn stop(&mut self, group: core::ops::Range<usize>) -> Vec<usize> {
        let running: Vec<_> = group.rev().filter(|index| self.is_running(*index)).collect();
        for index in &running {
            if let Some((_, running)) = self.units.get_mut(*index) {
                *running = false;
            }
        }
        running
    }
}

/// What a supervisor tells about what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// A unit was started.
    Started(usize),
    /// A unit ended by itself: reason and code.
    Ended(usize, ExitReason, i64),
    /// A unit was stopped because another ended.
    Stopped(usize),
    /// A unit could not be started.
    NotStarted(usize, Error),
    /// Too many restarts.
    GaveUp,
}

/// Keeps a group of units running.
pub struct Supervisor<Start: FnMut(usize) -> Result<Unit, Error>> {
    rules: Rules,
    start: Start,
    units: Vec<Option<(Unit, u64)>>,
    events: Events,
    next_token: u64,
    gave_up: bool,
}

impl<Start: FnMut(usize) -> Result<Unit, Error>> Supervisor<Start> {
    /// A supervisor for as many units as the rules have; `start` makes and starts one by its number.
    ///
    /// # Errors
    /// Those of event_subscribe.
    pub fn new(rules: Rules, start: Start) -> Result<Self, Error> {
        let units = rules.units.iter().map(|_| None).collect();
        Ok(Self { rules, start, units, events: Events::new()?, next_token: 1, gave_up: false })
    }

    /// The queue that its events come to: others may be added to it with tokens above `u64::MAX / 2`.
    #[must_use]
    pub const fn events(&self) -> &Events {
        &self.events
    }

    /// The unit of a number while it runs.
    #[must_use]
    pub fn unit(&self, index: usize) -> Option<&Unit> {
        self.units.get(index)?.as_ref().map(|(unit, _)| unit)
    }

    /// How many units run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.rules.running()
    }

    /// Whether it gave up.
    #[must_use]
    pub const fn gave_up(&self) -> bool {
        self.gave_up
    }

    /// Starts all units in order.
    pub fn start_all(&mut self, note: &mut dyn FnMut(Note)) {
        for index in 0..self.units.len() {
            self.start_one(index, note);
        }
    }

    fn start_one(&mut self, index: usize, note: &mut dyn FnMut(Note)) {
        let token = self.next_token;
        self.next_token += 1;
        let started = (self.start)(index).and_then(|unit| {
            let ended = EventMask::EXIT | EventMask::CRASH;
            self.events.subscribe(Source::Unit(&unit), ended, EventFlags::ONESHOT, token)?;
            Ok(unit)
        });
        match started {
            Ok(unit) => {
                if let Some(slot) = self.units.get_mut(index) {
                    *slot = Some((unit, token));
                }
                self.rules.started(index);
                note(Note::Started(index));
            }
            Err(error) => note(Note::NotStarted(index, error)),
        }
    }

    fn stop_one(&mut self, index: usize, note: &mut dyn FnMut(Note)) {
        if let Some((unit, token)) = self.units.get_mut(index).and_then(Option::take) {
            let _may_have_ended = self.events.unsubscribe(token);
            let _may_have_ended = unit.kill(0);
            note(Note::Stopped(index));
        }
    }

    /// Waits for events until the deadline and does what the rules say. Gives the tokens of events that are not its own.
    ///
    /// # Errors
    /// Those of event_wait.
    pub fn step(&mut self, deadline: Deadline, note: &mut dyn FnMut(Note)) -> Result<Vec<u64>, Error> {
        let mut others = Vec::new();
        for event in self.events.wait(deadline)? {
            let owner = |slot: &Option<(Unit, u64)>| slot.as_ref().is_some_and(|(_, token)| *token == event.token);
            let Some(index) = self.units.iter().position(owner) else {
                if event.token > u64::MAX / 2 {
                    others.push(event.token);
                }
                continue;
            };
            let info = self.unit(index).and_then(|unit| unit.info().ok());
            let reason = info.map_or(ExitReason::None, |info| info.exit_reason);
            let code = info.map_or(0, |info| info.exit_code);
            if let Some(slot) = self.units.get_mut(index) {
                *slot = None;
            }
            note(Note::Ended(index, reason, code));
            let failed = event.mask.contains(EventMask::CRASH) || code != 0;
            match self.rules.ended(index, failed, now()) {
                Decision::Leave => {}
                Decision::Restart { stop, start } => {
                    stop.into_iter().for_each(|other| self.stop_one(other, note));
                    start.into_iter().for_each(|other| self.start_one(other, note));
                }
                Decision::GiveUp { stop } => {
                    self.gave_up = true;
                    note(Note::GaveUp);
                    stop.into_iter().for_each(|other| self.stop_one(other, note));
                }
            }
        }
        Ok(others)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::Strategy;
    use super::*;

    const LIMIT: Limit = Limit { restarts: 3, within: Duration::from_nanos(100) };

    fn rules(strategy: Strategy, limit: Limit, units: usize) -> Rules {
        let mut rules = Rules::new(strategy, limit, vec![Restart::OnFailure; units]);
        (0..units).for_each(|index| rules.started(index));
        rules
    }

    #[test]
    fn strategies_choose_their_groups() {
        let restart =
            |stop: &[usize], start: &[usize]| Decision::Restart { stop: stop.to_vec(), start: start.to_vec() };
        assert_eq!(rules(Strategy::OneForOne, LIMIT, 4).ended(1, true, 0), restart(&[], &[1]));
        assert_eq!(rules(Strategy::OneForAll, LIMIT, 4).ended(1, true, 0), restart(&[3, 2, 0], &[0, 1, 2, 3]));
        assert_eq!(rules(Strategy::RestForOne, LIMIT, 4).ended(1, true, 0), restart(&[3, 2], &[1, 2, 3]));
    }

    #[test]
    fn units_that_ended_before_are_not_started_again() {
        let mut rules = rules(Strategy::OneForAll, LIMIT, 3);
        assert_eq!(rules.ended(0, false, 0), Decision::Leave);
        assert_eq!(rules.ended(1, true, 1), Decision::Restart { stop: vec![2], start: vec![1, 2] });
    }

    #[test]
    fn limit_counts_restarts_within_its_window() {
        let mut rules = rules(Strategy::OneForOne, LIMIT, 2);
        for at in [0, 10, 20] {
            assert!(matches!(rules.ended(0, true, at), Decision::Restart { .. }));
            rules.started(0);
        }
        assert_eq!(rules.clone().ended(0, true, 99), Decision::GiveUp { stop: vec![1] });
        assert!(matches!(rules.ended(0, true, 100), Decision::Restart { .. }));
    }

    proptest! {
        /// Against a model: who is stopped ran, who is started was stopped or ended, and no window has too many restarts.
        #[test]
        fn histories_obey_the_rules(
            strategy in prop::sample::select(vec![Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne]),
            restarts in 0u32..4,
            history in prop::collection::vec((0usize..4, any::<bool>(), 0u64..60), 0..40),
        ) {
            let limit = Limit { restarts, within: Duration::from_nanos(100) };
            let policies = [Restart::Always, Restart::OnFailure, Restart::Never, Restart::Always];
            let mut rules = Rules::new(strategy, limit, policies);
            let mut runs = [true; 4];
            (0..4).for_each(|index| rules.started(index));
            let (mut time, mut restarted) = (0, Vec::new());
            for (index, failed, step) in history {
                time += step;
                if !runs[index] {
                    continue;
                }
                runs[index] = false;
                let wanted = policies[index] == Restart::Always || (policies[index] == Restart::OnFailure && failed);
                match rules.ended(index, failed, time) {
                    Decision::Leave => prop_assert!(!wanted),
                    Decision::Restart { stop, start } => {
                        prop_assert!(wanted);
                        restarted.push(time);
                        for other in &stop {
                            prop_assert!(runs[*other]);
                            runs[*other] = false;
                        }
                        prop_assert!(start.contains(&index) && start.is_sorted());
                        prop_assert_eq!(start.len(), stop.len() + 1);
                        for other in start {
                            prop_assert!(!runs[other]);
                            prop_assert!(strategy != Strategy::OneForOne || other == index);
                            prop_assert!(strategy != Strategy::RestForOne || other >= index);
                            runs[other] = true;
                            rules.started(other);
                        }
                    }
                    Decision::GiveUp { stop } => {
                        prop_assert!(wanted);
                        let recent = restarted.iter().filter(|then| time - **then < 100).count();
                        prop_assert_eq!(recent, restarts as usize);
                        stop.iter().for_each(|other| runs[*other] = false);
                        prop_assert!(runs.iter().all(|runs| !runs));
                    }
                }
                let recent = restarted.iter().filter(|then| time - **then < 100).count();
                prop_assert!(recent <= restarts as usize);
                prop_assert_eq!(rules.running(), runs.iter().filter(|runs| **runs).count());
            }
        }
    }
}
