//! The tests' agent for tests in other languages: `console SOCKET`, then a command a line on stdin, an answer a line on
//! stdout. It ends with its input.
//!
//! | command | answer |
//! | --- | --- |
//! | `hint WORKER REASON` | waits until the worker is running; the hint's number |
//! | `line WORKER` | waits until the worker is running or parked; its line as JSON |
//! | `measured WORKER OFF_CPU_NS WAIT_NS SWITCHES` | `done` |
//! | `workers` | the names of the registered workers as JSON |

use std::io::{BufRead, Error, Write, stdin, stdout};
use std::path::Path;

use morpheus_abi::{Reason, WorkerState, YieldCause};
use morpheus_fake_agent::{FakeAgent, Manner};

fn answer(agent: &FakeAgent, command: &str) -> Option<String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    Some(match words[..] {
        ["hint", worker, reason] => {
            let reason = Reason::ALL.iter().find(|known| known.name() == reason)?;
            agent.raise(&agent.running(worker), *reason).to_string()
        }
        ["line", worker] => {
            let line = agent.runtime_line(&agent.running_or_parked(worker));
            let yields = YieldCause::ALL.iter().zip(line.yields).filter(|(_, count)| *count > 0);
            let yields: Vec<String> = yields.map(|(cause, count)| format!("\"{cause}\": {count}")).collect();
            format!(
                "{{\"ack_seq\": {}, \"critical_depth\": {}, \"escapable\": {}, \"escalation_policy\": {}, \
                 \"state\": \"{}\", \"yields\": {{{}}}}}",
                line.ack_seq,
                line.critical_depth,
                line.escapable,
                line.escalation_policy,
                WorkerState::from_number(line.state)?,
                yields.join(", ")
            )
        }
        ["measured", worker, off_cpu_ns, wait_ns, switches] => {
            let seat = agent.running_or_parked(worker);
            agent.measured(&seat, off_cpu_ns.parse().ok()?, wait_ns.parse().ok()?, switches.parse().ok()?);
            "done".to_owned()
        }
        ["workers"] => {
            let names =
                agent.seats().iter().map(|seat| format!("{:?}", seat.registration.name.as_str())).collect::<Vec<_>>();
            format!("[{}]", names.join(", "))
        }
        _ => return None,
    })
}

fn main() -> std::io::Result<()> {
    let socket = std::env::args().nth(1).ok_or_else(|| Error::other("usage: console SOCKET"))?;
    let agent = FakeAgent::start_at(Path::new(&socket), Manner::Proper);
    writeln!(stdout(), "listening")?;
    for command in stdin().lock().lines() {
        let command = command?;
        let answer = answer(&agent, &command).ok_or_else(|| Error::other(format!("what is `{command}`?")))?;
        writeln!(stdout(), "{answer}")?;
    }
    Ok(())
}
