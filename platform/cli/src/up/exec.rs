//! A command inside an instance: the API's frames on one side, the guest's on the other.

use holm_agent::{AgentError, AgentHandle};
use holm_api::exec::{ExecExit, ExecInput, ExecOutput, ExecRequest, ExecSession, QUEUE};
use holm_api::problem::Problem;
use holm_guest_control::{ExitStatus, Terminal};
use holm_model::id::InstanceName;
use tokio::sync::mpsc;

/// Starts the command and couples both sides until it ends or the user goes away.
pub(super) async fn start(
    agent: &AgentHandle,
    instance: &InstanceName,
    request: ExecRequest,
) -> Result<ExecSession, Problem> {
    let terminal = request.tty.map(|tty| Terminal { rows: tty.size.rows, cols: tty.size.columns, term: tty.term });
    let wanted = holm_guest_control::ExecRequest { command: request.command, terminal, ..Default::default() };
    let guest = agent.exec(instance, wanted).await.map_err(problem)?;
    let (input, from_user) = mpsc::channel(QUEUE);
    let (to_user, output) = mpsc::channel(QUEUE);
    tokio::spawn(pass_input(from_user, guest.input, request.stdin));
    tokio::spawn(pass_output(guest.output, to_user, instance.clone()));
    Ok(ExecSession { input, output })
}

fn problem(error: AgentError) -> Problem {
    let text = error.to_string();
    match error {
        AgentError::UnknownInstance(_) => Problem::not_found(text),
        AgentError::NotRunning { .. } => Problem::unavailable(text),
        _ => Problem::failed(text),
    }
}

/// Passes on what the user types. When the user is gone the guest's side is dropped, which ends the command's input.
async fn pass_input(
    mut from_user: mpsc::Receiver<ExecInput>,
    to_guest: mpsc::Sender<holm_agent::ExecInput>,
    has_stdin: bool,
) {
    use holm_agent::ExecInput as To;
    if !has_stdin && to_guest.send(To::Eof).await.is_err() {
        return;
    }
    while let Some(input) = from_user.recv().await {
        let input = match input {
            ExecInput::Stdin(bytes) => To::Data(bytes),
            ExecInput::StdinEnd => To::Eof,
            ExecInput::Resize(size) => To::Resize { rows: size.rows, cols: size.columns },
            ExecInput::Signal(number) => To::Signal(i32::from(number)),
        };
        if to_guest.send(input).await.is_err() {
            return;
        }
    }
}

async fn pass_output(
    mut from_guest: mpsc::Receiver<holm_agent::ExecOutput>,
    to_user: mpsc::Sender<ExecOutput>,
    instance: InstanceName,
) {
    use holm_agent::ExecOutput as From;
    while let Some(output) = from_guest.recv().await {
        let (output, last) = match output {
            From::Stdout(bytes) => (ExecOutput::Stdout(bytes), false),
            From::Stderr(bytes) => (ExecOutput::Stderr(bytes), false),
            From::Exited(status) => (exited(&status), true),
        };
        if to_user.send(output).await.is_err() || last {
            return;
        }
    }
    let lost = Problem::failed(format!("the connection to {instance} ended before the command did"));
    // An error: the user is gone too.
    let _ = to_user.send(ExecOutput::Failed(lost)).await;
}

fn exited(status: &ExitStatus) -> ExecOutput {
    let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    match status {
        ExitStatus::Code(code) => ExecOutput::Exit(ExecExit::Code(byte(*code))),
        ExitStatus::Signal(signal) => ExecOutput::Exit(ExecExit::Signal(byte(*signal))),
    }
}
