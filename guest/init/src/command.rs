//! The shell's commands: what a line means.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// An empty line.
    Nothing,
    /// Says what there is.
    Help,
    /// Lists the units.
    Units,
    /// Everything about one unit.
    Info(u64),
    /// Shows the trace of so many milliseconds.
    Trace(u64),
    /// Shows the kernel's log.
    Log,
    /// Lists the boot archive.
    Files,
    /// Runs a program: its name and arguments, and whether the shell waits for its end.
    Run(Vec<String>, bool),
    /// Kills a unit the shell or `init.conf` started.
    Kill(u64),
    /// Measures a few ways through the kernel.
    Measure,
    /// Shows the figures of the system.
    Metrics,
    /// Shows the kernel's configuration.
    Config,
    /// Switches off.
    PowerOff,
    /// Starts again.
    Reboot,
}

/// The text of `help`.
pub const HELP: &str = "\
units              every unit: id, parent, state, threads, time, memory, name
info ID            everything about a unit that was started from here
run PROGRAM ARG…   runs a program of the boot archive and waits; with & at the end it does not wait
kill ID            kills a unit that was started from here
files              the boot archive
trace [MS]         the trace of the next MS milliseconds (100)
log                the kernel's log
metrics            figures of the whole system
config             the kernel's configuration
measure            a few ways through the kernel, in ticks of the time-stamp counter
poweroff, reboot   ends the machine";

/// Reads a line.
///
/// # Errors
/// What is wrong with it.
pub fn parse(line: &str) -> Result<Command, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let id = |text: &str| text.parse::<u64>().map_err(|_| alloc::format!("`{text}` is no id of a unit; see units"));
    match *words {
        [] => Ok(Command::Nothing),
        ["help"] => Ok(Command::Help),
        ["units"] => Ok(Command::Units),
        ["info", unit] => Ok(Command::Info(id(unit)?)),
        ["trace"] => Ok(Command::Trace(100)),
        ["trace", length] => {
            let length = length.parse().ok().filter(|length| *length <= 60_000);
            length.map(Command::Trace).ok_or_else(|| "trace takes 0 to 60000 milliseconds".to_string())
        }
        ["log"] => Ok(Command::Log),
        ["files"] => Ok(Command::Files),
        ["run", ref program @ .., "&"] if !program.is_empty() => Ok(Command::Run(owned(program), false)),
        ["run", ref program @ ..] if !program.is_empty() && program != ["&"] => Ok(Command::Run(owned(program), true)),
        ["kill", unit] => Ok(Command::Kill(id(unit)?)),
        ["measure"] => Ok(Command::Measure),
        ["metrics"] => Ok(Command::Metrics),
        ["config"] => Ok(Command::Config),
        ["poweroff"] => Ok(Command::PowerOff),
        ["reboot"] => Ok(Command::Reboot),
        [first, ..] => Err(alloc::format!("`{first}` is not understood with these words; try help")),
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_commands() {
        let run = |words: &[&str], wait| Ok(Command::Run(owned(words), wait));
        assert_eq!(parse("  "), Ok(Command::Nothing));
        assert_eq!(parse("run tests one two"), run(&["tests", "one", "two"], true));
        assert_eq!(parse("run tests &"), run(&["tests"], false));
        assert_eq!(parse("kill 17"), Ok(Command::Kill(17)));
        assert_eq!(parse("trace"), Ok(Command::Trace(100)));
        for wrong in ["run", "run &", "kill", "kill x", "trace 60001", "dance"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn help_names_every_command() {
        for word in HELP.lines().filter_map(|line| line.split([' ', ',']).next()) {
            assert_ne!(parse(&alloc::format!("{word} 1")).or_else(|_| parse(word)), Ok(Command::Nothing), "{word}");
            assert!(parse(word).or_else(|_| parse(&alloc::format!("{word} 1"))).is_ok(), "{word}");
        }
    }
}
