//! Making the units that `init.conf` and the shell ask for.

use holm_init::config::{Cap, UnitConfig};
use holm_rt::abi::{CapTransfer, ObjectType, Rights};
use holm_rt::{Archive, Console, Error, Object, System, Unit, UnitBuilder};

/// The capabilities the root unit has from the kernel.
pub(crate) struct Givens {
    pub(crate) console: Option<Console>,
    pub(crate) archive: Option<Archive>,
    pub(crate) system: Option<System>,
}

impl Givens {
    /// Takes them over.
    pub(crate) fn take() -> Self {
        Self {
            console: holm_rt::startup::take(ObjectType::Console),
            archive: holm_rt::startup::take(ObjectType::Archive),
            system: holm_rt::startup::take(ObjectType::System),
        }
    }

    fn clone_of(&self, cap: Cap) -> Result<CapTransfer, Error> {
        fn cloned<T: Object>(object: Option<&T>) -> Result<CapTransfer, Error> {
            let object = object.ok_or(Error::NotFound)?;
            Ok(object.cloned(object.capability()?.rights))
        }
        match cap {
            Cap::Console => cloned(self.console.as_ref()),
            Cap::Archive => cloned(self.archive.as_ref()),
            Cap::System => cloned(self.system.as_ref()),
        }
    }

    /// Makes and starts a unit.
    pub(crate) fn start(&self, config: &UnitConfig) -> Result<Unit, Error> {
        let archive = self.archive.as_ref().ok_or(Error::NotFound)?;
        let image = archive.open(&config.program)?;
        let arguments = core::iter::once(config.program.as_str()).chain(config.arguments.iter().map(|a| a.as_str()));
        let (class, rank) = config.class;
        let mut unit = UnitBuilder::new(&image, &config.name)
            .arguments(arguments)
            .class(class, rank, config.ceiling)
            .memory(config.memory, config.kernel_memory)
            .counts(config.threads, config.handles)
            .stack(config.stack);
        for line in &config.environment {
            unit = unit.environment(line);
        }
        for (key, value) in &config.labels {
            unit = unit.label(key, value);
        }
        for cap in &config.caps {
            unit = unit.cap(cap.name(), self.clone_of(*cap)?);
        }
        unit.start()
    }
}

/// Rights in a few letters.
pub(crate) fn rights_text(rights: Rights) -> alloc::string::String {
    let names = Rights::INFO.values.iter().filter(|value| rights.bits() & value.value != 0).map(|value| value.name);
    names.collect::<alloc::vec::Vec<_>>().join(" ")
}
