//! The kernel's knobs (seed 17.1, 17.2), and the checks of its invariants that they switch on.
//!
//! What a profile leaves out is not in the binary: [`AVAILABLE`] is a constant. What is in can be tuned at run time.

use holm_abi::{ConfigFlags, Error, KernelConfig, Profile};

use crate::caller::{Answer, Caller, Out, Outcome};
use crate::cap::Cap;
use crate::guard::Knobs;
use crate::kernel::Kernel;
use crate::machine::{CpuId, Machine, Nanos};
use crate::sched::edf::WHOLE;

/// The profile that the kernel was built with.
pub const PROFILE: Profile = if cfg!(feature = "profile-dev") {
    Profile::Dev
} else if cfg!(feature = "profile-hardened") {
    Profile::Hardened
} else {
    Profile::Standard
};

/// What the profile has compiled in.
pub const AVAILABLE: ConfigFlags = {
    let always = ConfigFlags::TRACE.or(ConfigFlags::TRACE_SYSCALLS).or(ConfigFlags::LOG_VERBOSE);
    match PROFILE {
        // Tests on the host see everything act.
        Profile::Standard if !cfg!(test) => always,
        _ => ConfigFlags::ALL,
    }
};

/// The knobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Check invariants.
    pub invariants: bool,
    /// Once in so many timer entries.
    pub invariant_interval: u32,
    /// Check payloads of messages.
    pub payload_crc: bool,
    /// Once in so many messages.
    pub crc_interval: u32,
    /// Record the trace when someone reads it.
    pub trace: bool,
    /// System calls too.
    pub trace_syscalls: bool,
    /// Log what is refused.
    pub log_verbose: bool,
    /// A turn in `BEST_EFFORT` at weight 100, and in `BACKGROUND`.
    pub turn: Nanos,
    /// What of a processor may be admitted to `RT_EDF`, of [`WHOLE`].
    pub edf_cap: u64,
    edf_limit: u32,
    /// Of the guards.
    pub(crate) guards: Knobs,
    /// Counts changes.
    pub version: u64,
    until_check: u32,
}

impl Default for Config {
    fn default() -> Self {
        let strict = !matches!(PROFILE, Profile::Standard);
        Self {
            invariants: strict,
            invariant_interval: 64,
            payload_crc: strict,
            crc_interval: 16,
            trace: true,
            trace_syscalls: matches!(PROFILE, Profile::Dev),
            log_verbose: false,
            turn: Nanos(4_000_000),
            edf_cap: WHOLE / 1000 * 950,
            edf_limit: 950,
            guards: Knobs::new(matches!(PROFILE, Profile::Hardened)),
            version: 0,
            until_check: 64,
        }
    }
}

impl<M: Machine> Kernel<M> {
    /// How often the configuration was changed.
    pub(crate) fn sys_get_config_version(&mut self, _caller: Caller) -> Answer {
        Ok(Outcome::Done(self.config.version))
    }

    /// Gives the knobs.
    pub(crate) fn kernel_config_get(&mut self, caller: Caller, _system: Cap, to: Out<KernelConfig>) -> Answer {
        let config = &self.config;
        let set = [
            (config.invariants, ConfigFlags::INVARIANTS),
            (config.payload_crc, ConfigFlags::PAYLOAD_CRC),
            (config.trace, ConfigFlags::TRACE),
            (config.trace_syscalls, ConfigFlags::TRACE_SYSCALLS),
            (config.log_verbose, ConfigFlags::LOG_VERBOSE),
            (config.guards.scrubber, ConfigFlags::SCRUBBER),
            (config.guards.watchdog, ConfigFlags::WATCHDOG),
            (config.guards.text_check, ConfigFlags::TEXT_CHECK),
        ];
        let told = KernelConfig {
            flags: set.iter().fold(ConfigFlags::NONE, |all, (on, flag)| if *on { all.or(*flag) } else { all }),
            available: AVAILABLE,
            invariant_interval: config.invariant_interval,
            crc_interval: config.crc_interval,
            scrub_pages: config.guards.scrub_pages,
            watchdog_ms: config.guards.watchdog_ms,
            text_check_seconds: config.guards.text_check_seconds,
            slice_us: (config.turn.0 / 1000) as u32,
            edf_limit: config.edf_limit,
            profile: PROFILE,
            config_version: config.version,
            ..KernelConfig::new()
        };
        self.write_out(caller, &to, |bytes| told.encode(bytes))?;
        Ok(Outcome::OK)
    }

    /// Sets the knobs, all or none.
    pub(crate) fn kernel_config_set(&mut self, _caller: Caller, _system: Cap, new: KernelConfig) -> Answer {
        if !AVAILABLE.contains(new.flags) {
            return Err(Error::NotSupported);
        }
        if new.invariant_interval == 0
            || new.crc_interval == 0
            || !(100..=1_000_000).contains(&new.slice_us)
            || new.edf_limit > 1000
        {
            return Err(Error::Invalid);
        }
        let guards = Knobs::of(&new)?;
        let cap = WHOLE / 1000 * u64::from(new.edf_limit);
        if self.sched.cpus.iter().any(|cpu| cpu.admitted > cap) {
            return Err(Error::Busy);
        }
        self.config = Config {
            invariants: new.flags.contains(ConfigFlags::INVARIANTS),
            invariant_interval: new.invariant_interval,
            payload_crc: new.flags.contains(ConfigFlags::PAYLOAD_CRC),
            crc_interval: new.crc_interval,
            trace: new.flags.contains(ConfigFlags::TRACE),
            trace_syscalls: new.flags.contains(ConfigFlags::TRACE_SYSCALLS),
            log_verbose: new.flags.contains(ConfigFlags::LOG_VERBOSE),
            turn: Nanos(u64::from(new.slice_us) * 1000),
            edf_cap: cap,
            edf_limit: new.edf_limit,
            guards,
            version: self.config.version + 1,
            until_check: new.invariant_interval,
        };
        self.sched.edf_cap = cap;
        self.trace_renew();
        self.guards_renew();
        Ok(Outcome::OK)
    }

    /// Now and then checks that the structures of `cpu` agree with each other; a difference is logged, and counted.
    #[inline]
    pub(crate) fn sampled_check(&mut self, cpu: CpuId) {
        if !AVAILABLE.contains(ConfigFlags::INVARIANTS) || !self.config.invariants {
            return;
        }
        self.config.until_check = self.config.until_check.saturating_sub(1);
        if self.config.until_check == 0 {
            self.config.until_check = self.config.invariant_interval;
            self.trace.counts.invariant_checks += 1;
            if let Some(what) = self.broken_invariant(cpu) {
                self.log(format_args!("invariant broken on processor {}: {what}", cpu.0));
            }
        }
    }
}
