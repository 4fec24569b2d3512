//! Linux signal numbers by name, as image configurations and people write them.

/// The signals 1..=31 on x86-64 and arm64.
const NAMES: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// First real-time signal a C library leaves to programs.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// Reads `SIGTERM`, `TERM`, `term`, `15`, `SIGRTMIN+3` or `RTMAX-1`. `None` when it is no signal.
pub fn parse_signal(text: &str) -> Option<i32> {
    let in_range = |n: i32| (1..=RTMAX).contains(&n).then_some(n);
    if let Ok(number) = text.parse() {
        return in_range(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return real_time(RTMIN, offset);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        return real_time(RTMAX, offset);
    }
    let index = NAMES.iter().position(|known| known.strip_prefix("SIG") == Some(name))?;
    i32::try_from(index + 1).ok()
}

fn real_time(base: i32, offset: &str) -> Option<i32> {
    let number = match offset {
        "" => base,
        _ if offset.starts_with(['+', '-']) => base.checked_add(offset.parse::<i32>().ok()?)?,
        _ => return None,
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

/// The name with `SIG` of a signal in 1..=31, such as `SIGTERM`.
pub fn signal_name(number: i32) -> Option<&'static str> {
    NAMES.get(usize::try_from(number.checked_sub(1)?).ok()?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_as_people_write_them() {
        for (text, number) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGSYS", Some(31)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("SIGRTMIN+31", None),
            ("SIGRTMIN3", None),
            ("0", None),
            ("65", None),
            ("SIGNOPE", None),
            ("", None),
        ] {
            assert_eq!(parse_signal(text), number, "{text}");
        }
    }

    #[test]
    fn every_name_reads_back_as_its_number() {
        for number in 1..=31 {
            assert_eq!(signal_name(number).and_then(parse_signal), Some(number));
        }
        assert_eq!((signal_name(0), signal_name(32), signal_name(i32::MIN)), (None, None, None));
    }
}
