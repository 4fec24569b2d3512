//! Amounts as people write them: durations such as `1m30s`, memory such as `128MiB`, host names, signals.

use crate::model::Memory;

const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// How a duration is written, for messages.
pub(crate) const DURATION_FORM: &str = "a duration such as \"500ms\", \"2s\" or \"1m30s\"";
/// How an amount of memory is written, for messages.
pub(crate) const MEMORY_FORM: &str = "an amount such as \"128MiB\" or \"2GiB\"";

/// Reads a duration in milliseconds: whole numbers with `h`, `m`, `s` and `ms`, the larger unit first, each at most once.
#[must_use]
pub fn parse_duration_ms(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total: u64 = 0;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let (number, tail) = split_number(rest)?;
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        let (_, factor) = units.find(|(name, _)| *name == unit)?;
        total = total.checked_add(number.checked_mul(*factor)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// Writes a duration so that [`parse_duration_ms`] reads the same: `90000` is `1m30s`.
#[must_use]
pub fn format_duration_ms(ms: u64) -> String {
    if ms == 0 {
        return "0s".to_owned();
    }
    let mut rest = ms;
    let mut text = String::new();
    for (unit, factor) in UNITS {
        if rest >= factor {
            text.push_str(&format!("{}{unit}", rest / factor));
            rest %= factor;
        }
    }
    text
}

/// Reads an amount of memory: a whole number of `MiB` or `GiB`. The range is the caller's to check.
pub(crate) fn parse_memory_mib(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text)?;
    match unit {
        "MiB" => Some(number),
        "GiB" => number.checked_mul(1024),
        _ => None,
    }
}

/// What somebody who wrote `128M` or `1 gb` probably meant.
pub(crate) fn memory_suggestion(text: &str) -> Option<String> {
    let (number, unit) = split_number(text.trim())?;
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "m" | "mb" | "mi" | "mib" => "MiB",
        "g" | "gb" | "gi" | "gib" => "GiB",
        _ => return None,
    };
    Some(format!("{number}{unit}"))
}

/// Writes an amount of memory so that it is read back as the same.
pub(crate) fn format_memory(memory: Memory) -> String {
    let mib = memory.mib();
    if mib >= 1024 && mib.is_multiple_of(1024) { format!("{}GiB", mib / 1024) } else { format!("{mib}MiB") }
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    // More digits than any amount needs: refused, not wrapped.
    if digits == 0 || digits > 12 {
        return None;
    }
    Some((number.parse().ok()?, rest))
}

/// Why `name` cannot be the host name of a TLS route, if it cannot (RFC 6066 section 3, RFC 1123 section 2.1).
pub(crate) fn host_name_problem(name: &str) -> Option<&'static str> {
    let label_is_good = |label: &str| {
        let letters = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        (1..=63).contains(&label.len()) && letters && !label.starts_with('-') && !label.ends_with('-')
    };
    if name.is_empty() {
        Some("a host name cannot be empty")
    } else if name.len() > 253 {
        Some("a host name has at most 253 characters")
    } else if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Some("a host name is written in lower case here")
    } else if name.ends_with('.') {
        Some("a host name is written without the trailing dot here")
    } else if name.contains(':') || name.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit())) {
        Some("an IP address cannot be a TLS host name")
    } else if name.contains('*') {
        Some("wildcards are not supported: list each host name")
    } else if !name.split('.').all(label_is_good) {
        Some("a host name is made of letters, digits and inner hyphens, in labels of at most 63")
    } else {
        None
    }
}

/// The signals an instance may be asked to end with.
pub(crate) const SIGNALS: [&str; 12] = [
    "SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGABRT", "SIGALRM", "SIGCONT",
    "SIGPWR", "SIGWINCH",
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_or_refused() {
        let table = [
            ("500ms", Some(500)),
            ("2s", Some(2000)),
            ("1m30s", Some(90_000)),
            ("1h1m1s1ms", Some(3_661_001)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("s", None),
            ("1s1m", None),
            ("1s1s", None),
            ("1.5s", None),
            (" 1s", None),
            ("1S", None),
            ("9999999999999s", None),
            ("999999999999h", Some(3_599_999_999_996_400_000)),
        ];
        for (text, expected) in table {
            assert_eq!(parse_duration_ms(text), expected, "{text:?}");
        }
    }

    #[test]
    fn memory_is_read_or_refused_with_a_suggestion() {
        assert_eq!(parse_memory_mib("128MiB"), Some(128));
        assert_eq!(parse_memory_mib("2GiB"), Some(2048));
        for bad in ["128", "128MB", "1KiB", "-1MiB", "1.5GiB", "", "9999999999999MiB"] {
            assert_eq!(parse_memory_mib(bad), None, "{bad:?}");
        }
        assert_eq!(memory_suggestion("128mb").as_deref(), Some("128MiB"));
        assert_eq!(memory_suggestion("2 G").as_deref(), Some("2GiB"));
        assert_eq!(memory_suggestion("lots"), None);
    }

    #[test]
    fn host_names_follow_the_rules() {
        for good in ["a", "hello.example", "x-1.example.com", "xn--bcher-kva.example"] {
            assert_eq!(host_name_problem(good), None, "{good:?}");
        }
        let long = format!("{}.example", "a".repeat(64));
        for bad in ["", "Hello.example", "a.", ".a", "a..b", "127.0.0.1", "::1", "*.a.example", "-a", "a_b", "ä", &long]
        {
            assert!(host_name_problem(bad).is_some(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_written_duration_reads_back(ms in 0u64..10_000_000) {
            prop_assert_eq!(parse_duration_ms(&format_duration_ms(ms)), Some(ms));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,20}") {
            let _ = (parse_duration_ms(&text), parse_memory_mib(&text), memory_suggestion(&text), host_name_problem(&text));
        }
    }
}
