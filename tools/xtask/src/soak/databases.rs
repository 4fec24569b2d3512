//! Databases of Debian packages on volumes, and nginx with files: what was acknowledged is there after everything that befalls
//! them.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use holm_process::Process;

use crate::bench::installation::Installation;
use crate::images;
use crate::workspace::cache;

/// Which, and how often.
#[derive(Debug, Args)]
pub struct Options {
    /// The databases
    #[arg(value_enum, default_values_t = [Which::Redis, Which::Postgresql, Which::Nginx])]
    databases: Vec<Which>,
    /// Rounds of restart, rollout, kill, snapshot, backup and restore
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Kills of Holm while snapshots are taken, in each round
    #[arg(long, default_value_t = 5)]
    kills: u32,
}

/// A database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// Debian's Redis
    Redis,
    /// Debian's PostgreSQL 15
    Postgresql,
    /// Debian's nginx, which serves files of a volume
    Nginx,
}

/// Longest wait for an instance to serve again: PostgreSQL makes its first files in a minute under translation.
const PATIENCE: Duration = Duration::from_secs(600);

/// Runs every round with every database.
///
/// # Errors
/// When something that was acknowledged is not there.
pub fn run(options: &Options) -> Result<()> {
    let holm = Installation::start_with(&["--backups"])?;
    for which in &options.databases {
        let database = Database { holm: &holm, which: *which };
        for round in 1..=options.rounds {
            database.round(round, options.kills).with_context(|| format!("round {round} of {}", database.name()))?;
        }
        println!("{}: {} rounds, and everything it acknowledged is there", database.name(), options.rounds);
    }
    holm.site.ok(&["down"])?;
    let left = holm.site.processes()?;
    ensure!(left.is_empty(), "processes are left: {left:?}");
    Ok(())
}

struct Database<'a> {
    holm: &'a Installation,
    which: Which,
}

impl Database<'_> {
    const fn name(&self) -> &'static str {
        match self.which {
            Which::Redis => "redis",
            Which::Postgresql => "postgresql",
            Which::Nginx => "nginx",
        }
    }

    fn image(&self) -> Result<String> {
        let folder: PathBuf = self.holm.folder().join(self.name());
        match (folder.exists(), self.which) {
            (true, _) => Ok(format!("oci:{}:1", folder.display())),
            (false, Which::Redis) => images::redis(&cache(), &folder),
            (false, Which::Postgresql) => images::postgresql(&cache(), &folder),
            (false, Which::Nginx) => images::nginx_of_files(&cache(), &folder),
        }
    }

    fn deploy(&self, app: &str, note: &str) -> Result<()> {
        let (port, memory, stop) = match self.which {
            Which::Redis => (6379, "96MiB", "SIGTERM"),
            Which::Postgresql => (5432, "256MiB", "SIGINT"),
            Which::Nginx => (8080, "96MiB", "SIGQUIT"),
        };
        let manifest = format!(
            "schema = 1\napp = {app:?}\n\n[process.db]\nmemory = {memory:?}\nmounts = {{ data = \"/data\" }}\n\n\
             [process.db.health]\ntcp = {{ port = {port} }}\ninterval = \"1s\"\nstartup = \"540s\"\n\n[process.db.stop]\n\
             grace = \"30s\"\ndrain = \"0s\"\nsignal = {stop:?}\n\n[volume.data]\nsize = \"512MiB\"\n\n[config]\nNOTE = {note:?}\n"
        );
        let manifest = self.holm.site.manifest(app, &manifest)?;
        self.holm.site.ok(&["deploy", &self.image()?, "-f", &manifest]).map(drop)
    }

    /// What the database answers; `None` while it cannot.
    fn ask(&self, app: &str, words: &[&str]) -> Result<Option<String>> {
        let program: &[&str] = match self.which {
            Which::Redis => &["/usr/bin/redis-cli"],
            Which::Postgresql => &[
                "/usr/lib/postgresql/15/bin/psql",
                "-h",
                "127.0.0.1",
                "-U",
                "postgres",
                "-v",
                "ON_ERROR_STOP=1",
                "-qAtc",
            ],
            Which::Nginx => &["/bin/busybox", "sh", "-euc"],
        };
        let line: Vec<&str> = ["exec", app, "--"].iter().chain(program).chain(words).copied().collect();
        let ran = self.holm.site.run(&line)?;
        let answered = ran.status == 0 && !ran.stdout.contains("LOADING");
        Ok(answered.then(|| ran.stdout.trim().to_owned()))
    }

    /// Writes `count` rows or elements more, and gives how many were acknowledged in all.
    fn write(&self, count: u32) -> Result<u32> {
        let count = count.to_string();
        let rows = format!("insert into kept (word) select md5(i::text) from generate_series(1, {count}) i");
        // Written as a new file and put in its place, on disk before it counts.
        let lines = format!(
            "cd /data; b=/bin/busybox; $b touch kept; $b cp kept next; i=0
             while [ $i -lt {count} ]; do echo \"line $i\"; i=$((i+1)); done >> next
             $b sync; $b mv next kept; $b sync"
        );
        let push = format!("for i = 1, {count} do redis.call('rpush', 'kept', i) end");
        match self.which {
            Which::Redis => {
                drop(self.ask("keeper", &["eval", &push, "0"])?.context("it does not take what is written")?)
            }
            Which::Postgresql => {
                let table = "create table if not exists kept (id bigserial primary key, word text not null)";
                for line in [table, &rows] {
                    self.ask("keeper", &[line])?.context("it does not take what is written")?;
                }
            }
            Which::Nginx => drop(self.ask("keeper", &[&lines])?.context("it does not take what is written")?),
        }
        self.count("keeper")
    }

    /// How many rows or elements there are, when it answers again.
    fn count(&self, app: &str) -> Result<u32> {
        let words: &[&str] = match self.which {
            Which::Redis => &["llen", "kept"],
            // Reads every row, so that a page that is torn is seen.
            Which::Postgresql => &["select count(word) from kept where length(word) = 32"],
            // Through nginx, every line of it.
            Which::Nginx => {
                &["/bin/busybox wget -q -O - http://127.0.0.1:8080/kept | /bin/busybox grep -c '^line [0-9]*$'"]
            }
        };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(count) = self.ask(app, words)?.and_then(|count| count.parse().ok()) {
                return Ok(count);
            }
            std::thread::park_timeout(Duration::from_millis(500));
        }
        bail!("`{app}` does not answer after {} s", PATIENCE.as_secs())
    }

    fn must_have(&self, app: &str, wanted: u32, after: &str) -> Result<()> {
        let found = self.count(app)?;
        ensure!(found == wanted, "{wanted} were acknowledged, and {found} are there after {after}");
        println!("{}: {found} of {wanted} are there after {after}", self.name());
        Ok(())
    }

    fn round(&self, round: u32, kills: u32) -> Result<()> {
        self.deploy("keeper", &format!("round {round}"))?;
        let wrote = self.write(500)?;
        self.holm.site.ok(&["restart", "keeper"])?;
        self.must_have("keeper", wrote, "a restart")?;

        let wrote = self.write(500)?;
        self.deploy("keeper", &format!("round {round}, again"))?;
        self.must_have("keeper", wrote, "a rollout")?;

        let wrote = self.write(500)?;
        for pid in self.holm.processes("qemu-system-x86_64")? {
            kill(pid)?;
        }
        self.must_have("keeper", wrote, "the death of its microVM")?;

        for nth in 0..kills {
            self.kill_beside_a_snapshot(Duration::from_millis(u64::from(nth) * 37))?;
            self.write(100)?;
        }
        let wrote = self.count("keeper")?;
        let taken = self.holm.site.json(&["snapshots", "create", "keeper:data"])?;
        self.holm.site.ok(&["backups", "create", "keeper:data"])?;
        let later = self.write(500)?;
        let snapshot = taken["body"]["moment"].as_str().with_context(|| format!("no moment in {taken}"))?;
        self.restored(&["snapshots", "restore", &format!("keeper:data@{snapshot}")], wrote, "a snapshot")?;
        self.restored(&["backups", "restore", "keeper:data"], wrote, "a backup")?;
        self.must_have("keeper", later, "others were restored from it")?;
        self.holm.site.ok(&["backups", "create", "keeper:data"])?;
        self.holm.site.ok(&["backups", "verify", "keeper:data"])?;
        self.destroy("keeper")
    }

    /// Kills Holm so long after a snapshot was asked for. The guest may be frozen then: it thaws, and is the same one after.
    fn kill_beside_a_snapshot(&self, after: Duration) -> Result<()> {
        let before = self.instance()?;
        let mut asking = self.holm.site.holm(&["snapshots", "create", "keeper:data"]);
        let mut asking = asking.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot start holm")?;
        std::thread::park_timeout(after);
        for (pid, line) in self.holm.site.processes()? {
            if line.contains("holm up ") {
                kill(pid)?;
            }
        }
        asking.wait()?;
        let deadline = Instant::now() + PATIENCE;
        while self.holm.up().is_err() {
            ensure!(Instant::now() < deadline, "Holm does not start again");
            std::thread::park_timeout(Duration::from_millis(200));
        }
        self.count("keeper")?;
        let after = self.instance()?;
        ensure!(before == after, "{before} was replaced by {after}: its guest hung");
        Ok(())
    }

    /// The instance of the app that keeps.
    fn instance(&self) -> Result<String> {
        let shown = self.holm.site.json(&["ps", "keeper"])?;
        let name = shown["instances"][0]["instance"].as_str();
        name.map(str::to_owned).with_context(|| format!("no instance in {shown}"))
    }

    /// Makes another app of a copy, looks into it and destroys it.
    fn restored(&self, words: &[&str], wanted: u32, from: &str) -> Result<()> {
        let line: Vec<&str> = words.iter().copied().chain(["--to", "copy:data"]).collect();
        self.holm.site.ok(&line)?;
        self.deploy("copy", "restored")?;
        self.must_have("copy", wanted, &format!("a restore of {from}"))?;
        self.destroy("copy")
    }

    fn destroy(&self, app: &str) -> Result<()> {
        self.holm.site.ok(&["destroy", app, "--yes", "--volumes"])?;
        let deadline = Instant::now() + PATIENCE;
        while self.holm.site.ok(&["volumes", "list"])?.contains(&format!("{app}:data")) {
            ensure!(Instant::now() < deadline, "the volume of `{app}` does not go");
            std::thread::park_timeout(Duration::from_millis(200));
        }
        Ok(())
    }
}

/// Kills the process with this number, which may have ended since it was listed.
fn kill(pid: u32) -> Result<()> {
    Process::open(pid)?.map_or(Ok(()), |process| process.kill()).context("cannot kill")
}
