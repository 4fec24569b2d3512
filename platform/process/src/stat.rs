//! The one line of `/proc/PID/stat`, as far as it tells one process from another (proc_pid_stat(5)).

use std::io;

/// How many fields stand between the program's name and the start time, which is field 22 of the line.
const BEFORE_START: usize = 19;

/// The start time in a line of `/proc/PID/stat`, in clock ticks since boot. The program's name before it is in
/// parentheses and may hold anything, parentheses too; behind it stand numbers and one letter.
fn start_time_in(line: &[u8]) -> Option<u64> {
    let end_of_name = line.iter().rposition(|&byte| byte == b')')?;
    let fields = std::str::from_utf8(&line[end_of_name + 1..]).ok()?;
    fields.split_ascii_whitespace().nth(BEFORE_START)?.parse().ok()
}

/// The start time of the process that has this number now; `None` when none has it.
pub(crate) fn start_time(pid: u32) -> io::Result<Option<u64>> {
    let line = match std::fs::read(format!("/proc/{pid}/stat")) {
        Ok(line) => line,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // It ended while its file was open.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => return Ok(None),
        Err(error) => return Err(error),
    };
    let unreadable = || io::Error::new(io::ErrorKind::InvalidData, format!("cannot read /proc/{pid}/stat"));
    start_time_in(&line).ok_or_else(unreadable).map(Some)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::start_time_in;

    /// A line as the kernel writes it.
    fn line(name: &[u8], state: char, start: u64) -> Vec<u8> {
        let before = " 1 -2 3 4 -1 6 7 8 9 10 11 12 13 14 15 16 17 18";
        let mut line = b"77 (".to_vec();
        line.extend_from_slice(name);
        line.extend_from_slice(format!(") {state}{before} {start} 20 21\n").as_bytes());
        line
    }

    #[test]
    fn start_time_is_found_behind_any_name() {
        for name in ["qemu", "", "a b", ") S 1 (y", ")", "(", "a\n) Z 2", ") S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16"]
        {
            assert_eq!(start_time_in(&line(name.as_bytes(), 'S', 4242)), Some(4242), "{name}");
        }
        assert_eq!(start_time_in(&line(&[0xff, b')', 0], 'Z', u64::MAX)), Some(u64::MAX));
    }

    #[test]
    fn a_line_without_a_start_time_has_none() {
        let whole = line(b"x", 'S', 4242);
        let cut = whole.iter().rposition(|&byte| byte == b'4').unwrap();
        for broken in [&b""[..], b"77 (x", b"77 (x)", b"77 (x) S 1 2", &whole[..cut - 4]] {
            assert_eq!(start_time_in(broken), None, "{}", String::from_utf8_lossy(broken));
        }
        let letters = String::from_utf8(whole).unwrap().replace("4242", "x");
        assert_eq!(start_time_in(letters.as_bytes()), None);
    }

    proptest! {
        #[test]
        fn any_name_state_and_time_are_told_apart(
            name in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b')'), Just(b' '), Just(b'(')], 0..16),
            state in "[A-Z]",
            start in any::<u64>(),
        ) {
            let state = state.chars().next().unwrap();
            prop_assert_eq!(start_time_in(&line(&name, state, start)), Some(start));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = start_time_in(&bytes);
        }
    }
}
