//! What observe mode costs threads that are no workers, while a third one, asleep, is registered (programs attached) or not
//! (detached), in pairs whose order is reversed each time. Two workloads:
//!
//! - `pipe`: two threads pass a byte to and fro over pipes on one CPU, for 50 ms; ns per switch.
//! - `crowd`: what hackbench does: 20 threads send 100 messages of 100 bytes to each of 20 others, over socket pairs; ms.
//!
//! `morpheusd observe --socket S &  cargo run --release -p morpheus-agent --example bystander -- S WORKLOAD [PAIRS]`
//!
//! Prints JSON: for each arm its pairs `[wall off, wall on, CPU off, CPU on]`. CPU time of the process is counted beside
//! wall time, since others on the machine disturb it less. The arm `noise` has pairs without any difference.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use anyhow::Context;
use morpheus_abi::protocol::{MAX_MESSAGE, Message, Registration, WorkerName};
use morpheus_abi::{ABI_VERSION, EscalationPolicy};
use morpheus_agent::server::operator;
use rustix::thread::{CpuSet, gettid, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

const WINDOW: Duration = Duration::from_millis(50);
/// Senders, and as many receivers.
const CROWD: usize = 20;
/// Messages from each sender to each receiver.
const MESSAGES: usize = 100;
const MESSAGE: [u8; 100] = [7; 100];

fn ask(socket: &std::os::fd::OwnedFd, message: &Message) -> anyhow::Result<Message> {
    rustix::net::send(socket, &message.encode(), rustix::net::SendFlags::NOSIGNAL)?;
    let mut buffer = [0; MAX_MESSAGE + 1];
    let (length, _) = rustix::net::recv(socket, &mut buffer[..], rustix::net::RecvFlags::empty())?;
    Ok(Message::decode(&buffer[..length])?)
}

fn cpu_ns() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Wall and CPU time of one go.
type Cost = (f64, f64);

/// Two threads and their pipes.
struct Pipes {
    near: std::io::PipeReader,
    far: Option<std::io::PipeWriter>,
    stop: Arc<AtomicBool>,
    echo: Option<std::thread::JoinHandle<anyhow::Result<()>>>,
}

impl Pipes {
    fn new() -> anyhow::Result<Self> {
        let mut cpu = CpuSet::new();
        cpu.set(0);
        let (near, mut there) = std::io::pipe()?;
        let (mut here, far) = std::io::pipe()?;
        let stop = Arc::new(AtomicBool::new(false));
        let echo = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                sched_setaffinity(None, &cpu)?;
                let mut byte = [0];
                while !stop.load(Relaxed) && here.read(&mut byte)? > 0 {
                    there.write_all(&byte)?;
                }
                Ok(())
            }
        });
        sched_setaffinity(None, &cpu)?;
        Ok(Self { near, far: Some(far), stop, echo: Some(echo) })
    }

    /// ns for each of the two switches of a round trip.
    fn go(&mut self) -> anyhow::Result<Cost> {
        let far = self.far.as_mut().context("the pipe is open until the end")?;
        let (begin, cpu) = (Instant::now(), cpu_ns());
        let mut rounds = 0u32;
        let mut byte = [0];
        while begin.elapsed() < WINDOW {
            for _ in 0..100 {
                far.write_all(&byte)?;
                self.near.read_exact(&mut byte)?;
            }
            rounds += 100;
        }
        let switches = f64::from(rounds) * 2.0;
        Ok((begin.elapsed().as_nanos() as f64 / switches, (cpu_ns() - cpu) / switches))
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.far = None;
        let _ = self.echo.take().map(std::thread::JoinHandle::join);
    }
}

/// ms from the first message to the last one's arrival; the threads are ready before.
fn crowd() -> anyhow::Result<Cost> {
    let ready = Arc::new(Barrier::new(2 * CROWD + 1));
    let mut ends = Vec::new();
    let mut receivers = Vec::new();
    for _ in 0..CROWD {
        let (mut inner, outer) = UnixStream::pair()?;
        ends.push(outer);
        let ready = Arc::clone(&ready);
        receivers.push(std::thread::spawn(move || -> std::io::Result<()> {
            ready.wait();
            let mut buffer = MESSAGE;
            for _ in 0..CROWD * MESSAGES {
                inner.read_exact(&mut buffer)?;
            }
            Ok(())
        }));
    }
    let senders = (0..CROWD).map(|_| {
        let ends = ends.iter().map(UnixStream::try_clone).collect::<std::io::Result<Vec<_>>>()?;
        let ready = Arc::clone(&ready);
        Ok(std::thread::spawn(move || -> std::io::Result<()> {
            ready.wait();
            for _ in 0..MESSAGES {
                for mut end in &ends {
                    end.write_all(&MESSAGE)?;
                }
            }
            Ok(())
        }))
    });
    let senders = senders.collect::<anyhow::Result<Vec<_>>>()?;
    ready.wait();
    let (begin, cpu) = (Instant::now(), cpu_ns());
    for thread in receivers.into_iter().chain(senders) {
        thread.join().expect("the threads do not panic")?;
    }
    Ok((begin.elapsed().as_secs_f64() * 1e3, (cpu_ns() - cpu) / 1e6))
}

fn main() -> anyhow::Result<()> {
    let usage = "usage: bystander SOCKET pipe|crowd [PAIRS]";
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context(usage)?;
    let workload = arguments.next().context(usage)?;
    let pairs: usize = arguments.next().map_or(Ok(100), |pairs| pairs.parse())?;

    let socket = operator::dial(path.as_ref())?;
    ask(&socket, &Message::Hello { abi_version: ABI_VERSION })?;
    let (tell, told) = mpsc::channel();
    let (_end, ended) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        let _ = tell.send(gettid().as_raw_nonzero().get() as u32);
        let _ = ended.recv();
    });
    let registration = Registration {
        tid: told.recv()?,
        escapable: false,
        policy: EscalationPolicy::None,
        grace_ns: 0,
        rotation_ns: 0,
        name: WorkerName::new("asleep"),
    };
    let mut go: Box<dyn FnMut() -> anyhow::Result<Cost>> = match &*workload {
        "pipe" => {
            let mut pipes = Pipes::new()?;
            Box::new(move || pipes.go())
        }
        "crowd" => Box::new(crowd),
        _ => anyhow::bail!(usage),
    };
    go()?;
    let mut measure = |attached: bool| -> anyhow::Result<Cost> {
        if !attached {
            return go();
        }
        let Message::Registered { slot, slot_generation } = ask(&socket, &Message::Register(registration))? else {
            anyhow::bail!("not registered");
        };
        let cost = go();
        ask(&socket, &Message::Unregister { slot, slot_generation })?;
        cost
    };
    let mut arms = serde_json::Map::new();
    for (name, second) in [("noise", false), ("attached", true)] {
        let mut costs = Vec::new();
        for pair in 0..pairs {
            let (off, on) = if pair % 2 == 0 {
                let off = measure(false)?;
                (off, measure(second)?)
            } else {
                let on = measure(second)?;
                (measure(false)?, on)
            };
            costs.push([off.0, on.0, off.1, on.1]);
        }
        arms.insert(name.to_owned(), serde_json::to_value(costs)?);
    }
    writeln!(std::io::stdout(), "{}", serde_json::Value::Object(arms))?;
    Ok(())
}
