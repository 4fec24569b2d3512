//! What observe mode costs threads that are no workers: two threads pass a byte to and fro over pipes on one CPU, while a
//! third, asleep, is registered (programs attached) or not (detached), in pairs whose order is reversed each time.
//!
//! `morpheusd observe --socket S &  cargo run --release -p morpheus-agent --example switch_cost -- S [PAIRS]`
//!
//! CPU time of the process is counted, not wall time, so that others on the machine disturb less. A further arm of pairs
//! without any difference gives the noise floor.

use std::io::{Read, Write};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context;
use morpheus_abi::protocol::{MAX_MESSAGE, Message, Registration, WorkerName};
use morpheus_abi::{ABI_VERSION, EscalationPolicy};
use morpheus_agent::server::operator;
use rustix::thread::{CpuSet, gettid, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

const WINDOW: Duration = Duration::from_millis(50);

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

/// CPU ns for each of the two switches of a round trip.
fn window(near: &mut std::io::PipeReader, far: &mut std::io::PipeWriter) -> anyhow::Result<f64> {
    let (begin, cpu) = (Instant::now(), cpu_ns());
    let mut rounds = 0u32;
    let mut byte = [0];
    while begin.elapsed() < WINDOW {
        for _ in 0..100 {
            far.write_all(&byte)?;
            near.read_exact(&mut byte)?;
        }
        rounds += 100;
    }
    Ok((cpu_ns() - cpu) / f64::from(rounds) / 2.0)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context("usage: switch_cost SOCKET [PAIRS]")?;
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
        name: WorkerName::new("asleep"),
    };

    let mut cpu = CpuSet::new();
    cpu.set(0);
    let (mut near, mut there) = std::io::pipe()?;
    let (mut here, mut far) = std::io::pipe()?;
    let stop = std::sync::Arc::new(AtomicBool::new(false));
    let echo = std::thread::spawn({
        let stop = std::sync::Arc::clone(&stop);
        move || -> anyhow::Result<()> {
            sched_setaffinity(None, &cpu)?;
            let mut byte = [0];
            while !stop.load(Relaxed) {
                here.read_exact(&mut byte)?;
                there.write_all(&byte)?;
            }
            Ok(())
        }
    });
    sched_setaffinity(None, &cpu)?;
    window(&mut near, &mut far)?;

    let mut measure = |attached: bool| -> anyhow::Result<f64> {
        if !attached {
            return window(&mut near, &mut far);
        }
        let Message::Registered { slot, slot_generation } = ask(&socket, &Message::Register(registration))? else {
            anyhow::bail!("not registered");
        };
        let cost = window(&mut near, &mut far);
        ask(&socket, &Message::Unregister { slot, slot_generation })?;
        cost
    };
    for (name, second) in [("A/A", false), ("attached", true)] {
        let (mut base, mut difference) = (Vec::new(), Vec::new());
        for pair in 0..pairs {
            let (off, on) = if pair % 2 == 0 {
                let off = measure(false)?;
                (off, measure(second)?)
            } else {
                let on = measure(second)?;
                (measure(false)?, on)
            };
            base.push(off);
            difference.push(on - off);
        }
        let higher = difference.iter().filter(|ns| **ns > 0.0).count();
        let base = median(&mut base);
        let cost = median(&mut difference);
        let (low, high) = (difference[pairs / 4], difference[pairs * 3 / 4]);
        writeln!(
            std::io::stdout(),
            "{name:<9} {base:7.1} ns/switch, {cost:+6.1} ns (quartiles {low:+.1} … {high:+.1}), higher in {higher} of {pairs}"
        )?;
    }
    stop.store(true, Relaxed);
    far.write_all(&[0])?;
    echo.join().expect("the other thread does not panic")?;
    Ok(())
}
