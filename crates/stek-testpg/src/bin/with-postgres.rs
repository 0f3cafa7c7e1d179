//! `with-postgres -- COMMAND ARGUMENTS…`: runs a command with `STEK_TEST_DATABASE_URL` set to a
//! PostgreSQL that lasts as long as the command, and ends with the command's status.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use stek_testpg::{DATABASE_URL_VARIABLE, PostgresServer};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: with-postgres -- COMMAND [ARGUMENT]...";

/// `EX_USAGE` and `EX_UNAVAILABLE` of sysexits(3).
const EXIT_USAGE: u8 = 64;
const EXIT_NO_SERVER: u8 = 69;
/// What a shell returns for a command that cannot be run, and adds to the number of a signal.
const EXIT_CANNOT_RUN: u8 = 127;
const EXIT_SIGNAL: i32 = 128;

#[expect(clippy::print_stderr, reason = "the messages of a command-line program")]
fn main() -> ExitCode {
    let Some((program, arguments)) = command_line(std::env::args_os().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(EXIT_USAGE);
    };
    // Until the command runs, signals end this process, and thereby the server.
    let server = match PostgresServer::start() {
        Ok(server) => server,
        Err(error) => {
            eprintln!("postgres: {error:#}");
            return ExitCode::from(EXIT_NO_SERVER);
        }
    };
    eprintln!("postgres: {}", server.description());
    let mut command = Command::new(&program);
    command.args(arguments).env(DATABASE_URL_VARIABLE, server.url());
    let outcome = run(command);
    drop(server);
    match outcome {
        Ok(status) => exit_code(status),
        Err(error) => {
            eprintln!("with-postgres: {}: {error:#}", program.to_string_lossy());
            ExitCode::from(EXIT_CANNOT_RUN)
        }
    }
}

/// The program and its arguments, after an optional `--`.
fn command_line(
    mut arguments: impl Iterator<Item = OsString>,
) -> Option<(OsString, Vec<OsString>)> {
    let first = arguments.next()?;
    let program = if first == "--" {
        arguments.next()?
    } else if first.as_encoded_bytes().starts_with(b"-") {
        return None;
    } else {
        first
    };
    Some((program, arguments.collect()))
}

#[tokio::main(flavor = "current_thread")]
async fn run(mut command: Command) -> anyhow::Result<ExitStatus> {
    // Not SIGHUP: it ends this process and thereby the server, unless nohup(1) wants otherwise.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut child = command.spawn().context("cannot run")?;
    // A terminal signals its whole foreground group. To repeat that would look like a second
    // Ctrl-C, which many programs take for "at once".
    let from_terminal = std::io::stdin().is_terminal() || std::io::stderr().is_terminal();
    loop {
        tokio::select! {
            status = child.wait() => return Ok(status?),
            Some(()) = terminate.recv() => forward(&child, Signal::TERM),
            Some(()) = interrupt.recv() => if !from_terminal { forward(&child, Signal::INT) },
        }
    }
}

/// Best effort: a command that ended has no use for the signal, and one that runs as another user
/// may not be signalled.
fn forward(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid {
        let _ = kill_process(pid, signal);
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|number| EXIT_SIGNAL + number));
    code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Option<(OsString, Vec<OsString>)> {
        command_line(arguments.iter().map(OsString::from))
    }

    #[test]
    fn the_separator_is_optional_and_options_are_refused() {
        let expected = Some((OsString::from("cargo"), vec![OsString::from("test")]));
        assert_eq!(parse(&["--", "cargo", "test"]), expected);
        assert_eq!(parse(&["cargo", "test"]), expected);
        for refused in [&[][..], &["--"], &["--help"], &["-v", "cargo"]] {
            assert_eq!(parse(refused), None, "{refused:?}");
        }
    }

    #[test]
    fn a_signal_becomes_the_status_of_a_shell() {
        let killed = ExitStatus::from_raw(9);
        assert_eq!(format!("{:?}", exit_code(killed)), format!("{:?}", ExitCode::from(137)));
        let seven = ExitStatus::from_raw(7 << 8);
        assert_eq!(format!("{:?}", exit_code(seven)), format!("{:?}", ExitCode::from(7)));
    }
}
