//! A real HAProxy: the one on this machine, else one that is installed now. It ends with the value,
//! and with the test process however that ends.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::installed::{self, WATCHDOG};

/// A running HAProxy.
pub(crate) struct Haproxy {
    port: u16,
    log: PathBuf,
    watchdog: Child,
}

impl Haproxy {
    /// Serves with the certificate in `tls`, keeping its files in `dir`; `global` goes into that
    /// section of its configuration and `bind` to its listener.
    pub(crate) fn start(dir: &Path, tls: &Path, global: &str, bind: &str) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        // It wants certificate and key in one file.
        let [certificate, key] = ["server.pem", "server.key"]
            .map(|name| std::fs::read_to_string(tls.join(name)).unwrap());
        let both = dir.join("both.pem");
        std::fs::write(&both, certificate + &key).unwrap();
        let config = dir.join("haproxy.cfg");
        let text = format!(
            "global\n {global}\ndefaults\n mode http\n timeout client 1m\n timeout server 1m\n \
             timeout connect 1m\nfrontend tls\n bind fd@1 ssl crt {} {bind}\n \
             http-request return status 200\n",
            both.display()
        );
        std::fs::write(&config, text).unwrap();
        // The listener is ours, at a port that nobody else gets, and already takes connections. Its
        // place is that of standard output, of which HAProxy makes no use.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let log = dir.join("log");
        let watchdog = Command::new("/bin/sh")
            .args(["-c", WATCHDOG, "stek-haproxy-watchdog"])
            .arg(installed::program("haproxy", "haproxy"))
            .args(["-db", "-f"])
            .arg(config)
            .stdin(Stdio::piped())
            .stdout(OwnedFd::from(listener))
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { port, log, watchdog }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }
}

impl Drop for Haproxy {
    #[allow(clippy::print_stdout, reason = "a test that failed shows what HAProxy said")]
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
        if std::thread::panicking() {
            println!("HAProxy: {}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}
