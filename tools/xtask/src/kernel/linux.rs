//! Debian's Linux guest, to boot beside the Holm kernel: the same machine, and an init that says one line.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::archive::Archive;
use super::boots::FIRST_LINE;
use super::qemu::Machine;
use crate::command::{command, output};
use crate::guest::kernel_packages;
use crate::workspace::{cache, target};

/// Where the program is loaded.
const ADDRESS: u64 = 0x40_0000;
/// The headers of an ELF file with one segment.
const HEADERS: u64 = 64 + 56;

/// The machine that boots it; its first line is [`FIRST_LINE`] too.
///
/// # Errors
/// When Debian's kernel cannot be downloaded, or a file not be written.
pub(crate) fn machine() -> Result<Machine> {
    let folder = target().join("holm-kernel/linux");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let archive = folder.join("init.cpio");
    let mut files = Archive::default();
    files.file("init", &init(FIRST_LINE))?;
    fs::write(&archive, files.finish()).with_context(|| format!("cannot write {}", archive.display()))?;
    Ok(Machine {
        kernel: kernel()?,
        archive: Some(archive),
        cpus: 1,
        memory_mib: 128,
        processor: "max",
        count: false,
        acpi: true,
        command_line: "console=ttyS0 quiet".to_owned(),
    })
}

/// Debian's kernel, unpacked.
fn kernel() -> Result<PathBuf> {
    let packages = kernel_packages(&cache())?;
    let folder = target().join("holm-kernel/linux/unpacked");
    for package in &packages {
        output(command(&target(), "dpkg-deb", &["-x"]).arg(package).arg(&folder))?;
    }
    let boot = folder.join("boot");
    let files = fs::read_dir(&boot).with_context(|| format!("{} is not there", boot.display()))?;
    let names = files.filter_map(|file| Some(file.ok()?.path()));
    names
        .into_iter()
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")))
        .with_context(|| format!("no vmlinuz in {}", boot.display()))
}

/// A program for Linux that writes a line to its standard output and waits for ever.
fn init(line: &str) -> Vec<u8> {
    let line = format!("{line}\n");
    let mut code: Vec<u8> = Vec::new();
    // write(1, line, its length); the line lies behind the code.
    code.extend([0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0, 0xba]);
    code.extend((line.len() as u32).to_le_bytes());
    code.extend([0x48, 0x8d, 0x35, 11, 0, 0, 0, 0x0f, 0x05]);
    // pause(), again and again.
    code.extend([0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7]);
    code.extend(line.as_bytes());
    let bytes = HEADERS + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [ADDRESS + HEADERS, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, ADDRESS, ADDRESS, bytes, bytes, 4096] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_init_says_its_line_and_waits() {
        let folder = target().join("holm-kernel/linux");
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("init-of-the-test");
        fs::write(&file, init("init: ready")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = Command::new(&file).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ended = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((line.as_str(), ended), ("init: ready\n", None));
    }
}
