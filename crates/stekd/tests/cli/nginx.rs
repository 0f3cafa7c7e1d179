//! A real nginx: the one on this machine, else one that is installed now. What was started for a
//! test ends with the test process, however that process ends.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use crate::process::PATIENCE;

/// Ends the server when our end of the pipe closes, which it does whatever ends this process.
const WATCHDOG: &str = r#""$@" >/dev/null & server=$!; read -r _; kill -9 $server; wait"#;

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
        let program = program();
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

/// The server program, installed if need be and if that can be done.
fn program() -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    if let Some(program) = on_this_machine() {
        return program;
    }
    let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let debian = os_release
        .lines()
        .any(|line| line.starts_with("ID") && (line.contains("debian") || line.contains("ubuntu")));
    assert!(
        debian && rustix::process::geteuid().is_root(),
        "no nginx for the tests: install `nginx` (Debian and Ubuntu: `apt-get install nginx-light`)"
    );
    let lock = ["-o", "DPkg::Lock::Timeout=300"];
    // The package would start a service of its own at port 80.
    for order in [&["update"][..], &["install", "-y", "--no-install-recommends", "nginx-light"]] {
        let mut command = Command::new("apt-get");
        command.args(lock).args(order).env("DEBIAN_FRONTEND", "noninteractive");
        command.env("RUNLEVEL", "1").stdin(Stdio::null()).stdout(std::io::stderr());
        let status = command.status().unwrap();
        assert!(status.success(), "`apt-get {}` failed: {status}", order.join(" "));
    }
    on_this_machine().expect("the package brings nginx")
}

fn on_this_machine() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    directories.find_map(|directory| Some(directory.join("nginx")).filter(|path| path.is_file()))
}
