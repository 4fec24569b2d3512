//! A real Debian kernel from a real package, imported and booted with the driver under TCG.
#![allow(clippy::unwrap_used, reason = "test code, also outside of test functions")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use holm_vmm::guest::base_cmdline;
use holm_vmm::{AccelKind, Acceleration, ExitReason, GuestStore, QemuConfig, QemuVmm, VmName, VmSpec, Vmm};

/// A PID 1 of 40 bytes of code: writes a line to the console and powers off through `reboot(2)`.
fn init() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const CODE_AT: u64 = 120;
    let text = b"holm test guest\n";
    let mut code = Vec::new();
    let text_at = u32::try_from(BASE + CODE_AT + 58).unwrap();
    let mut set = |opcode: u8, value: u32| {
        code.push(opcode);
        code.extend_from_slice(&value.to_le_bytes());
    };
    set(0xb8, 1); // mov eax, write
    set(0xbf, 1); // mov edi, 1
    set(0xbe, text_at); // mov esi, text
    set(0xba, u32::try_from(text.len()).unwrap()); // mov edx, length
    code.extend_from_slice(&[0x0f, 0x05]); // syscall
    let mut set = |opcode: u8, value: u32| {
        code.push(opcode);
        code.extend_from_slice(&value.to_le_bytes());
    };
    set(0xb8, 169); // mov eax, reboot
    set(0xbf, 0xfee1_dead); // mov edi, first magic
    set(0xbe, 672_274_793); // mov esi, second magic
    set(0xba, 0x4321_fedc); // mov edx, power off
    code.extend_from_slice(&[0x0f, 0x05]); // syscall
    code.resize(58, 0x90);
    code.extend_from_slice(text);

    let mut elf = vec![0; 64];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    elf[16] = 2; // an executable
    elf[18] = 62; // for x86-64
    elf[20] = 1;
    elf[24..32].copy_from_slice(&(BASE + CODE_AT).to_le_bytes());
    elf[32] = 64; // program headers
    elf[52] = 64;
    elf[54] = 56;
    elf[56] = 1;
    elf.extend_from_slice(&[1, 0, 0, 0, 5, 0, 0, 0]); // load, readable and executable
    let size = CODE_AT + code.len() as u64;
    for word in [0, BASE, BASE, size, size, 4096] {
        elf.extend_from_slice(&word.to_le_bytes());
    }
    elf.extend_from_slice(&code);
    elf
}

/// Set `HOLM_TEST_DEB` to the packages of one kernel, separated by colons.
fn packages() -> Option<Vec<PathBuf>> {
    std::env::var_os("HOLM_TEST_DEB").map(|paths| std::env::split_paths(&paths).collect())
}

#[tokio::test]
async fn a_debian_kernel_boots_to_pid_1_and_powers_off() {
    let Some(packages) = packages() else { return };
    let dir = tempfile::tempdir().unwrap();
    let init_path = dir.path().join("init");
    std::fs::write(&init_path, init()).unwrap();
    let store = GuestStore::open(&dir.path().join("guests")).unwrap();
    let bundle = store.import_debian(&packages, &init_path).unwrap();
    assert_eq!(store.import_debian(&packages, &init_path).unwrap(), bundle, "the same input gives the same bundle");
    println!("{bundle:?}");

    let exit = boot(dir.path(), &bundle.kernel, &bundle.initrd).await;
    assert!(exit.console.contains("holm test guest"), "{exit:?}");
    assert_eq!(exit.reason, ExitReason::GuestShutdown, "{exit:?}");
}

async fn boot(dir: &Path, kernel: &Path, initrd: &Path) -> holm_vmm::VmExit {
    let mut config = QemuConfig::new(Acceleration::tcg("test"));
    config.ready_deadline = Duration::from_secs(60);
    let name = VmName::new(&format!("test-{}", std::process::id()), "linux").unwrap();
    let mut spec = VmSpec::new(name, kernel.to_owned(), dir.join("run"));
    spec.initrd = Some(initrd.to_owned());
    spec.cmdline = base_cmdline(AccelKind::Tcg);
    let vm = QemuVmm::new(config).launch(&spec).await.unwrap();
    match tokio::time::timeout(Duration::from_secs(120), vm.wait_exit()).await {
        Ok(exit) => exit,
        Err(_) => {
            let console = vm.console().await;
            vm.kill().await.unwrap();
            panic!("the guest does not end; its console: {console:?}");
        }
    }
}
