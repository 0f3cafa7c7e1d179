//! A real nginx: the one on this machine, else one that is installed now. What was started for a
//! test ends with the test process, however that process ends.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::installed::{self, WATCHDOG};
use crate::process::PATIENCE;

/// nginx does not choose ports itself, so another process may be faster.
const ATTEMPTS: usize = 20;

/// A running nginx.
pub(crate) struct Nginx {
    port: u16,
    watchdog: Child,
}

impl Nginx {
    /// Serves with the certificate in `tls`, keeping its files in `dir`; `more` goes into its
    /// configuration of TLS.
    pub(crate) fn start(dir: &Path, tls: &Path, more: &str) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let program = installed::program("nginx", "nginx-light");
        (0..ATTEMPTS).find_map(|_| Self::attempt(&program, dir, tls, more)).expect("nginx starts")
    }

    fn attempt(program: &Path, dir: &Path, tls: &Path, more: &str) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (here, tls) = (dir.display(), tls.display());
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {here}/{kind};"))
            .collect();
        let config = format!(
            "daemon off; master_process off; pid {here}/pid; error_log {here}/error.log;\n\
             events {{}}\nhttp {{ access_log off; {temporary}\n\
             server {{ listen 127.0.0.1:{port} ssl; ssl_protocols TLSv1.2 TLSv1.3;\n\
             ssl_certificate {tls}/server.pem; ssl_certificate_key {tls}/server.key;\n\
             {more} }} }}\n"
        );
        std::fs::write(dir.join("nginx.conf"), config).unwrap();
        let watchdog = Command::new("/bin/sh")
            .args(["-c", WATCHDOG, "stek-nginx-watchdog"])
            .arg(program)
            .arg("-c")
            .arg(dir.join("nginx.conf"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let nginx = Self { port, watchdog };
        // It writes its number once it listens.
        let pid = dir.join("pid");
        until(|| pid.exists() || refused(dir));
        (!refused(dir)).then_some(nginx)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// Whether the port was taken; anything else that is wrong fails the test with nginx's own words.
fn refused(dir: &Path) -> bool {
    let log = std::fs::read_to_string(dir.join("error.log")).unwrap_or_default();
    let taken = log.contains("Address already in use");
    assert!(taken || !log.contains("[emerg]"), "{log}");
    taken
}

/// Waits for `condition`, within reason.
fn until(condition: impl Fn() -> bool) {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    for _ in 0..PATIENCE.as_millis() / 10 {
        if condition() {
            return;
        }
        // Nothing is ever sent: this is a pause.
        let _ = receiver.recv_timeout(std::time::Duration::from_millis(10));
    }
    drop(sender);
    panic!("nginx neither listens nor ends");
}
