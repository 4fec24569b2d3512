//! A user at a desk: the compiled `holm`, a folder, and a Holm to talk to.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;

use crate::fake::{Fake, MANIFEST};

/// A user's folder with a manifest, a Holm to talk to, and a record of what was seen.
pub(crate) struct Desk {
    folder: TempDir,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) fake: Option<Arc<Fake>>,
    pub(crate) shown: String,
}

impl Desk {
    pub(crate) fn without_holm() -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("state")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { folder, runtime, fake: None, shown: String::new() }
    }

    pub(crate) fn new() -> Self {
        let mut desk = Self::without_holm();
        std::fs::write(desk.folder.path().join("holm.toml"), MANIFEST).unwrap();
        let state = desk.folder.path().join("state");
        desk.fake = Some(desk.runtime.block_on(Fake::start(&state)));
        desk
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn fake(&self) -> &Fake {
        self.fake.as_deref().expect("this desk has a Holm")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holm"));
        command.args(arguments).current_dir(self.folder.path()).env_clear().env("HOLM_STATE", "state");
        command
    }

    /// Runs `holm` with `input` and notes what it did.
    pub(crate) fn run_with(&mut self, arguments: &[&str], input: &str) -> i32 {
        let mut command = self.command(arguments);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        // Apart, since the command writes while it reads; it may also end without reading everything.
        let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        let status = output.status.code().unwrap();
        let folder = self.folder.path().to_str().unwrap();
        let me = self.fake.as_ref().and_then(|fake| Some(fake.seen.lock().unwrap().submissions.first()?.actor.clone()));
        let me = format!("\"{}\"", me.unwrap_or_default());
        let text = |bytes: &[u8]| {
            let text = String::from_utf8(bytes.to_vec()).unwrap().replace(folder, "[FOLDER]");
            if me.len() > 2 { text.replace(&me, "\"[ME]\"") } else { text }
        };
        self.shown.push_str(&format!("$ holm {}\nexit {status}\n", arguments.join(" ")));
        for (name, text) in [("out", text(&output.stdout)), ("err", text(&output.stderr))] {
            if !text.is_empty() {
                self.shown.push_str(&format!("-- {name} --\n{text}"));
            }
        }
        self.shown.push('\n');
        status
    }

    pub(crate) fn run(&mut self, arguments: &[&str]) -> i32 {
        self.run_with(arguments, "")
    }

    /// Runs `holm` for text and for the document.
    pub(crate) fn both(&mut self, arguments: &[&str]) {
        self.run(arguments);
        self.run(&[&["--json"], arguments].concat());
    }
}
