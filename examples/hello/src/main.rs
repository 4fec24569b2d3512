//! A small web server to deploy: it greets, tells who it is, and misbehaves on request.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /` | the greeting (`GREETING`), the instance and its release |
//! | `GET /healthz` | `ok`, or status 503 after `/sick` |
//! | `GET /sick` | from now on `/healthz` fails |
//! | `GET /slow/MILLISECONDS` | the greeting, after a while |
//! | `GET /big/BYTES` | that many bytes |
//! | `GET /eat/MIB` | takes and keeps that much memory |
//! | `GET /exit/STATUS` | the process exits with that status |
//! | `GET /visits` | counts in `/data/visits`, on disk before it answers; a manifest mounts a volume there |
//! | `GET /secret` | how long the secret `PASSWORD` is |
//!
//! Connections are kept for further requests as HTTP/1.1 has it.
//!
//! Started as `hello --fail STATUS` it writes a line to standard error and exits at once.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Longest request line that is read, in bytes.
const LONGEST_LINE: u64 = 8 * 1024;

static SICK: AtomicBool = AtomicBool::new(false);
static EATEN: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
/// Held while a visit is counted.
static VISIT: Mutex<()> = Mutex::new(());

/// Where visits are counted.
const VISITS: &str = "/data/visits";

/// Where Holm puts the secret.
const PASSWORD: &str = "/run/secrets/PASSWORD";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let port = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => 8080,
        ["--port", port] => match port.parse() {
            Ok(port) => port,
            Err(_) => return usage(),
        },
        ["--fail", status] => {
            say(&mut io::stderr(), "hello: told to fail");
            return status.parse::<u8>().map_or_else(|_| usage(), ExitCode::from);
        }
        _ => return usage(),
    };
    match serve(port) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&mut io::stderr(), &format!("hello: cannot listen on port {port}: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    say(&mut io::stderr(), "usage: hello [--port PORT | --fail STATUS]");
    ExitCode::from(2)
}

/// Writes one line; a closed stream is no reason to stop serving.
fn say(to: &mut impl Write, line: &str) {
    let _ = writeln!(to, "{line}");
}

fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
    say(&mut io::stdout(), &format!("hello: listening on port {port}"));
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || {
            if let Err(error) = answer(stream) {
                say(&mut io::stderr(), &format!("hello: a connection failed: {error}"));
            }
        });
    }
    Ok(())
}

fn answer(stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut lines = reader.by_ref().take(LONGEST_LINE);
        let mut request = String::new();
        if lines.read_line(&mut request)? == 0 {
            return Ok(());
        }
        // What is older than HTTP/1.1 expects the end of the connection as the end of the answer.
        let mut keep = request.trim_end().ends_with(" HTTP/1.1");
        let mut header = String::new();
        while lines.read_line(&mut header)? > 2 {
            keep &= !header.trim().eq_ignore_ascii_case("connection: close");
            header.clear();
        }
        let Some(path) = request.strip_prefix("GET ").and_then(|rest| rest.split(' ').next()) else {
            return respond(&stream, "400 Bad Request", false, b"only GET is known here\n");
        };
        let (status, body) = page(path);
        // Health checks come every second and would drown what a person looks for.
        if path != "/healthz" {
            say(&mut io::stdout(), &format!("GET {path} {}", &status[..3]));
        }
        respond(&stream, status, keep, &body)?;
        if !keep {
            return Ok(());
        }
    }
}

fn page(path: &str) -> (&'static str, Vec<u8>) {
    let (name, value) = match path.trim_start_matches('/').split_once('/') {
        Some((name, value)) => (name, value.parse::<usize>().ok()),
        None => (path.trim_start_matches('/'), None),
    };
    match (name, value) {
        ("", None) => ("200 OK", greeting()),
        ("healthz", None) if SICK.load(Ordering::Relaxed) => ("503 Service Unavailable", b"sick\n".to_vec()),
        ("healthz", None) => ("200 OK", b"ok\n".to_vec()),
        ("sick", None) => {
            SICK.store(true, Ordering::Relaxed);
            ("200 OK", b"sick from now on\n".to_vec())
        }
        ("slow", Some(milliseconds)) => {
            std::thread::park_timeout(Duration::from_millis(milliseconds as u64));
            ("200 OK", greeting())
        }
        ("big", Some(bytes)) => ("200 OK", vec![b'x'; bytes.min(1 << 30)]),
        ("eat", Some(mib)) => {
            // Piece by piece: a kernel refuses at once what it could never give, and the process would end by itself.
            for _ in 0..mib {
                EATEN.lock().map(|mut all| all.push(vec![1u8; 1 << 20])).ok();
            }
            ("200 OK", b"eaten\n".to_vec())
        }
        ("exit", Some(status)) => {
            say(&mut io::stdout(), &format!("hello: exiting with status {status} as asked"));
            std::process::exit(i32::try_from(status).unwrap_or(1))
        }
        ("visits", None) => match visit() {
            Ok(nth) => ("200 OK", format!("visit {nth}\n").into_bytes()),
            Err(error) => ("500 Internal Server Error", format!("{VISITS}: {error}\n").into_bytes()),
        },
        ("secret", None) => match std::fs::read(PASSWORD) {
            Ok(value) => ("200 OK", format!("PASSWORD has {} bytes\n", value.len()).into_bytes()),
            Err(error) => ("404 Not Found", format!("{PASSWORD}: {error}\n").into_bytes()),
        },
        _ => ("404 Not Found", b"no such page\n".to_vec()),
    }
}

/// Counts one visit more.
fn visit() -> io::Result<u64> {
    let _turn = VISIT.lock().unwrap_or_else(PoisonError::into_inner);
    let before = match std::fs::read_to_string(VISITS) {
        Ok(text) => text.trim().parse().map_err(|_| io::Error::other("not a number"))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0u64,
        Err(error) => return Err(error),
    };
    let fresh = format!("{VISITS}.new");
    let mut file = File::create(&fresh)?;
    writeln!(file, "{}", before + 1)?;
    file.sync_all()?;
    std::fs::rename(&fresh, VISITS)?;
    File::open(Path::new(VISITS).parent().unwrap_or(Path::new("/")))?.sync_all()?;
    Ok(before + 1)
}

fn greeting() -> Vec<u8> {
    let env = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let greeting = env("GREETING", "hello");
    let (instance, release) = (env("HOLM_INSTANCE", "no instance"), env("HOLM_RELEASE", "no release"));
    format!("{greeting} from {instance}, {release}\n").into_bytes()
}

fn respond(mut stream: &TcpStream, status: &str, keep: bool, body: &[u8]) -> io::Result<()> {
    let connection = if keep { "keep-alive" } else { "close" };
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}
