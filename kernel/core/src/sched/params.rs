//! Scheduling parameters: what a thread asks for.

use holm_abi::Error;

use crate::machine::Nanos;
use crate::sched::PRIORITIES;

/// The classes, the lowest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Only when nothing else is ready.
    Background,
    /// Fair by weight.
    #[default]
    BestEffort,
    /// By priority.
    Fixed,
    /// By deadline, within an admitted budget.
    Edf,
}

/// The weight of a thread that asks for none.
pub const DEFAULT_WEIGHT: u32 = holm_abi::limits::DEFAULT_WEIGHT as u32;
/// The greatest weight.
pub const MAX_WEIGHT: u32 = holm_abi::limits::MAX_WEIGHT as u32;
/// The shortest budget of `RT_EDF`: shorter ones would be spent on switching.
pub const MIN_BUDGET: Nanos = Nanos(1_000);
/// The shortest period of `RT_EDF`.
pub const MIN_PERIOD: Nanos = Nanos(holm_abi::limits::MIN_PERIOD);
/// The longest period of `RT_EDF`.
pub const MAX_PERIOD: Nanos = Nanos(holm_abi::limits::MAX_PERIOD);

/// A class with its parameters; those of other classes are kept and have no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    /// The class.
    pub class: Class,
    /// `RT_FIXED`: 0 to 31, higher first.
    pub priority: u8,
    /// `BEST_EFFORT`: 1 to 10,000; a thread gets time in proportion to it.
    pub weight: u32,
    /// `RT_EDF`: the budget of each period.
    pub budget: Nanos,
    /// `RT_EDF`: a job is to be done this long after its release.
    pub deadline: Nanos,
    /// `RT_EDF`: how often the budget is refilled.
    pub period: Nanos,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            class: Class::BestEffort,
            priority: 0,
            weight: DEFAULT_WEIGHT,
            budget: Nanos(0),
            deadline: Nanos(0),
            period: Nanos(0),
        }
    }
}

impl Params {
    /// Background.
    #[must_use]
    pub fn background() -> Self {
        Self { class: Class::Background, ..Self::default() }
    }

    /// Best effort with a weight.
    #[must_use]
    pub fn best_effort(weight: u32) -> Self {
        Self { weight, ..Self::default() }
    }

    /// A fixed priority.
    #[must_use]
    pub fn fixed(priority: u8) -> Self {
        Self { class: Class::Fixed, priority, ..Self::default() }
    }

    /// A budget of each period, to be spent before a deadline.
    #[must_use]
    pub fn edf(budget: Nanos, deadline: Nanos, period: Nanos) -> Self {
        Self { class: Class::Edf, budget, deadline, period, ..Self::default() }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the parameters of the class are out of range: priority above 31, weight 0 or above 10,000,
    /// or not 1 µs <= budget <= deadline <= period, the period within its limits.
    pub fn check(&self) -> Result<(), Error> {
        let good = match self.class {
            Class::Background => true,
            Class::BestEffort => (1..=MAX_WEIGHT).contains(&self.weight),
            Class::Fixed => (self.priority as usize) < PRIORITIES,
            Class::Edf => {
                self.budget >= MIN_BUDGET
                    && self.budget <= self.deadline
                    && self.deadline <= self.period
                    && (MIN_PERIOD..=MAX_PERIOD).contains(&self.period)
            }
        };
        if good { Ok(()) } else { Err(Error::Invalid) }
    }
}
