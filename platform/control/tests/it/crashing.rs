//! Killed at any moment, the control plane keeps every command it has acknowledged.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::sync::Arc;

use holm_control::{Accepted, Command, Control, Images, Meta, Options};

use crate::fixture::{Shelf, app, deploy, process};

const ROUNDS: u64 = 60;
const TASKS: u32 = 4;

async fn open(dir: &Path) -> Control {
    // Compacted all the time, so that some of the kills come in between.
    let options = Options { keep_events: 20, ..Options::default() };
    Control::open(dir, Arc::new(Shelf::default()) as Arc<dyn Images>, options).await.unwrap()
}

/// The command with the key `ROUND-TASK-I`.
fn command(key: &str) -> Command {
    let i: u32 = key.rsplit('-').next().unwrap().parse().unwrap();
    Command::Scale { app: app("hello"), process: process("worker"), instances: Some(i % 3) }
}

/// Not a test of its own: what the crash test starts and kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the crash test"]
async fn crash_child() {
    let (Ok(dir), Ok(round)) = (std::env::var("HOLM_CRASH_DIR"), std::env::var("HOLM_CRASH_ROUND")) else { return };
    let control = open(&PathBuf::from(dir)).await;
    let asking = (0..TASKS).map(|task| {
        let (control, round) = (control.clone(), round.clone());
        tokio::spawn(async move {
            for i in 0.. {
                let key = format!("{round}-{task}-{i}");
                let accepted = control.submit(command(&key), Meta::new("child").with_key(&key)).await.unwrap();
                let mut out = std::io::stdout().lock();
                writeln!(out, "\nack {key} {}", serde_json::to_string(&accepted).unwrap()).unwrap();
                out.flush().unwrap();
            }
        })
    });
    futures_util::future::join_all(asking).await;
}

/// Starts the child, kills it after `acknowledged` answers, and gives every answer it wrote until then.
fn run_and_kill(dir: &Path, round: u64, acknowledged: u64) -> BTreeMap<String, Accepted> {
    let mut child = Process::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "--test-threads=1", "crashing::crash_child"])
        .env("HOLM_CRASH_DIR", dir)
        .env("HOLM_CRASH_ROUND", round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut answers = BTreeMap::new();
    let mut note = |line: &str| {
        // The last line may be cut off in the middle.
        let mut words = line.strip_prefix("ack ")?.splitn(2, ' ');
        let (key, answer) = (words.next()?.to_owned(), serde_json::from_str(words.next()?).ok()?);
        answers.insert(key, answer);
        Some(())
    };
    let mut seen = 0;
    while seen < acknowledged {
        let line = lines.next().expect("the child runs until it is killed").unwrap();
        seen += u64::from(note(&line).is_some());
    }
    child.kill().unwrap();
    for line in lines.map_while(Result::ok) {
        note(&line);
    }
    child.wait().unwrap();
    answers
}

#[tokio::test]
async fn a_killed_control_plane_has_every_command_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let control = open(dir.path()).await;
    control.submit(deploy("hello"), Meta::new("test")).await.unwrap();
    control.close().await;
    let mut total = 0;
    for round in 0..ROUNDS {
        // Some are killed before or while they open the folder.
        let acknowledged = (round * 7919) % 41;
        let folder = dir.path().to_owned();
        let killing = tokio::task::spawn_blocking(move || run_and_kill(&folder, round, acknowledged));
        let answers = killing.await.unwrap();
        total += answers.len();
        let control = open(dir.path()).await;
        let verified = control.verify().await.unwrap();
        assert_eq!(verified.differing, [""; 0], "round {round}");
        for (key, answer) in answers {
            assert!(answer.seq <= verified.seq, "round {round}: {key}");
            let again = control.submit(command(&key), Meta::new("child").with_key(&key)).await.unwrap();
            assert_eq!(again, answer, "round {round}: {key} was acknowledged");
        }
        control.close().await;
    }
    assert!(total > 500, "only {total} commands were acknowledged");
    println!("{ROUNDS} kills, {total} acknowledged commands, none lost");
}
