//! The QEMU driver against real QEMU processes, with guests of a few bytes under TCG.
#![allow(clippy::unwrap_used, reason = "test code, also outside of test functions")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holm_vmm::{
    Acceleration, DiskSpec, ExitReason, HostForward, MacAddress, NetSpec, QemuConfig, QemuVmm, RunAs, Vm, VmError,
    VmName, VmRecord, VmSpec, VmStatus, Vmm, tiny_guest,
};

const SOON: Duration = Duration::from_secs(60);

/// A host tag that no other test run on this machine has.
fn tag(test: &str) -> String {
    format!("test-{}-{test}", std::process::id())
}

fn driver() -> QemuVmm {
    let mut config = QemuConfig::new(Acceleration::tcg("test"));
    config.ready_deadline = SOON;
    config.run_as_uids = vec![NOBODY.uid];
    QemuVmm::new(config)
}

const NOBODY: RunAs = RunAs { uid: 65534, gid: 65534 };

fn spec(dir: &Path, test: &str) -> VmSpec {
    let kernel = dir.join("guest");
    std::fs::write(&kernel, tiny_guest::halted_guest()).unwrap();
    let mut spec = VmSpec::new(VmName::new(&tag(test), "web-1").unwrap(), kernel, dir.join("run"));
    spec.memory_mib = 16;
    spec
}

/// Kills the VM when a test fails half-way.
struct Launched(Arc<dyn Vm>);

impl Drop for Launched {
    fn drop(&mut self) {
        let pid = self.0.record().process.pid;
        if self.0.exited().is_none() {
            let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    }
}

async fn launch(spec: &VmSpec) -> Launched {
    Launched(driver().launch(spec).await.unwrap())
}

fn alive(record: &VmRecord) -> bool {
    holm_process::lives(record.process.pid).unwrap()
}

#[tokio::test]
async fn a_vm_runs_pauses_and_resumes_until_it_is_told_to_quit() {
    let dir = tempfile::tempdir().unwrap();
    let vm = launch(&spec(dir.path(), "run")).await;
    assert_eq!(vm.0.status().await, VmStatus::Running);
    vm.0.pause().await.unwrap();
    assert_eq!(vm.0.status().await, VmStatus::Paused);
    vm.0.resume().await.unwrap();
    assert_eq!(vm.0.status().await, VmStatus::Running);
    vm.0.connect_control().await.unwrap();
    assert_eq!(vm.0.console().await.unwrap(), "");
    let exit = vm.0.quit(SOON).await.unwrap();
    assert_eq!(exit.reason, ExitReason::Quit);
    assert_eq!(vm.0.status().await, VmStatus::Gone);
    assert!(!alive(vm.0.record()));
    assert_eq!(vm.0.wait_exit().await, exit);
    assert!(dir.path().join("run").join(VmSpec::CONSOLE_LOG).exists());
}

#[tokio::test]
async fn a_vm_survives_its_handle_and_is_adopted_by_its_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(dir.path(), "adopt");
    spec.start_paused = true;
    let vm = driver().launch(&spec).await.unwrap();
    let record = vm.record().clone();
    drop(vm);
    assert!(alive(&record));

    let text = serde_json::to_string(&record).unwrap();
    let record: VmRecord = serde_json::from_str(&text).unwrap();
    let later = VmRecord {
        process: holm_vmm::ProcessIdentity { start_time: record.process.start_time + 1, ..record.process },
        ..record.clone()
    };
    assert!(driver().adopt(&later).await.unwrap().is_none(), "a process started at another time is another process");
    let other = VmRecord { name: VmName::new(&tag("adopt"), "web-2").unwrap(), ..record.clone() };
    assert!(driver().adopt(&other).await.unwrap().is_none(), "a process with another marker is another VM");

    let vm = Launched(driver().adopt(&record).await.unwrap().unwrap());
    assert_eq!(vm.0.status().await, VmStatus::Paused);
    vm.0.resume().await.unwrap();
    assert_eq!(vm.0.kill().await.unwrap().reason, ExitReason::Signal(9));
    assert!(driver().adopt(&record).await.unwrap().is_none(), "an ended VM cannot be adopted");
}

#[tokio::test]
async fn leftovers_are_found_by_host_tag_and_can_be_adopted() {
    let dir = tempfile::tempdir().unwrap();
    let vm = launch(&spec(dir.path(), "left")).await;
    assert_eq!(driver().find_leftovers(&tag("left")).unwrap(), vec![vm.0.record().clone()]);
    assert_eq!(driver().find_leftovers(&tag("lef")).unwrap(), vec![]);
    vm.0.kill().await.unwrap();
    assert_eq!(driver().find_leftovers(&tag("left")).unwrap(), vec![]);
}

#[tokio::test]
async fn the_death_of_a_vm_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let vm = launch(&spec(dir.path(), "dies")).await;
    let pid = vm.0.record().process.pid.to_string();
    std::process::Command::new("kill").args(["-KILL", &pid]).status().unwrap();
    assert_eq!(vm.0.wait_exit().await.reason, ExitReason::Signal(9));
}

#[tokio::test]
async fn a_qemu_that_cannot_start_is_reported_with_its_own_words_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(dir.path(), "broken");
    std::fs::write(&spec.kernel, b"not a kernel").unwrap();
    let error = driver().launch(&spec).await.unwrap_err();
    assert!(matches!(error, VmError::NotReady { .. }), "{error}");
    assert!(error.to_string().contains("kernel"), "{error}");
    assert_eq!(driver().find_leftovers(&tag("broken")).unwrap(), vec![]);

    spec.kernel = dir.path().join("missing");
    let error = driver().launch(&spec).await.unwrap_err();
    assert!(matches!(error, VmError::Prepare { what: "kernel", .. }), "{error}");
}

#[tokio::test]
async fn disks_forwards_and_deep_run_folders_are_accepted_by_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(dir.path(), "devices");
    for _ in 0..10 {
        spec.run_dir.push("a-folder-with-a-long-name");
    }
    let disk = dir.path().join("disk");
    std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
    spec.disks = (0..VmSpec::MAX_DISKS)
        .map(|index| DiskSpec { path: disk.clone(), read_only: true, serial: format!("disk-{index}") })
        .collect();
    let scratch = dir.path().join("scratch");
    std::fs::write(&scratch, vec![0; 1 << 20]).unwrap();
    spec.disks[0] = DiskSpec { path: scratch, read_only: false, serial: "scratch".into() };
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, port);
    let forwards = vec![HostForward { listen, guest_port: 80 }];
    spec.net = NetSpec::User { forwards, mac: MacAddress::local([0, 0, 0, 0, 1]) };
    let vm = launch(&spec).await;
    assert_eq!(vm.0.status().await, VmStatus::Running);
    std::net::TcpStream::connect(listen).unwrap();
    vm.0.kill().await.unwrap();
}

#[tokio::test]
async fn root_runs_a_vm_as_another_user_in_a_folder_closed_to_it() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(dir.path(), "runas");
    spec.run_as = Some(NOBODY);
    spec.nice = 5;
    let vm = launch(&spec).await;
    let pid = vm.0.record().process.pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for expected in [
        "Uid:\t65534\t65534\t65534\t65534",
        "Gid:\t65534\t65534\t65534\t65534",
        "CapEff:\t0000000000000000",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(expected), "{expected} is missing in {status}");
    }
    assert_eq!(driver().find_leftovers(&tag("runas")).unwrap(), vec![vm.0.record().clone()]);
    vm.0.quit(SOON).await.unwrap();
}

#[tokio::test]
async fn qemu_inherits_no_descriptor_and_leads_its_own_session() {
    let dir = tempfile::tempdir().unwrap();
    let secret = std::fs::File::create(dir.path().join("secret")).unwrap();
    rustix::io::fcntl_setfd(&secret, rustix::io::FdFlags::empty()).unwrap();
    let vm = launch(&spec(dir.path(), "fds")).await;
    let pid = vm.0.record().process.pid;
    let open: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .collect();
    assert!(!open.iter().any(|path| path.ends_with("secret")), "{open:?}");
    assert!(std::fs::read(format!("/proc/{pid}/environ")).unwrap().is_empty());
    let leader = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap());
    assert_eq!(rustix::process::getsid(leader).unwrap(), leader.unwrap());
    vm.0.kill().await.unwrap();
}
