//! The interface from afar: what a token allows, what is refused, what the audit log says, and hostile clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holm_e2e::{Batch, wait_for};
use serde_json::Value;
use xtask::site::{Ran, free_port, loopback};

use super::{METRICS_PORT, REMOTE_PORT, deploy_hello};

/// The address and token of somebody elsewhere.
struct Afar {
    host: String,
    token: String,
}

impl Afar {
    fn run(&self, batch: &Batch, arguments: &[&str]) -> Result<Ran> {
        let mut command = batch.site.holm(arguments);
        let output = command.env("HOLM_HOST", &self.host).env("HOLM_TOKEN", &self.token).output()?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Ran { status: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) })
    }
}

fn remote_port() -> Result<u16> {
    Ok(u16::try_from(REMOTE_PORT.load(Ordering::Relaxed))?)
}

fn token(batch: &Batch, words: &[&str]) -> Result<(Afar, String)> {
    let made: Value = batch.site.json(&[&["tokens", "create"], words].concat())?;
    let field = |name: &str| made[name].as_str().map(str::to_owned).with_context(|| format!("no {name} in {made}"));
    let host = format!("https://[::1]:{}#{}", remote_port()?, field("fingerprint")?);
    Ok((Afar { host, token: field("token")? }, field("id")?))
}

pub(crate) fn token_allows_what_it_names_from_afar_and_every_refusal_is_recorded(batch: &Batch) -> Result<()> {
    deploy_hello(batch, "near", "near", free_port()?)?;
    deploy_hello(batch, "other", "other", free_port()?)?;
    let (ci, id) = token(batch, &["ci", "--app", "near", "--allow", "read,deploy,exec", "--expires", "1h"])?;

    let status = ci.run(batch, &["status"])?;
    ensure!(status.status == 0 && status.stdout.contains("near") && !status.stdout.contains("other"), "{status:?}");
    let restarted = ci.run(batch, &["restart", "near"])?;
    ensure!(restarted.status == 0, "{restarted:?}");
    let ran = ci.run(batch, &["exec", "near", "--", "/hello", "--fail", "4"])?;
    ensure!(ran.status == 4, "{ran:?}");
    for refused in [
        &["restart", "other"][..],
        &["stop", "near"],
        &["logs", "near"],
        &["exec", "other", "--", "/hello"],
        &["tokens", "list"],
        &["down"],
        &["events"],
    ] {
        let ran = ci.run(batch, refused)?;
        ensure!(ran.status == 4 && ran.stderr.contains("the token does not allow this"), "{refused:?}: {ran:?}");
    }
    let events = batch.site.ok(&["events", "-n", "200"])?;
    for expected in ["token:ci", "exec of near.web.", "was refused: the token does not allow this"] {
        ensure!(events.contains(expected), "no `{expected}` in\n{events}");
    }
    let state = std::fs::read(batch.site.state().join("holm.db"))?;
    let secret = ci.token.rsplit_once('_').context("not a token")?.1;
    ensure!(!state.windows(secret.len()).any(|window| window == secret.as_bytes()), "the token lies in the state");

    let wrong = Afar { host: ci.host.clone(), token: format!("{}0", ci.token) };
    ensure!(wrong.run(batch, &["status"])?.status == 4, "a forged token was taken");
    let elsewhere = Afar { host: ci.host.replace("#sha256:", "#sha256:00"), token: ci.token.clone() };
    ensure!(elsewhere.run(batch, &["status"])?.status == 2, "a fingerprint of the wrong length");
    let digit = if ci.host.ends_with('0') { "1" } else { "0" };
    let stranger = Afar { host: format!("{}{digit}", &ci.host[..ci.host.len() - 1]), token: ci.token.clone() };
    ensure!(stranger.run(batch, &["status"])?.status == 3, "another certificate was trusted");

    // A revoked token ends what it has open.
    let mut follow = batch.site.holm(&["events", "--follow", "--app", "near"]);
    let follow =
        follow.env("HOLM_HOST", &ci.host).env("HOLM_TOKEN", &ci.token).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut follow = follow.spawn()?;
    let mut events = BufReader::new(follow.stdout.take().context("no output")?);
    ensure!(events.read_line(&mut String::new())? > 0, "the stream did not begin");
    batch.site.ok(&["tokens", "revoke", &id])?;
    ensure!(ci.run(batch, &["status"])?.status == 4, "a revoked token was taken");
    let status = wait_for("the stream to be cut", || Ok(follow.try_wait()?))?;
    let mut said = String::new();
    follow.stderr.take().context("no output")?.read_to_string(&mut said)?;
    ensure!(status.code() == Some(4) && said.contains("the token was revoked"), "{status}: {said}");
    Ok(())
}

pub(crate) fn rubbish_from_afar_harms_nothing(batch: &Batch) -> Result<()> {
    let at = loopback(remote_port()?);
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff], &[0; 1000], &[0xff; 70_000]] {
        let mut stream = TcpStream::connect(at)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        // The other side may close before everything is sent.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        ensure!(answer.len() < 100, "{} bytes came back", answer.len());
    }
    // More idle connections than one source may have: those that are too many are closed, the others wait.
    let idle: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(at)).collect::<Result<_, _>>()?;
    batch.site.ok(&["status"])?;
    drop(idle);
    let (reader, _) = token(batch, &["reader", "--all-apps", "--allow", "read,host"])?;
    wait_for("room for another client", || Ok((reader.run(batch, &["status"])?.status == 0).then_some(())))?;

    let figures = reader.run(batch, &["metrics"])?;
    ensure!(figures.status == 0 && figures.stdout.contains("holm_build"), "{figures:?}");
    let scraped = xtask::client::get(u16::try_from(METRICS_PORT.load(Ordering::Relaxed))?, "/metrics")?;
    for expected in ["holm_instances{", "holm_ingress_connections_total", "holm_state_folder_free_bytes"] {
        ensure!(scraped.contains(expected), "no `{expected}` in\n{scraped}");
    }
    Ok(())
}
