//! The battery clock: the date and time when the machine started.

use crate::cpu::{input, out};

const SECONDS: u8 = 0;
const MINUTES: u8 = 2;
const HOURS: u8 = 4;
const DAY: u8 = 7;
const MONTH: u8 = 8;
const YEAR: u8 = 9;
const STATUS_A: u8 = 10;
const STATUS_B: u8 = 11;
const CENTURY: u8 = 0x32;

fn register(number: u8) -> u8 {
    // SAFETY: selects and reads a register of the battery clock, or of nothing.
    unsafe {
        out(0x70, number);
        input(0x71)
    }
}

/// Seconds since 1970-01-01T00:00:00Z; `None` when there is no such clock, or it makes no sense.
pub(crate) fn seconds() -> Option<u64> {
    if register(STATUS_A) == 0xff {
        return None;
    }
    let read = || [SECONDS, MINUTES, HOURS, DAY, MONTH, YEAR, CENTURY].map(register);
    // The clock changes its registers one by one: only a time that is read twice is one.
    let mut last = read();
    for _ in 0..10_000 {
        let again = read();
        if again == last && register(STATUS_A) & 0x80 == 0 {
            return decode(last, register(STATUS_B));
        }
        last = again;
    }
    None
}

fn decode(registers: [u8; 7], status: u8) -> Option<u64> {
    let binary = status & 4 != 0;
    let number = |value: u8| u64::from(if binary { value } else { (value >> 4) * 10 + (value & 15) });
    let [seconds, minutes, hours, day, month, year, century] = registers;
    let afternoon = hours & 0x80 != 0;
    let hour = match (status & 2 != 0, number(hours & 0x7f)) {
        (true, hour) => hour,
        (false, 12) => u64::from(afternoon) * 12,
        (false, hour) => hour + u64::from(afternoon) * 12,
    };
    let century = match number(century) {
        century @ 19..=21 => century,
        _ => 20,
    };
    let (year, month, day) = (century * 100 + number(year), number(month), number(day));
    if !(1970..2200).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    Some(days(year, month, day) * 86_400 + hour * 3600 + number(minutes) * 60 + number(seconds))
}

/// Days from 1970-01-01 in the Gregorian calendar, for years from 1970.
const fn days(year: u64, month: u64, day: u64) -> u64 {
    // Years that begin in March have their leap day last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468
}
