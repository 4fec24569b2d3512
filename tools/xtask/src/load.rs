//! A client that keeps on asking, whatever else happens: requests at a fixed rate, each on a connection of its own, and
//! connections that are kept and carry many requests. Every one that fails is told.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::client;
use crate::site::loopback;

/// Longest wait for a connection or an answer: longer is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connections that are kept at the same time, for how long, and the rest between two requests. A busy host answers late: what
/// ends them is time, so that no connection outlives what an instance that is drained allows.
const KEPT: usize = 4;
const KEPT_FOR: Duration = Duration::from_secs(2);
const REST: Duration = Duration::from_millis(50);

/// Requests that may be unanswered at the same time; more means that the app hangs.
const MOST_OPEN: u64 = 1000;

#[derive(Debug, Default)]
struct Books {
    stop: AtomicBool,
    open: AtomicU64,
    one_shot: AtomicU64,
    kept: AtomicU64,
    requests: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Books {
    fn fail(&self, what: &str, error: &anyhow::Error) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{what}: {error:#}"));
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// Clients that are asking.
#[derive(Debug)]
pub struct Load {
    books: Arc<Books>,
    threads: Vec<JoinHandle<()>>,
}

/// What became of the requests.
#[derive(Debug)]
pub struct Outcome {
    /// Connections for one request each.
    pub one_shot: u64,
    /// Connections that carried many.
    pub kept: u64,
    /// Requests on those.
    pub requests: u64,
    /// What failed, a line each.
    pub failures: Vec<String>,
}

impl Outcome {
    /// # Errors
    /// When a connection failed, or nobody asked anything.
    pub fn check(&self) -> Result<()> {
        let Self { one_shot, kept, requests, failures } = self;
        let first = failures.first().map(String::as_str).unwrap_or_default();
        ensure!(
            failures.is_empty(),
            "{} failures in {one_shot} and {kept} connections; the first: {first}",
            failures.len()
        );
        ensure!(*one_shot > 0 && *kept > 0 && *requests > 0, "nobody asked anything: {self:?}");
        Ok(())
    }
}

impl Load {
    /// Begins to ask `[::1]:port`: `per_second` requests on connections of their own, at that rate whether or not earlier
    /// ones were answered, and a few connections that are kept for about two seconds each.
    #[must_use]
    pub fn start(port: u16, per_second: u32) -> Self {
        let books = Arc::new(Books::default());
        let mut threads: Vec<_> = (0..KEPT)
            .map(|_| {
                let books = Arc::clone(&books);
                std::thread::spawn(move || keep_asking(&books, port))
            })
            .collect();
        let paced = Arc::clone(&books);
        threads.push(std::thread::spawn(move || pace(&paced, port, per_second.max(1))));
        Self { books, threads }
    }

    /// How many have failed so far.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.books.failures.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Stops asking, waits for what is still open, and tells what became of it.
    ///
    /// # Errors
    /// When a client panicked.
    pub fn end(self) -> Result<Outcome> {
        self.books.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().ok().context("a client panicked")?;
        }
        let deadline = Instant::now() + 2 * PATIENCE;
        while self.books.open.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let books = &self.books;
        ensure!(books.open.load(Ordering::Acquire) == 0, "requests are still open long after their time");
        let failures = std::mem::take(&mut *books.failures.lock().unwrap_or_else(PoisonError::into_inner));
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ok(Outcome {
            one_shot: count(&books.one_shot),
            kept: count(&books.kept),
            requests: count(&books.requests),
            failures,
        })
    }
}

/// An open loop: each request has its time, and nobody waits for the one before.
fn pace(books: &Arc<Books>, port: u16, per_second: u32) {
    let begun = Instant::now();
    for nth in 0_u32.. {
        let due = begun + Duration::from_secs(1) * nth / per_second;
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            std::thread::park_timeout(left);
        }
        if !books.goes_on() {
            return;
        }
        if books.open.fetch_add(1, Ordering::AcqRel) >= MOST_OPEN {
            books.open.fetch_sub(1, Ordering::AcqRel);
            books.fail("one request", &anyhow::anyhow!("{MOST_OPEN} requests are unanswered"));
            continue;
        }
        books.one_shot.fetch_add(1, Ordering::Relaxed);
        let books = Arc::clone(books);
        std::thread::spawn(move || {
            if let Err(error) = client::get(port, "/") {
                books.fail("one request", &error);
            }
            books.open.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

fn keep_asking(books: &Books, port: u16) {
    while books.goes_on() {
        books.kept.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = one_connection(books, port) {
            books.fail("a kept connection", &error);
            // An app that is gone would make a busy loop of this.
            std::thread::park_timeout(REST);
        }
    }
}

/// Requests on one connection, until its time is over or the app says that it closes.
fn one_connection(books: &Books, port: u16) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&loopback(port), PATIENCE).context("cannot connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let begun = Instant::now();
    for nth in 0_u32.. {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: holm\r\n\r\n")
            .with_context(|| format!("cannot send request {nth}"))?;
        let closes = answer(&mut answers).with_context(|| format!("no answer to request {nth}"))?;
        books.requests.fetch_add(1, Ordering::Relaxed);
        if closes || !books.goes_on() || begun.elapsed() >= KEPT_FOR {
            break;
        }
        std::thread::park_timeout(REST);
    }
    Ok(())
}

/// Reads one answer; says whether the server closes the connection after it.
fn answer(stream: &mut impl BufRead) -> Result<bool> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    ensure!(line.split(' ').nth(1) == Some("200"), "the answer is `{}`", line.trim());
    let (mut length, mut closes) = (0, false);
    loop {
        line.clear();
        ensure!(stream.read_line(&mut line)? > 0, "the answer ends in its head");
        let field = line.trim().to_ascii_lowercase();
        match field.split_once(':') {
            None if field.is_empty() => break,
            Some(("content-length", value)) => length = value.trim().parse().context("a length that is no number")?,
            Some(("connection", value)) => closes = value.trim() == "close",
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(closes)
}
