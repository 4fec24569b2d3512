//! The real world: images from the store, QEMU microVMs, taps or QEMU's user network, guests over their control port.

mod guest;
mod machine;
mod network;
mod volume;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use holm_guest_control::host::ConnectOptions;
use holm_image::{ImageRef, ImageStore, Phase};
use holm_model::footprint::machine_mib;
use holm_model::id::{AppKey, InstanceName, SecretSetId};
use holm_model::target::{HostTarget, InstanceSpec};
use holm_model::volume::{VolumeNumber, VolumeTarget};
use holm_secrets::{Secrets, Vault};
use holm_vmm::{CpuShares, DiskSpec, GuestStore, RunAs, VmName, VmRecord, VmSpec, Vmm};
use holm_volume::VolumeStore;
use jiff::Timestamp;

use crate::world::{Attachment, Failure, Image, LaunchOrder, Machine, MachineRecord, Progress, World};
pub use network::NetworkMode;

/// What the guests of this host boot from and run on.
pub(crate) struct Host {
    pub(crate) tag: String,
    pub(crate) images: ImageStore,
    pub(crate) guests: GuestStore,
    pub(crate) volumes: VolumeStore,
    pub(crate) secrets: Arc<Vault>,
    /// What every guest kernel is told.
    pub(crate) cmdline: String,
    pub(crate) vmm: Arc<dyn Vmm>,
    pub(crate) shares: CpuShares,
    pub(crate) network: NetworkMode,
    /// Name servers for guests with a routed network, as text.
    pub(crate) dns: Vec<String>,
    /// The host's processors: no guest gets more.
    pub(crate) processors: u32,
    pub(crate) run_as: Option<RunAs>,
    pub(crate) connect: ConnectOptions,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("tag", &self.tag).field("network", &self.network).finish_non_exhaustive()
    }
}

/// The name of an instance where a short one is needed: its own, or its number alone when that is too long.
pub(crate) fn short_name(instance: &InstanceName) -> String {
    let whole = instance.to_string();
    if whole.len() <= 64 { whole } else { format!("i.{}", instance.number) }
}

impl Host {
    fn vm_name(&self, instance: &InstanceName) -> Result<VmName, Failure> {
        VmName::new(&self.tag, &short_name(instance)).map_err(|error| Failure::of(&error))
    }

    fn machine(&self, vm: Arc<dyn holm_vmm::Vm>) -> Arc<dyn Machine> {
        Arc::new(machine::QemuMachine::new(vm, self.connect.clone()))
    }

    /// Ends the microVMs that carry this host's tag and are `doomed`; says which.
    async fn end_machines(&self, doomed: impl Fn(&VmRecord) -> bool + Send) -> Result<Vec<String>, Failure> {
        let found = self.vmm.find_leftovers(&self.tag).map_err(|error| Failure::of(&error))?;
        let mut ended = Vec::new();
        for record in found.into_iter().filter(|record| doomed(record)) {
            if let Some(vm) = self.vmm.adopt(&record).await.map_err(|error| Failure::of(&error))? {
                vm.kill().await.map_err(|error| Failure::of(&error))?;
            }
            ended.push(record.name.instance().to_owned());
        }
        Ok(ended)
    }

    async fn prepare(&self, spec: &InstanceSpec, progress: Progress) -> Result<Image, Failure> {
        let digest = spec.image.as_str().parse().map_err(|error| Failure::of(&error))?;
        let reference: ImageRef = spec.image_reference.parse().map_err(|error| Failure::of(&error))?;
        let resolved = self.images.resolve(&reference.pinned(digest)).await.map_err(|error| Failure::of(&error))?;
        let prepared = self.images.prepare(&resolved, |at| progress(describe(at))).await;
        let prepared = prepared.map_err(|error| Failure::of(error.as_ref()))?;
        let config = prepared.config;
        let split = |pair: &String| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        Ok(Image {
            root: prepared.erofs,
            entrypoint: config.entrypoint,
            cmd: config.cmd,
            env: config.env.iter().filter_map(split).collect(),
            user: config.user,
            working_dir: config.working_dir,
            stop_signal: config.stop_signal,
        })
    }

    async fn start(&self, order: LaunchOrder<'_>) -> Result<Arc<dyn Machine>, Failure> {
        let name = self.vm_name(&order.spec.instance)?;
        let guest = self.guests.default_bundle().map_err(|error| Failure::of(&error))?;
        let guest =
            guest.ok_or_else(|| Failure("there is no guest kernel; `holm guest import` gets one".to_owned()))?;
        let mut vm = VmSpec::new(name, guest.kernel, order.run_dir.to_owned());
        vm.initrd = Some(guest.initrd);
        vm.cmdline.clone_from(&self.cmdline);
        vm.vcpus = order.spec.cpu_millis.div_ceil(1000).clamp(1, self.processors);
        let mib = machine_mib(order.spec.memory.mib());
        vm.memory_mib = u32::try_from(mib).map_err(|_| Failure(format!("{mib} MiB of memory is too much")))?;
        let serial = holm_guest_control::ROOT_SERIAL.to_owned();
        vm.disks = vec![DiskSpec { path: order.image.root.clone(), read_only: true, serial }];
        vm.disks.extend(self.volume_disks(order.spec, order.volumes).await?);
        vm.net = network::device(&order.spec.instance, order.network)?;
        vm.run_as = self.run_as;
        let started = self.vmm.launch(&vm).await.map_err(|error| Failure::of(&error))?;
        let pid = started.record().process.pid;
        if let Err(error) = self.shares.place(&short_name(&order.spec.instance), pid, order.spec.cpu_millis) {
            tracing::warn!(instance = %order.spec.instance, %error, "cannot give the microVM its share of the processors");
        }
        Ok(self.machine(started))
    }
}

impl World for Host {
    fn open_secrets<'a>(&'a self, app: &'a AppKey, set: &'a SecretSetId) -> BoxFuture<'a, Result<Secrets, Failure>> {
        let (vault, app, set) = (Arc::clone(&self.secrets), app.clone(), set.clone());
        async move {
            let opened = tokio::task::spawn_blocking(move || vault.unseal(&app, &set)).await;
            opened.map_err(|error| Failure::of(&error))?.map_err(|error| Failure::of(&error))
        }
        .boxed()
    }

    fn free_disk(&self) -> u64 {
        self.volumes.free().unwrap_or(0)
    }

    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn prepare_image<'a>(
        &'a self,
        spec: &'a InstanceSpec,
        progress: Progress,
    ) -> BoxFuture<'a, Result<Image, Failure>> {
        self.prepare(spec, progress).boxed()
    }

    fn attach_network<'a>(
        &'a self,
        instance: &'a InstanceName,
        ports: &'a BTreeSet<u16>,
    ) -> BoxFuture<'a, Result<Attachment, Failure>> {
        self.network.attach(instance, ports, &self.dns).boxed()
    }

    fn detach_network<'a>(&'a self, instance: &'a InstanceName) -> BoxFuture<'a, Result<(), Failure>> {
        self.network.detach(instance).boxed()
    }

    fn launch<'a>(&'a self, order: LaunchOrder<'a>) -> BoxFuture<'a, Result<Arc<dyn Machine>, Failure>> {
        self.start(order).boxed()
    }

    fn adopt<'a>(
        &'a self,
        instance: &'a InstanceName,
        record: &'a MachineRecord,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn Machine>>, Failure>> {
        async move {
            let record = machine::vm_record(self.vm_name(instance)?, record);
            let vm = self.vmm.adopt(&record).await.map_err(|error| Failure::of(&error))?;
            Ok(vm.map(|vm| self.machine(vm)))
        }
        .boxed()
    }

    fn remove_machines<'a>(&'a self, instance: &'a InstanceName) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            let name = self.vm_name(instance)?;
            self.end_machines(|record| record.name == name).await?;
            if let Err(error) = self.shares.remove(&short_name(instance)) {
                tracing::warn!(%instance, %error, "cannot remove the instance's share of the processors");
            }
            Ok(())
        }
        .boxed()
    }

    fn sweep<'a>(&'a self, known: &'a BTreeSet<InstanceName>) -> BoxFuture<'a, Result<Vec<String>, Failure>> {
        async move {
            let names: BTreeSet<String> = known.iter().map(short_name).collect();
            let machines = self.end_machines(|record| !names.contains(record.name.instance())).await?;
            let networks = self.network.sync(names).await?;
            if let Err(error) = self.shares.sweep() {
                tracing::warn!(%error, "cannot remove the unused shares of the processors");
            }
            let machines = machines.into_iter().map(|name| format!("the microVM of `{name}`"));
            Ok(machines.chain(networks.into_iter().map(|name| format!("the network of `{name}`"))).collect())
        }
        .boxed()
    }

    fn grow_volume<'a>(
        &'a self,
        number: VolumeNumber,
        target: &'a VolumeTarget,
    ) -> BoxFuture<'a, Result<u64, Failure>> {
        let size = target.size;
        volume::blocking(&self.volumes, move |store| store.grow(number, size)).boxed()
    }

    fn sweep_volumes<'a>(&'a self, target: &'a HostTarget) -> BoxFuture<'a, Result<(), Failure>> {
        self.remove_deleted_volumes(target).boxed()
    }

    fn leave(&self) -> BoxFuture<'_, Result<(), Failure>> {
        async move {
            if let Err(error) = self.shares.sweep() {
                tracing::warn!(%error, "cannot remove the unused shares of the processors");
            }
            self.network.leave().await
        }
        .boxed()
    }
}

/// What is being done to an image, for people.
fn describe(at: holm_image::Progress) -> String {
    let (done, total) = (at.done >> 20, at.total.div_ceil(1 << 20));
    match at.phase {
        Phase::Resolving => "looking up the image".to_owned(),
        Phase::Pulling => format!("pulling {done} of {total} MiB"),
        Phase::Building => format!("unpacking {done} of {total} MiB"),
    }
}
