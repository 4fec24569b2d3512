//! A second Holm on one state folder: refused while the first one lives.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, timeout_at};

/// How long the socket of a Holm that is gone may still be held.
const PATIENCE: Duration = Duration::from_secs(5);

/// Says plainly that Holm runs already: the locks in the state folder would say so in other words. One that was killed may
/// have left a process that it was just starting, which has its socket and its locks until it is the program it becomes.
pub(super) async fn refuse(state_dir: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while let Ok(connection) = holm_api::socket::connect(state_dir).await {
        if holder_lives(state_dir) || Instant::now() >= deadline {
            bail!("a Holm runs there already; `holm down --keep-instances` ends it and leaves its microVMs running");
        }
        // Nobody will ever accept it: it ends when the last holder of the socket lets go.
        let _ = timeout_at(deadline, connection.readable()).await;
    }
    Ok(())
}

/// Whether the process lives whose number is in the lock of the state folder; also when that cannot be told.
fn holder_lives(state_dir: &Path) -> bool {
    let number = std::fs::read_to_string(state_dir.join("holm.lock")).ok();
    let number = number.and_then(|number| number.trim().parse().ok());
    number.is_none_or(|number| holm_process::lives(number).unwrap_or(true))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_holm_that_lives_refuses_and_one_that_left_its_socket_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        refuse(folder.path()).await.unwrap();
        let left = UnixListener::bind(folder.path().join("holm.sock")).unwrap();
        let said = refuse(folder.path()).await.unwrap_err().to_string();
        assert!(said.contains("a Holm runs there already"), "{said}: nobody knows whose socket it is");
        let lock = folder.path().join("holm.lock");
        std::fs::write(&lock, format!("{}\n", std::process::id())).unwrap();
        refuse(folder.path()).await.unwrap_err();
        std::fs::write(&lock, format!("{}\n", u32::MAX)).unwrap();
        let mut asked = Box::pin(refuse(folder.path()));
        std::future::poll_fn(|context| match asked.as_mut().poll(context) {
            std::task::Poll::Pending => std::task::Poll::Ready(()),
            ended => panic!("somebody still has the socket: {ended:?}"),
        })
        .await;
        drop(left);
        asked.await.unwrap();
    }
}
