//! What the process does on a signal: the first SIGTERM or SIGINT drains, the second ends at once,
//! SIGHUP reloads.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The operating system refused a signal handler.
#[derive(Debug, thiserror::Error)]
#[error("cannot install a handler for {signal}")]
pub struct SignalError {
    /// Name of the signal.
    pub signal: &'static str,
    /// What the operating system said.
    pub source: io::Error,
}

/// A signal that means something to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Received {
    Terminate,
    Interrupt,
    Hangup,
}

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Drain,
    /// End with this status, 128 + the signal's number as shells have it.
    Exit(i32),
    Reload,
}

/// Installs handlers for SIGTERM, SIGINT and SIGHUP before it returns, then reacts to them in a
/// task of its own:
///
/// - the first SIGTERM or SIGINT cancels `shutdown`;
/// - the second ends the process at once, with status 143 (SIGTERM) or 130 (SIGINT) and without
///   running destructors;
/// - SIGHUP calls `reload`, which logs its own failures. It runs on a worker thread, so reading a few
///   small files is fine and anything longer is not.
///
/// Signals that come faster than they are handled may be taken for one, as the operating system
/// itself does. The handlers stay when the task is aborted: SIGTERM then does nothing.
///
/// # Errors
///
/// [`SignalError`] if the operating system refuses a handler.
///
/// # Panics
///
/// Outside a tokio runtime with I/O enabled.
pub fn shutdown_signal<F>(
    shutdown: CancellationToken,
    mut reload: F,
) -> Result<JoinHandle<()>, SignalError>
where
    F: FnMut() + Send + 'static,
{
    let install = |name, kind| signal(kind).map_err(|source| SignalError { signal: name, source });
    let mut terminate = install("SIGTERM", SignalKind::terminate())?;
    let mut interrupt = install("SIGINT", SignalKind::interrupt())?;
    let mut hangup = install("SIGHUP", SignalKind::hangup())?;
    Ok(tokio::spawn(async move {
        let mut reaction = Reaction::Serving;
        loop {
            let received = tokio::select! {
                _ = terminate.recv() => Received::Terminate,
                _ = interrupt.recv() => Received::Interrupt,
                _ = hangup.recv() => Received::Hangup,
            };
            match reaction.to(received) {
                Action::Drain => {
                    tracing::info!(signal = ?received, "draining; a second signal ends at once");
                    shutdown.cancel();
                }
                Action::Exit(status) => {
                    tracing::warn!(signal = ?received, status, "ending without waiting for the drain");
                    std::process::exit(status);
                }
                Action::Reload => {
                    tracing::info!(signal = ?received, "reloading");
                    reload();
                }
            }
        }
    }))
}

/// Whether a signal to end has been seen.
#[derive(Debug)]
enum Reaction {
    Serving,
    Draining,
}

impl Reaction {
    fn to(&mut self, received: Received) -> Action {
        let number = match received {
            Received::Hangup => return Action::Reload,
            Received::Interrupt => 2,
            Received::Terminate => 15,
        };
        match std::mem::replace(self, Self::Draining) {
            Self::Serving => Action::Drain,
            Self::Draining => Action::Exit(128 + number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Lines};
    use std::process::{ChildStdout, Command, Stdio};

    use rustix::process::{Pid, Signal, kill_process};

    #[test]
    fn the_first_signal_drains_and_the_second_exits() {
        use Received::{Hangup, Interrupt, Terminate};
        for (first, second, status) in [
            (Terminate, Terminate, 143),
            (Terminate, Interrupt, 130),
            (Interrupt, Interrupt, 130),
            (Interrupt, Terminate, 143),
        ] {
            let mut reaction = Reaction::Serving;
            assert_eq!(reaction.to(Hangup), Action::Reload);
            assert_eq!(reaction.to(first), Action::Drain);
            assert_eq!(reaction.to(Hangup), Action::Reload);
            assert_eq!(reaction.to(second), Action::Exit(status));
        }
    }

    const MINUTE: std::time::Duration = std::time::Duration::from_secs(60);
    const CHILD: &str = "STEK_HTTP_SIGNAL_CHILD";

    /// Not a test of its own: the process to which `real_signals_arrive` sends signals.
    #[test]
    fn child() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let reaction = async {
            let shutdown = CancellationToken::new();
            let task = shutdown_signal(shutdown.clone(), || println!("\nreload")).unwrap();
            println!("\ninstalled");
            shutdown.cancelled().await;
            println!("\ndraining");
            task.await.unwrap();
        };
        // Bounded, so that a signal that does not arrive fails the test instead of hanging it.
        let _ = runtime.block_on(async { tokio::time::timeout(MINUTE, reaction).await });
    }

    fn wait_for(lines: &mut Lines<BufReader<ChildStdout>>, expected: &str) {
        let found = lines.any(|line| line.unwrap() == expected);
        assert!(found, "the child ended without saying {expected}");
    }

    #[test]
    fn real_signals_arrive() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "signals::tests::child", "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let pid = Pid::from_child(&child);
        wait_for(&mut lines, "installed");
        kill_process(pid, Signal::HUP).unwrap();
        wait_for(&mut lines, "reload");
        kill_process(pid, Signal::TERM).unwrap();
        wait_for(&mut lines, "draining");
        kill_process(pid, Signal::INT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
    }
}
