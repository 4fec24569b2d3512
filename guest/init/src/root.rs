//! The root unit's life: read the configuration, start the units, wait for events, obey the shell.

use alloc::rc::Rc;
use alloc::vec::Vec;

use holm_init::config::{self, Config};
use holm_init::line::{Editor, Typed};
use holm_rt::abi::{EventFlags, EventMask, PowerAction};
use holm_rt::supervise::{Note, Rules, Supervisor};
use holm_rt::{Console, Deadline, Error, Source, Unit, println};

use crate::children::Givens;
use crate::shell;

/// The token of the console in the queue of events.
const CONSOLE: u64 = u64::MAX;

/// A unit that the shell runs.
pub(crate) struct Job {
    pub(crate) unit: Unit,
    pub(crate) id: u64,
    pub(crate) name: alloc::string::String,
    /// Its token in the queue of events.
    pub(crate) token: u64,
    /// Whether the shell waits for it.
    pub(crate) awaited: bool,
}

/// What the root unit knows besides its supervised units.
pub(crate) struct Root {
    pub(crate) givens: Rc<Givens>,
    pub(crate) config: Config,
    pub(crate) jobs: Vec<Job>,
    next_token: u64,
    /// The code to switch off with, once a unit with `then power-off` ended for good.
    power_off: Option<u8>,
}

/// The root unit's program.
pub(crate) fn run() -> i32 {
    let givens = Rc::new(Givens::take());
    // The benchmark of the boot reads the time from this line.
    println!(
        "init: ready at {} ns, unit {} on {} processors",
        holm_rt::time::now(),
        holm_rt::startup::unit_id(),
        holm_rt::startup::cpu_count()
    );
    let config = configuration(&givens);
    let mut root = Root { givens, config, jobs: Vec::new(), next_token: u64::MAX / 2 + 1, power_off: None };
    match root.live() {
        Ok(()) => 0,
        Err(error) => {
            println!("init: cannot go on: {error}");
            1
        }
    }
}

/// Reads `init.conf`; when it is missing or wrong says so and offers the shell alone.
fn configuration(givens: &Givens) -> Config {
    let Some(archive) = &givens.archive else {
        println!("init: the kernel gave no boot archive, so there is nothing to start");
        return Config::default();
    };
    let text = match archive.open("init.conf").and_then(|file| file.text()) {
        Ok(text) => text,
        Err(Error::NotFound) => {
            println!("init: the boot archive has no init.conf, so only the shell runs");
            return Config::default();
        }
        Err(error) => {
            println!("init: cannot read init.conf: {error}");
            return Config::default();
        }
    };
    config::parse(&text).unwrap_or_else(|error| {
        println!("init: {error}; nothing of it is started");
        Config::default()
    })
}

impl Root {
    fn live(&mut self) -> Result<(), Error> {
        let units = self.config.units.clone();
        let count = units.len();
        let rules = Rules::new(self.config.strategy, self.config.limit, units.iter().map(|unit| unit.restart));
        let givens = Rc::clone(&self.givens);
        let mut supervisor = Supervisor::new(rules, move |index| {
            units.get(index).ok_or(Error::NotFound).and_then(|unit| givens.start(unit))
        })?;
        let mut notes = Vec::new();
        supervisor.start_all(&mut |note| notes.push(note));
        self.tell(&notes, &running(&supervisor, count));
        let shell = self.config.shell && self.givens.console.is_some();
        let mut editor = Editor::default();
        if shell {
            if let Some(console) = &self.givens.console {
                supervisor.events().subscribe(
                    Source::Console(console),
                    EventMask::READABLE,
                    EventFlags::NEEDS_ACK,
                    CONSOLE,
                )?;
            }
            println!("type help for the commands");
            self.prompt();
        }
        loop {
            if let Some(code) = self.power_off.take() {
                self.switch_off(code);
            }
            if !shell && supervisor.running() == 0 && self.jobs.is_empty() {
                println!("init: nothing runs any more and there is no shell");
                self.switch_off(0);
                return Ok(());
            }
            let mut notes = Vec::new();
            let tokens = match supervisor.step(Deadline::NEVER, &mut |note| notes.push(note)) {
                Ok(tokens) => tokens,
                Err(Error::Interrupted) => continue,
                Err(error) => return Err(error),
            };
            self.tell(&notes, &running(&supervisor, count));
            for token in tokens {
                if token == CONSOLE {
                    self.listen(&mut editor, &supervisor)?;
                    supervisor.events().acknowledge(CONSOLE)?;
                } else {
                    self.job_ended(token);
                }
            }
        }
    }

    /// Reads what was typed and obeys whole lines. While a program is awaited what is typed is the program's.
    fn listen<S: FnMut(usize) -> Result<Unit, Error>>(
        &mut self,
        editor: &mut Editor,
        supervisor: &Supervisor<S>,
    ) -> Result<(), Error> {
        if self.jobs.iter().any(|job| job.awaited) {
            return Ok(());
        }
        let mut bytes = [0; 64];
        let count = match self.console().map(|console| console.read(&mut bytes, Deadline::PAST)) {
            Some(Ok(count)) => count,
            Some(Err(Error::TimedOut | Error::WouldBlock)) | None => return Ok(()),
            Some(Err(error)) => return Err(error),
        };
        for byte in bytes.iter().take(count) {
            match editor.typed(*byte) {
                Typed::Echo(shown) => self.show(&shown),
                Typed::Line(line) => {
                    println!();
                    let started = shell::obey(self, &line, &mut |index| supervisor.unit(index).map(|unit| unit.info()));
                    if let Some(job) = started {
                        self.watch(job, supervisor);
                    }
                    self.prompt();
                }
                Typed::Abandoned => {
                    println!("^C");
                    self.prompt();
                }
                Typed::Nothing => {}
            }
        }
        Ok(())
    }

    fn watch<S: FnMut(usize) -> Result<Unit, Error>>(&mut self, job: Job, supervisor: &Supervisor<S>) {
        let ended = EventMask::EXIT | EventMask::CRASH;
        match supervisor.events().subscribe(Source::Unit(&job.unit), ended, EventFlags::ONESHOT, job.token) {
            Ok(()) => self.jobs.push(job),
            Err(error) => println!("init: cannot watch {}: {error}", job.name),
        }
    }

    fn job_ended(&mut self, token: u64) {
        let Some(at) = self.jobs.iter().position(|job| job.token == token) else { return };
        let job = self.jobs.remove(at);
        match job.unit.info() {
            Ok(info) => println!("{}: {}", job.name, shell::end_text(&info)),
            Err(error) => println!("{}: ended ({error})", job.name),
        }
        if job.awaited {
            self.prompt();
        }
    }

    /// A token for a new job.
    pub(crate) fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    fn console(&self) -> Option<&Console> {
        self.givens.console.as_ref()
    }

    fn show(&self, bytes: &[u8]) {
        if let Some(console) = self.console() {
            let _shown = console.write_all(bytes);
        }
    }

    fn prompt(&self) {
        if self.config.shell && !self.jobs.iter().any(|job| job.awaited) {
            holm_rt::print!("holm> ");
        }
    }

    /// Tells what the supervisor did, and remembers when the machine is to be switched off.
    fn tell(&mut self, notes: &[Note], running: &[bool]) {
        let name = |index: usize| self.config.units.get(index).map_or("?", |unit| unit.name.as_str());
        for note in notes {
            match *note {
                Note::Started(index) => println!("init: {} started", name(index)),
                Note::Stopped(index) => println!("init: {} stopped", name(index)),
                Note::NotStarted(index, error) => println!("init: {} not started: {error}", name(index)),
                Note::Ended(index, reason, code) => {
                    println!("init: {} ended: {} with code {code}", name(index), reason.name());
                }
                Note::GaveUp => println!("init: too many restarts; the units stay stopped"),
            }
            let (index, code) = match *note {
                Note::Ended(index, _, code) => (index, code),
                Note::NotStarted(index, error) => (index, i64::from(error.code())),
                _ => continue,
            };
            let for_good = !running.get(index).copied().unwrap_or(false);
            if for_good && self.config.units.get(index).is_some_and(|unit| unit.then_power_off) {
                self.power_off = Some(u8::try_from(code).unwrap_or(127).min(127));
            }
        }
    }

    pub(crate) fn switch_off(&self, code: u8) {
        println!("init: switching off");
        let refused = self.givens.system.as_ref().map(|system| system.power(PowerAction::Off, code));
        if let Some(Err(error)) = refused {
            println!("init: cannot switch off: {error}");
        }
    }
}

/// Which of so many supervised units run.
fn running<S: FnMut(usize) -> Result<Unit, Error>>(supervisor: &Supervisor<S>, units: usize) -> Vec<bool> {
    (0..units).map(|index| supervisor.unit(index).is_some()).collect()
}
