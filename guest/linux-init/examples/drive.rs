//! Drives one booted guest through its control socket and tells what it saw: a check by hand for a developer.
//!
//! `cargo run -p holm-linux-init --example drive -- SOCKET SCENARIO`, where QEMU runs with a chardev socket at
//! SOCKET. Scenarios: `life` (configure, logs, exec, health, reconnect, stop), `oom`, `missing`, `hang`.

#![allow(clippy::print_stdout, reason = "an example for a terminal")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use holm_guest_control::host::{ConnectOptions, GuestConnection, LogItem, OutputChunk};
use holm_guest_control::{
    Config, ExecRequest, ExitStatus, HealthCheck, Ipv4Address, Ipv6Address, Network, Phase, Probe, Status, Terminal,
};
use tokio::net::UnixStream;

const LIMIT: Duration = Duration::from_secs(60);

async fn connect(path: &str) -> anyhow::Result<GuestConnection> {
    let begun = Instant::now();
    loop {
        match UnixStream::connect(path).await {
            Ok(pipe) => {
                let options = ConnectOptions { greeting_timeout: LIMIT, ..ConnectOptions::default() };
                return Ok(GuestConnection::connect(pipe, options).await?);
            }
            Err(error) if begun.elapsed() > LIMIT => return Err(error).context("no socket"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn until(guest: &GuestConnection, what: &str, done: impl FnMut(&Status) -> bool) -> anyhow::Result<Status> {
    let mut status = guest.status();
    let found = tokio::time::timeout(LIMIT, status.wait_for(done)).await.with_context(|| format!("waiting: {what}"))?;
    Ok(found?.clone())
}

fn config(script: &str) -> Config {
    Config {
        instance: "web-1".into(),
        hostname: "web-1".into(),
        command: ["/bin/sh", "-c", script].map(Into::into).to_vec(),
        env: [("GREETING".to_owned(), "hello".to_owned())].into(),
        user: "web".into(),
        working_dir: "/srv/app".into(),
        stop_signal: 15,
        grace_ms: 1500,
        memory_max: Some(48 << 20),
        network: Some(Network {
            v6: Some(Ipv6Address {
                address: "fd00::7".parse().expect("an address"),
                prefix: 128,
                gateway: "fe80::1".parse().ok(),
            }),
            v4: Some(Ipv4Address {
                address: "10.0.2.15".parse().expect("an address"),
                prefix: 24,
                gateway: "10.0.2.2".parse().ok(),
            }),
            dns: vec!["10.0.2.3".into()],
            ..Network::default()
        }),
        root: Default::default(),
        health: None,
        files: Vec::new(),
        volumes: Vec::new(),
        secrets: None,
        linger_ms: 60_000,
    }
}

async fn run(guest: &GuestConnection, command: &[&str]) -> anyhow::Result<(ExitStatus, String, String)> {
    let request = ExecRequest { command: command.iter().map(|s| s.to_string()).collect(), ..Default::default() };
    let session = guest.exec(request).await?;
    let (status, out, err) = tokio::time::timeout(LIMIT, session.collect(1 << 20)).await??;
    Ok((status, String::from_utf8(out)?, String::from_utf8(err)?))
}

async fn life(path: &str) -> anyhow::Result<()> {
    let guest = connect(path).await?;
    println!("hello: {:#?}", guest.hello());
    let mut config = config(
        "echo $GREETING from $(id); pwd; echo wrong >&2; trap 'echo bye; exit 3' TERM; i=0; while :; do echo line $i; i=$((i+1)); sleep 0.1; done",
    );
    config.health = Some(HealthCheck {
        probe: Probe::Exec { command: vec!["true".into()] },
        interval_ms: 200,
        timeout_ms: 2000,
        healthy_after: 1,
        unhealthy_after: 1,
    });
    guest.configure(&config).await?;
    guest.configure(&config).await.context("the same configuration again")?;
    let mut other = config.clone();
    other.hostname = "other".into();
    println!("other configuration: {}", guest.configure(&other).await.expect_err("must be refused"));
    let mut logs = guest.logs(0).await?;
    println!("started as {:?}", guest.start().await?);
    println!("healthy: {:?}", until(&guest, "health", |s| s.health.is_some()).await?.health);
    let mut seen = 0;
    let mut text = String::new();
    while !text.contains("line 5\n") {
        match tokio::time::timeout(LIMIT, logs.recv()).await?.context("logs ended")? {
            LogItem::Record(record) => {
                ensure!(record.seq == seen, "gap before {}", record.seq);
                seen += 1;
                text.push_str(&String::from_utf8_lossy(&record.bytes));
            }
            LogItem::Dropped { count, .. } => bail!("{count} lost"),
        }
    }
    println!("logs:\n{text}");
    for command in [
        &[
            "sh",
            "-c",
            "cat /etc/hosts /etc/resolv.conf /proc/self/cgroup; hostname; ls -la /dev /; ip addr; ip -6 route; ip route; cat /proc/mounts",
        ][..],
        &["sh", "-c", "echo out; echo err >&2; exit 7"],
        &["sh", "-c", "echo written > /dev/stdout; id; kill -9 $$"],
    ] {
        println!(
            "exec {command:?}: {:?}",
            run(&guest, command).await.map(|(s, o, e)| format!("{s}\n{o}{e}")).map_err(|e| e.to_string()).map(|t| {
                println!("{t}");
            })
        );
    }
    println!("exec nothing: {}", run(&guest, &["nothing"]).await.expect_err("must fail"));
    println!("exec folder: {}", run(&guest, &["/etc"]).await.expect_err("must fail"));

    let mut session = guest.exec(ExecRequest { command: vec!["wc".into(), "-c".into()], ..Default::default() }).await?;
    session.stdin.write_all(&vec![0u8; 1_000_000]).await?;
    println!("1 MB in: {:?}", session.collect(100).await.map(|(s, o, _)| (s, String::from_utf8(o)))?);
    let session = guest
        .exec(ExecRequest {
            command: ["sh", "-c", "yes | head -c 3000000"].map(Into::into).to_vec(),
            ..Default::default()
        })
        .await?;
    let begun = Instant::now();
    let (status, out, _) = session.collect(10 << 20).await?;
    ensure!(out.len() == 3_000_000 && out.chunks(2).all(|c| c == b"y\n"), "3 MB out: {} bytes", out.len());
    println!("3 MB out: {status} in {:?}", begun.elapsed());

    let terminal = Some(Terminal { rows: 33, cols: 101, term: String::new() });
    let mut session = guest
        .exec(ExecRequest {
            command: vec!["sh".into()],
            terminal: terminal.clone(),
            user: Some("root".into()),
            ..Default::default()
        })
        .await?;
    session.stdin.write_all(b"tty; stty size; echo $TERM; id\n").await?;
    session.control.resize(50, 120).await?;
    session.stdin.write_all(b"stty size; exit 4\n").await?;
    let mut shown = Vec::new();
    while let Some(OutputChunk::Stdout(bytes)) = tokio::time::timeout(LIMIT, session.output.recv()).await? {
        shown.extend(bytes);
    }
    println!("terminal: {}\n{}", session.control.wait().await?, String::from_utf8_lossy(&shown));
    println!("metrics: {:?}", guest.metrics().await?);

    // A command that floods its output while the host is cut off in the middle.
    let flood = guest.exec(ExecRequest { command: vec!["yes".into()], ..Default::default() }).await?;
    let hanging = guest.exec(ExecRequest { command: vec!["sh".into()], terminal, ..Default::default() }).await?;
    let (flood_pid, hanging_pid) = (flood.pid, hanging.pid);
    drop((flood, hanging, logs, guest));
    for round in 0..5 {
        let guest = connect(path).await?;
        ensure!(guest.hello().status.phase == Phase::Running, "{:?}", guest.hello().status);
        guest.configure(&config).await?;
        let mut logs = guest.logs(seen).await?;
        for _ in 0..3 {
            match tokio::time::timeout(LIMIT, logs.recv()).await?.context("logs ended")? {
                LogItem::Record(record) => {
                    ensure!(record.seq == seen, "gap before {}, wanted {seen}", record.seq);
                    seen += 1;
                }
                LogItem::Dropped { count, .. } => bail!("{count} lost"),
            }
        }
        let mut busy = guest.exec(ExecRequest { command: vec!["yes".into()], ..Default::default() }).await?;
        for _ in 0..round * 7 {
            busy.output.recv().await;
        }
    }
    let guest = connect(path).await?;
    let (_, processes, _) = run(&guest, &["ps"]).await?;
    println!("after 6 cuts (flood {flood_pid}, terminal {hanging_pid}):\n{processes}");
    let mut logs = guest.logs(seen).await?;
    let begun = Instant::now();
    guest.stop(None).await?;
    let status = until(&guest, "exit", |s| s.exit.is_some()).await?;
    println!("exit after {:?}: {:?}", begun.elapsed(), status.exit);
    let mut last = Vec::new();
    while let Some(LogItem::Record(record)) = tokio::time::timeout(LIMIT, logs.recv()).await? {
        last = record.bytes;
    }
    println!("last line {:?}, channel ended after {:?}", String::from_utf8_lossy(&last), begun.elapsed());
    Ok(())
}

async fn ending(path: &str, config: Config) -> anyhow::Result<()> {
    let guest = connect(path).await?;
    guest.configure(&config).await?;
    println!("start: {:?}", guest.start().await.map_err(|e| e.to_string()));
    let begun = Instant::now();
    if config.command.join(" ").contains("trap ''") {
        until(&guest, "health", |s| s.health.is_some()).await.ok();
        guest.stop(None).await?;
    }
    let status = until(&guest, "exit", |s| s.exit.is_some()).await?;
    println!(
        "{} after {:?}: {:?}",
        status.exit.as_ref().map(ToString::to_string).unwrap_or_default(),
        begun.elapsed(),
        status
    );
    guest.stop(None).await?;
    tokio::time::timeout(LIMIT, guest.closed()).await?;
    println!("off after {:?}", begun.elapsed());
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, scenario] = &arguments[..] else { bail!("usage: drive SOCKET life|oom|missing|hang") };
    match scenario.as_str() {
        "life" => life(path).await,
        "oom" => ending(path, config("echo big; x=$(yes | head -c 90000000); echo survived $?; sleep 100")).await,
        "missing" => ending(path, Config { command: vec!["/bin/nothing".into()], ..config("") }).await,
        "hang" => {
            let http = HealthCheck {
                probe: Probe::Http { port: 8080, path: "/".into() },
                interval_ms: 100,
                timeout_ms: 1000,
                healthy_after: 1,
                unhealthy_after: 50,
            };
            let script = "trap '' TERM; echo hi > index.html; httpd -f -p 8080 & while :; do sleep 1; done";
            ending(path, Config { health: Some(http), user: String::new(), ..config(script) }).await
        }
        other => bail!("no scenario `{other}`"),
    }
}
