//! Running the program and reading what it says.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use stek_clock::{Clock, SystemClock};

/// How long anything may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn stekd(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stekd"))
        .args(arguments)
        .env_remove("STEKD_PROFILE")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

pub(crate) fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn shown(output: &Output) -> String {
    assert_eq!(status(output), 0, "{}", said(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The lines of `pipe`, as they come.
pub(crate) fn lines_of(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        // Ends with the process; a test that has ended listens no more.
        BufReader::new(pipe).lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
    });
    lines
}

/// Shows what a process that has ended logged, if the test has failed.
#[allow(clippy::print_stderr, reason = "it is shown with the test that failed")]
pub(crate) fn show_if_failed(process: &str, log: impl Iterator<Item = String>) {
    if std::thread::panicking() {
        eprintln!("{process} logged:\n{}", log.collect::<Vec<_>>().join("\n"));
    }
}

/// Ends a process as an operator does; it must end well. One that has just said where it listens
/// may not look for signals yet.
pub(crate) fn terminate(child: &mut Child) {
    let end = SystemClock.boot() + PATIENCE;
    while !catches_sigterm(child.id()) {
        assert!(SystemClock.boot() < end, "it looks for signals");
        std::thread::yield_now();
    }
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert!(child.wait().unwrap().success());
}

/// Whether a process has a handler for SIGTERM by now.
fn catches_sigterm(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("it runs");
    u64::from_str_radix(caught.trim(), 16).unwrap() & 1 << (15 - 1) != 0
}

/// Connects with OpenSSL to `localhost:port`, offering the session in `session` if `offer` says so
/// and keeping the new one; returns what the server said and the key name of the ticket.
pub(crate) fn visit(
    port: &str,
    authority: &Path,
    session: &Path,
    offer: Offer,
) -> (String, String) {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-tls1_3", "-ign_eof", "-connect"]).arg(format!("localhost:{port}"));
    command.arg("-CAfile").arg(authority).arg("-sess_out").arg(session);
    if offer == Offer::Session {
        command.arg("-sess_in").arg(session);
    }
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // If it does not listen, what it says tells why.
    let _ = std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"GET / HTTP/1.0\r\n\r\n");
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = text.lines().rev().find(|line| line.ends_with(" handshake"));
    let all = || format!("{text}{}", String::from_utf8_lossy(&output.stderr));
    let said = said.map_or_else(all, |line| line.trim().to_owned());
    let shown = Command::new("openssl")
        .args(["sess_id", "-noout", "-text", "-in"])
        .arg(session)
        .output()
        .unwrap();
    let ticket = String::from_utf8_lossy(&shown.stdout).into_owned();
    let name = ticket.lines().find_map(|line| line.trim().strip_prefix("0000 - "));
    (said, name.map_or(String::new(), |name| name[..47].to_owned()))
}

/// What a client brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// Nothing.
    Nothing,
    /// The session that it kept.
    Session,
}
