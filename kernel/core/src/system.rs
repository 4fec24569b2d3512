//! The system as a whole: what it is made of, its units, its figures, its end (seed 10.2, 11).

use holm_abi::{Error, Metrics, PowerAction, Topology, UnitFilter, UnitFilterFlags, UnitListEntry, UnitState, limits};

use crate::caller::{Answer, Caller, Out, Outcome};
use crate::cap::Cap;
use crate::config::PROFILE;
use crate::dispatch::Records;
use crate::kernel::Kernel;
use crate::machine::{Halt, Machine, PAGE_SIZE};
use crate::object::Object;

/// Units that one step of a list looks at.
const STEP: u32 = 64;
/// Name and version of the kernel.
const NAME: &str = concat!("Holm ", env!("CARGO_PKG_VERSION"));

impl<M: Machine> Kernel<M> {
    /// Tells about the machine.
    pub(crate) fn sys_get_topology(&mut self, caller: Caller, to: Out<Topology>) -> Answer {
        let mut kernel = [0; 32];
        for (to, from) in kernel.iter_mut().zip(NAME.bytes()) {
            *to = from;
        }
        let page = PAGE_SIZE as u64;
        let (total, free) = (self.frames.total() * page, self.frames.free() * page);
        let told = Topology {
            cpus: self.sched.cpus.len() as u32,
            numa_nodes: 1,
            memory_bytes: total,
            free_bytes: free,
            tsc_hz: self.tsc_hz(),
            page_bytes: PAGE_SIZE as u32,
            profile: PROFILE,
            devices: 1,
            current_cpu: caller.cpu.0,
            abi_version: holm_abi::CALLS.last().map_or(0, |call| call.number as u32),
            kernel,
            ..Topology::new()
        };
        self.write_out(caller, &to, |bytes| told.encode(bytes))?;
        Ok(Outcome::OK)
    }

    /// Ticks of the time stamp counter in a second; 0 when programs cannot count on it.
    fn tsc_hz(&self) -> u64 {
        match self.machine.clock_scale() {
            Some(scale) if scale.multiplier > 0 => {
                u64::try_from((1_000_000_000u128 << scale.shift) / u128::from(scale.multiplier)).unwrap_or(0)
            }
            _ => 0,
        }
    }

    /// Lists units by ascending id. An id orders by generation first, so that finding the next one looks at every place: that
    /// is done in steps, each of which finds at most one unit.
    pub(crate) fn sys_list_units(
        &mut self,
        caller: Caller,
        _system: Cap,
        filter: UnitFilter,
        to: Records<UnitListEntry>,
    ) -> Answer {
        let wanted = to.count.min(limits::MAX_RECORDS);
        let mut given = 0;
        let mut after = filter.after;
        let mut looked = 0;
        while given < wanted {
            // The unit with the lowest id above `after`.
            let mut found: Option<u64> = None;
            for (id, _) in self.units.iter() {
                looked += 1;
                let number = id.number();
                if number > after && found.is_none_or(|found| number < found) {
                    found = Some(number);
                }
            }
            let Some(number) = found else { break };
            after = number;
            if self.unit_passes(number, &filter) {
                let mut bytes = [0; UnitListEntry::SIZE];
                self.unit_entry(number).encode(&mut bytes);
                self.copy_out(caller.unit, to.at(given), &bytes)?;
                given += 1;
            }
            if given > 0 && looked >= STEP {
                break;
            }
        }
        Ok(Outcome::Done(given))
    }

    fn unit_passes(&self, number: u64, filter: &UnitFilter) -> bool {
        let id = crate::arena::Id::from_number(number);
        let Some(unit) = self.units.get(id) else { return false };
        let ended = matches!(unit.state, UnitState::Stopped | UnitState::Zombie | UnitState::Failed);
        let running = unit.state == UnitState::Running;
        let by_state = filter.flags.is_none()
            || (filter.flags.contains(UnitFilterFlags::RUNNING) && running)
            || (filter.flags.contains(UnitFilterFlags::ENDED) && ended);
        let by_parent = filter.parent == 0 || unit.parent.is_some_and(|parent| parent.number() == filter.parent);
        let no_key = filter.label_key.iter().all(|byte| *byte == 0);
        let any_value = filter.label_value.iter().all(|byte| *byte == 0);
        let labels = unit.face.labels.iter().take(unit.face.label_count as usize);
        let by_label = no_key
            || labels
                .clone()
                .any(|label| label.key == filter.label_key && (any_value || label.value == filter.label_value));
        by_state && by_parent && by_label
    }

    fn unit_entry(&self, number: u64) -> UnitListEntry {
        let id = crate::arena::Id::from_number(number);
        let Some(unit) = self.units.get(id) else { return UnitListEntry::new() };
        UnitListEntry {
            id: number,
            parent: unit.parent.map_or(0, crate::arena::Id::number),
            state: unit.state,
            exit_reason: unit.end.reason,
            threads: unit.threads.len(),
            sched_class: unit.class,
            cpu_time: unit.sched.stats.run,
            memory_bytes: unit.quotas.frames.used * PAGE_SIZE as u64,
            kernel_bytes: unit.quotas.kernel.used,
            exit_code: unit.end.code,
            name: unit.face.name,
        }
    }

    /// Gives the figures of a unit, or of the whole system.
    pub(crate) fn metrics_get(&mut self, caller: Caller, object: Cap, to: Out<Metrics>) -> Answer {
        let now = self.clock();
        let told = match object.object {
            Object::Unit(id) => {
                self.charge_running(id);
                let stats = self.unit_stats(id);
                let unit = self.units.get(id).ok_or(Error::BadState)?;
                Metrics {
                    uptime: if unit.started.0 == 0 { 0 } else { now.since(unit.started).0 },
                    cpu_time: stats.run,
                    syscalls: unit.sched.syscalls,
                    context_switches: stats.switches,
                    memory_bytes: unit.quotas.frames.used * PAGE_SIZE as u64,
                    kernel_bytes: unit.quotas.kernel.used,
                    handles: unit.quotas.handles.used,
                    threads: u64::from(unit.threads.len()),
                    ..Metrics::new()
                }
            }
            Object::System => self.system_metrics(now),
            _ => return Err(Error::WrongType),
        };
        self.write_out(caller, &to, |bytes| told.encode(bytes))?;
        Ok(Outcome::OK)
    }

    fn system_metrics(&self, now: crate::machine::Nanos) -> Metrics {
        let counts = &self.trace.counts;
        let cpus = &self.sched.cpus;
        let idle: u64 = (0..cpus.len() as u32).map(|cpu| self.idle_time(crate::machine::CpuId(cpu), now)).sum();
        let root = self.units.next_from(0).map(|(_, unit)| unit.quotas);
        let objects = [
            self.units.len(),
            self.threads.len(),
            self.regions.len(),
            self.channels.len(),
            self.timers.all.len(),
            self.events.queues.len(),
            self.trace.readers.len(),
        ];
        let longest = self.machine.longest_entry();
        Metrics {
            uptime: now.0,
            cpu_time: (now.0 * cpus.len() as u64).saturating_sub(idle),
            idle_time: idle,
            syscalls: cpus.iter().map(|cpu| cpu.syscalls).sum(),
            page_faults: counts.page_faults,
            context_switches: cpus.iter().map(|cpu| cpu.switches).sum(),
            messages_sent: counts.messages_sent,
            messages_received: counts.messages_received,
            messages_dropped: counts.messages_dropped,
            calls: counts.calls,
            revocations: counts.revocations,
            timer_expirations: counts.timer_expirations,
            events: counts.events,
            memory_bytes: root.map_or(0, |quotas| quotas.frames.used * PAGE_SIZE as u64),
            kernel_bytes: root.map_or(0, |quotas| quotas.kernel.used),
            handles: root.map_or(0, |quotas| quotas.handles.used),
            threads: root.map_or(0, |quotas| quotas.threads.used),
            units: u64::from(self.units.len()),
            objects: objects.iter().map(|count| u64::from(*count)).sum(),
            sweep_backlog: self.work_backlog(),
            interrupts: cpus.iter().map(|cpu| cpu.timer_entries + cpu.kick_entries).sum(),
            max_kernel_ticks: longest.ticks,
            max_kernel_entry: longest.entry,
            invariant_checks: counts.invariant_checks,
            payload_checks: counts.payload_checks,
            findings: self.guards.findings,
            scrubbed_pages: self.guards.scrubbed,
            text_checks: self.guards.text_checks,
            ..Metrics::new()
        }
    }

    /// Ends the machine.
    pub(crate) fn system_power(&mut self, _caller: Caller, _system: Cap, action: PowerAction, status: u64) -> Answer {
        if status > 127 {
            return Err(Error::Invalid);
        }
        let how = match action {
            PowerAction::Off => Halt::PowerOff(status as u8),
            PowerAction::Reboot => Halt::Reboot,
        };
        self.halt = Some(how);
        self.machine.halt(how);
        for cpu in 0..self.sched.cpus.len() as u32 {
            self.attend(crate::machine::CpuId(cpu), crate::sched::attention::CHOOSE);
        }
        Ok(Outcome::Ended)
    }
}
