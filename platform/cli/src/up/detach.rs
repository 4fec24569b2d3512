//! `holm up --detach`: the same program again in the background, and a wait until it answers.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};

/// Where a detached Holm writes its messages, in the state folder.
const LOG: &str = "holm.log";

/// Longest wait for the first answer. Holm probes KVM and takes over running microVMs before it answers.
const PATIENCE: Duration = Duration::from_secs(120);

/// Starts this program in the background with the arguments it has, but for `--detach`, and waits until it answers on the
/// socket of `state_dir`.
///
/// # Errors
/// When it ends before it answers; the message has its last lines.
pub(super) async fn start(state_dir: &Path) -> Result<()> {
    super::second::refuse(state_dir).await?;
    std::fs::create_dir_all(state_dir).with_context(|| format!("cannot make {}", state_dir.display()))?;
    let path = state_dir.join(LOG);
    let log = OpenOptions::new().create(true).append(true).open(&path);
    let log = log.with_context(|| format!("cannot write {}", path.display()))?;
    let begun = log.metadata()?.len();
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command
        .args(std::env::args_os().skip(1).filter(|word| word != "--detach"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // A process group of its own: the terminal's Ctrl-C and hang-up are not for it.
    let mut child = command.process_group(0).spawn().context("cannot start holm in the background")?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            bail!("holm ended with {status}\n{}", last_lines(&path, begun));
        }
        if holm_api::socket::connect(state_dir).await.is_ok() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("holm runs as process {} but does not answer; its log is {}", child.id(), path.display());
        }
        sleep(Duration::from_millis(20)).await;
    }
}

fn last_lines(path: &Path, from: u64) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let mut text = String::new();
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(from))?;
        file.read_to_string(&mut text)
    });
    match read {
        Ok(_) => text.lines().rev().take(8).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n"),
        Err(error) => format!("(its log cannot be read: {error})"),
    }
}
