//! Times for people.

/// A time in ns in three digits or so: `950 ns`, `1.25 ms`, `3 h 4 m`. `u64::MAX` is `∞`.
pub fn duration(ns: u64) -> String {
    let scaled = |unit: u64, name: &str| {
        let value = ns as f64 / unit as f64;
        let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
        format!("{value:.digits$} {name}")
    };
    match ns {
        u64::MAX => "∞".to_owned(),
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => scaled(1_000, "µs"),
        1_000_000..1_000_000_000 => scaled(1_000_000, "ms"),
        1_000_000_000..60_000_000_000 => scaled(1_000_000_000, "s"),
        _ => {
            let minutes = ns / 60_000_000_000;
            match (minutes / 1440, minutes / 60 % 24, minutes % 60) {
                (0, 0, _) => format!("{minutes} m {} s", ns / 1_000_000_000 % 60),
                (0, hours, minutes) => format!("{hours} h {minutes} m"),
                (days, hours, _) => format!("{days} d {hours} h"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_short() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_250, "1.25 µs"),
            (65_535, "65.5 µs"),
            (262_143, "262 µs"),
            (3_000_000_000, "3.00 s"),
            (61_000_000_000, "1 m 1 s"),
            (3 * 3_600_000_000_000 + 240_000_000_000, "3 h 4 m"),
            (50 * 3_600_000_000_000, "2 d 2 h"),
            (u64::MAX, "∞"),
        ] {
            assert_eq!(super::duration(ns), text);
        }
    }
}
