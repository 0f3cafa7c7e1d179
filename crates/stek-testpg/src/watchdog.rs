//! A shell that starts a server on our behalf and ends it when its standard input does. The pipe
//! closes with this process whatever ends the process, so SIGKILL leaves nothing behind either.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, bail};

use crate::account::Account;

/// The shell and our two ends of its pipes. Dropping it ends the server and waits for that.
///
/// Protocol: we write one order per line; the script answers each with one line, the exit status
/// of what it did, then optionally a space and a text.
#[derive(Debug)]
pub(crate) struct Watchdog {
    shell: Child,
    /// `None` once dropped.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Watchdog {
    /// Runs `script` with the arguments `$1`… as `account`, or as the user of this process.
    ///
    /// # Errors
    ///
    /// The shell does not start, for example because the user may not be changed.
    pub(crate) fn start(
        script: &str,
        arguments: &[&std::ffi::OsStr],
        account: Option<Account>,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script).arg("stek-testpg-watchdog").args(arguments);
        // Its own process group: Ctrl-C on the terminal ends us, then our end of the pipe.
        command.process_group(0).current_dir("/").env("LC_ALL", "C");
        // PGDATA, PGPORT and the like are meant for other servers.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        if let Some(Account { uid, gid }) = account {
            command.uid(uid).gid(gid);
        }
        // No descriptor of ours: whoever waits for the end of our output must not wait for it.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut shell = command.spawn().context("cannot start the watchdog of the server")?;
        let orders = shell.stdin.take();
        let answers = shell.stdout.take().context("the watchdog has no output")?;
        Ok(Self { shell, orders, answers: BufReader::new(answers) })
    }

    /// Has one order carried out and returns the text of the answer.
    ///
    /// # Errors
    ///
    /// The script reports a failure, or has ended.
    pub(crate) fn order(&mut self, order: &str) -> anyhow::Result<String> {
        let orders = self.orders.as_mut().context("the watchdog has been dismissed")?;
        orders
            .write_all(format!("{order}\n").as_bytes())
            .context("the watchdog of the server has ended")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).context("cannot read from the watchdog")?;
        let (status, text) = answer.trim_end().split_once(' ').unwrap_or((answer.trim_end(), ""));
        match status {
            "0" => Ok(text.to_owned()),
            "" => bail!("the watchdog of the server ended during `{order}`"),
            _ => bail!("`{order}` failed with status {status}"),
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.orders.take());
        // Nothing to do about a failure: the shell has ended either way.
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECHO: &str = r#"while read -r status text; do echo "$status $text"; done"#;

    #[test]
    fn answers_carry_a_status_and_a_text() {
        let mut watchdog = Watchdog::start(ECHO, &[], None).unwrap();
        assert_eq!(watchdog.order("0 some text").unwrap(), "some text");
        assert_eq!(watchdog.order("0").unwrap(), "");
        let error = watchdog.order("3 what").unwrap_err();
        assert_eq!(error.to_string(), "`3 what` failed with status 3");
    }

    #[test]
    fn an_early_end_is_an_error() {
        let mut watchdog = Watchdog::start("read -r order; exit 1", &[], None).unwrap();
        assert!(watchdog.order("start").unwrap_err().to_string().contains("ended during"));
    }

    #[test]
    fn drop_waits_for_the_script() {
        let directory = tempfile::tempdir().unwrap();
        let trace = directory.path().join("trace");
        let script = r#"while read -r order; do echo 0; done; echo ended >"$1""#;
        drop(Watchdog::start(script, &[trace.as_os_str()], None).unwrap());
        assert_eq!(std::fs::read_to_string(trace).unwrap(), "ended\n");
    }
}
