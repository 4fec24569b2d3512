//! `init.conf`: which units the root unit starts.
//!
//! One statement per line; `#` begins a comment; blank lines count for nothing. Words are separated by blanks.
//!
//! | statement | meaning |
//! | --- | --- |
//! | `shell on` or `shell off` | whether there is a shell on the console (on) |
//! | `supervise STRATEGY RESTARTS SECONDS` | `one-for-one`, `one-for-all` or `rest-for-one`; gives up above RESTARTS within SECONDS (one-for-one 5 10) |
//! | `unit NAME PROGRAM ARGUMENT…` | starts a program of the boot archive; the statements below it are about this unit |
//! | `caps NAME…` | capabilities it gets: `console`, `archive`, `system` (none) |
//! | `restart always`, `on-failure` or `never` | when it is restarted (never) |
//! | `memory BYTES`, `kernel-memory BYTES` | limits, with K, M or G (those of the root unit) |
//! | `threads N`, `handles N` | limits (those of the root unit) |
//! | `stack BYTES` | the first thread's stack |
//! | `class CLASS N` | `rt-fixed` with a priority, `best-effort` with a weight, `background` (best-effort 100) |
//! | `ceiling CLASS` | the highest class its threads may have; also `rt-edf` (best-effort) |
//! | `label KEY VALUE` | a label |
//! | `env NAME=VALUE` | a line of its environment |
//! | `then power-off` | when it has ended for good the machine is switched off with its exit code |

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use holm_rt::abi::{SchedClass, limits};
use holm_rt::supervise::{Limit, Restart, Strategy};

/// What `init.conf` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Whether there is a shell.
    pub shell: bool,
    /// Which units are restarted together.
    pub strategy: Strategy,
    /// How often.
    pub limit: Limit,
    /// The units in their order.
    pub units: Vec<UnitConfig>,
}

/// A capability the root unit can pass on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cap {
    /// The console.
    Console,
    /// The boot archive.
    Archive,
    /// The system.
    System,
}

impl Cap {
    /// Its name, here and in the unit's `HOLM_CAPS`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Archive => "archive",
            Self::System => "system",
        }
    }
}

/// A unit to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitConfig {
    /// Its name.
    pub name: String,
    /// The file of the boot archive.
    pub program: String,
    /// Its arguments, without the program's name.
    pub arguments: Vec<String>,
    /// Capabilities it gets.
    pub caps: Vec<Cap>,
    /// When it is restarted.
    pub restart: Restart,
    /// Limit of memory in bytes; 0 for the root unit's.
    pub memory: u64,
    /// Limit of kernel memory in bytes; 0 for the root unit's.
    pub kernel_memory: u64,
    /// Limit of threads; 0 for the root unit's.
    pub threads: u32,
    /// Limit of handles; 0 for the root unit's.
    pub handles: u32,
    /// Bytes of its first stack; 0 for the kernel's choice.
    pub stack: u64,
    /// Class and priority or weight.
    pub class: (SchedClass, u32),
    /// The highest class allowed.
    pub ceiling: SchedClass,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// Lines of its environment.
    pub environment: Vec<String>,
    /// Whether its end for good switches the machine off.
    pub then_power_off: bool,
}

/// What is wrong with `init.conf`, and in which line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "init.conf line {}: {}", self.line, self.what)
    }
}

impl core::error::Error for ConfigError {}

impl Default for Config {
    fn default() -> Self {
        let limit = Limit { restarts: 5, within: Duration::from_secs(10) };
        Self { shell: true, strategy: Strategy::OneForOne, limit, units: Vec::new() }
    }
}

impl UnitConfig {
    /// A unit with nothing said but its program.
    #[must_use]
    pub fn new(name: &str, program: &str, arguments: &[&str]) -> Self {
        Self {
            name: name.to_string(),
            program: program.to_string(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            caps: Vec::new(),
            restart: Restart::Never,
            memory: 0,
            kernel_memory: 0,
            threads: 0,
            handles: 0,
            stack: 0,
            class: (SchedClass::BestEffort, 0),
            ceiling: SchedClass::BestEffort,
            labels: Vec::new(),
            environment: Vec::new(),
            then_power_off: false,
        }
    }
}

/// Reads `init.conf`.
///
/// # Errors
/// The first line that cannot be understood, and why.
pub fn parse(text: &str) -> Result<Config, ConfigError> {
    let mut config = Config::default();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or("");
        let words: Vec<&str> = line.split_whitespace().collect();
        if !words.is_empty() {
            statement(&mut config, &words).map_err(|what| ConfigError { line: index + 1, what })?;
        }
    }
    Ok(config)
}

/// One statement.
fn statement(config: &mut Config, words: &[&str]) -> Result<(), String> {
    match *words {
        ["shell", "on"] => config.shell = true,
        ["shell", "off"] => config.shell = false,
        ["supervise", strategy, restarts, seconds] => {
            config.strategy = match strategy {
                "one-for-one" => Strategy::OneForOne,
                "one-for-all" => Strategy::OneForAll,
                "rest-for-one" => Strategy::RestForOne,
                other => {
                    return Err(alloc::format!(
                        "`{other}` is no strategy: write one-for-one, one-for-all or rest-for-one"
                    ));
                }
            };
            let within = Duration::from_secs(number(seconds)?);
            config.limit = Limit { restarts: number(restarts)?, within };
        }
        ["unit", name, program, ref arguments @ ..] => {
            if config.units.iter().any(|unit| unit.name == name) {
                return Err(alloc::format!("there is a unit `{name}` already"));
            }
            if name.len() > limits::NAME_BYTES as usize {
                return Err(alloc::format!("`{name}` is longer than {} bytes", limits::NAME_BYTES));
            }
            config.units.push(UnitConfig::new(name, program, arguments));
        }
        ["shell" | "supervise" | "unit", ..] => {
            return Err(alloc::format!("`{}` takes other words; see the table of init.conf", words.join(" ")));
        }
        _ => match config.units.last_mut() {
            Some(unit) => unit_statement(unit, words)?,
            None => return Err(alloc::format!("`{}` stands before any `unit`", words.join(" "))),
        },
    }
    Ok(())
}

/// A statement about a unit.
fn unit_statement(unit: &mut UnitConfig, words: &[&str]) -> Result<(), String> {
    match *words {
        ["caps", ref names @ ..] => {
            for name in names {
                let known = [Cap::Console, Cap::Archive, Cap::System];
                let cap = known.into_iter().find(|cap| cap.name() == *name);
                unit.caps.push(
                    cap.ok_or_else(|| alloc::format!("`{name}` is no capability: write console, archive or system"))?,
                );
            }
        }
        ["restart", "always"] => unit.restart = Restart::Always,
        ["restart", "on-failure"] => unit.restart = Restart::OnFailure,
        ["restart", "never"] => unit.restart = Restart::Never,
        ["memory", amount] => unit.memory = bytes(amount)?,
        ["kernel-memory", amount] => unit.kernel_memory = bytes(amount)?,
        ["threads", count] => unit.threads = number(count)?,
        ["handles", count] => unit.handles = number(count)?,
        ["stack", amount] => unit.stack = bytes(amount)?,
        ["class", class] => unit.class = (self::class(class)?, 0),
        ["class", class, rank] => unit.class = (self::class(class)?, number(rank)?),
        ["ceiling", class] => unit.ceiling = self::class(class)?,
        ["label", key, value] => unit.labels.push((key.to_string(), value.to_string())),
        ["env", line] if line.contains('=') => unit.environment.push(line.to_string()),
        ["then", "power-off"] => unit.then_power_off = true,
        _ => return Err(alloc::format!("`{}` is not understood", words.join(" "))),
    }
    if !unit.ceiling.allows(unit.class.0) {
        unit.ceiling = unit.class.0;
    }
    Ok(())
}

fn class(name: &str) -> Result<SchedClass, String> {
    match name {
        "rt-edf" => Ok(SchedClass::RtEdf),
        "rt-fixed" => Ok(SchedClass::RtFixed),
        "best-effort" => Ok(SchedClass::BestEffort),
        "background" => Ok(SchedClass::Background),
        other => Err(alloc::format!("`{other}` is no class: write rt-edf, rt-fixed, best-effort or background")),
    }
}

fn number<T: core::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| alloc::format!("`{text}` is no number that fits here"))
}

/// A number of bytes with K, M or G behind it.
fn bytes(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'K')) => (text.get(..at), 1 << 10),
        Some((at, 'M')) => (text.get(..at), 1 << 20),
        Some((at, 'G')) => (text.get(..at), 1 << 30),
        _ => (Some(text), 1),
    };
    let amount: Option<u64> = digits.and_then(|digits| digits.parse().ok());
    amount.and_then(|amount| amount.checked_mul(unit)).ok_or_else(|| alloc::format!("`{text}` is no number of bytes"))
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::Strategy;
    use super::*;

    #[test]
    fn everything_at_once_is_understood() {
        let text = "# the demo\nshell off\nsupervise rest-for-one 3 60\n\nunit web server --port 80 # first\n  caps console archive\n  \
                    restart on-failure\n  memory 16M\n  kernel-memory 512K\n  threads 8\n  handles 64\n  stack 8192\n  class rt-fixed 10\n  \
                    label role web\n  env A=b\nunit test tests all\n  then power-off\n  ceiling rt-edf\n";
        let config = parse(text).unwrap();
        assert!(!config.shell);
        assert_eq!((config.strategy, config.limit.restarts), (Strategy::RestForOne, 3));
        let web = &config.units[0];
        assert_eq!((web.program.as_str(), web.arguments.join(" ")), ("server", "--port 80".to_string()));
        assert_eq!(web.caps, vec![Cap::Console, Cap::Archive]);
        assert_eq!((web.memory, web.kernel_memory, web.stack), (16 << 20, 512 << 10, 8192));
        assert_eq!((web.class, web.ceiling), ((SchedClass::RtFixed, 10), SchedClass::RtFixed));
        assert!(config.units[1].then_power_off);
        assert_eq!(config.units[1].ceiling, SchedClass::RtEdf);
    }

    #[test]
    fn errors_name_the_line_and_the_reason() {
        for (text, wanted) in [
            ("restart never", "init.conf line 1: `restart never` stands before any `unit`"),
            ("\nunit a b\ncolour red", "init.conf line 3: `colour red` is not understood"),
            ("unit a b\nunit a c", "init.conf line 2: there is a unit `a` already"),
            ("unit a b\ncaps roof", "init.conf line 2: `roof` is no capability: write console, archive or system"),
            ("unit a b\nmemory 5X", "init.conf line 2: `5X` is no number of bytes"),
            ("unit a b\nmemory 99999999999G", "init.conf line 2: `99999999999G` is no number of bytes"),
            ("unit a b\nthreads -1", "init.conf line 2: `-1` is no number that fits here"),
            ("unit a", "init.conf line 1: `unit a` takes other words; see the table of init.conf"),
        ] {
            assert_eq!(parse(text).map_err(|error| error.to_string()), Err(wanted.to_string()));
        }
    }

    proptest! {
        #[test]
        fn any_text_parses_or_names_a_line_of_it(text in "[a-z0-9 #\n-]{0,200}") {
            if let Err(error) = parse(&text) {
                prop_assert!(error.line >= 1 && error.line <= text.lines().count());
            }
        }
    }
}
