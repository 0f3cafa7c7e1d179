//! A manager on SQLite and a distribution replica that follows it, with certificates and tokens.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::distribution::light::Target;
use crate::distribution::machine::Cores;
use crate::distribution::process::{self, Process};

/// The keyset that everybody asks for.
pub(crate) const KEYSET: &str = "bench";

const LISTEN: &str = "[listen]\naddress = \"127.0.0.1:0\"\ncertificate_file = \"tls/server.pem\"\n\
                      private_key_file = \"tls/server.key\"\n[metrics]\naddress = \"127.0.0.1:0\"\n";

/// One credential asks for the whole load, and as fast as it can.
const LIMITS: &str = "[listen.limits]\nrequests_per_second = 1000000\nrequest_burst = 10000000\n";

/// The servers, and the folder that they live in. They end before it goes.
pub(crate) struct Site {
    _manager: Process,
    distribution: Process,
    admin_port: u16,
    port: u16,
    folder: TempDir,
}

impl Site {
    /// Starts both on the servers' core, with one keyset.
    pub(crate) fn start(cores: &Cores) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let stekd = process::stekd()?;
        let at = |name: &str| folder.path().join(name).display().to_string();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text);
        let run = |arguments: &[&str]| process::run(&stekd, arguments);

        let database = at("keys.sqlite");
        let custody =
            "[custody]\ncluster_secret_file = \"cluster-secret\"\nstate_file = \"ratchet\"";
        write(
            "manager.toml",
            &format!("[database]\nurl = \"sqlite:{database}\"\n{custody}\n{LISTEN}"),
        )?;
        run(&["secret", &at("cluster-secret")])?;
        run(&["dev-ca", &at("tls"), "--name", "localhost"])?;
        run(&["migrate", "--config", &at("manager.toml")])?;
        for role in ["operator", "distribution", "terminator"] {
            let (config, out) = (at("manager.toml"), at(&format!("{role}-token")));
            run(&["token", "create", role, "--role", role, "--offline", &config, "--out", &out])?;
        }
        let role = |name: &str| {
            let config = at(&format!("{name}.toml"));
            let arguments = ["--log-format", "json", name, "--config", &config];
            Process::start(cores.server, &stekd, &arguments)
        };
        let manager = role("manager")?;
        let admin_port = manager.port("admin")?;
        let reach =
            |token: &str| format!("roots_files = [\"tls/ca.pem\"]\ntoken_file = \"{token}\"\n");
        let manager_url = format!("https://localhost:{admin_port}");
        let operator = reach("operator-token");
        write("operator.toml", &format!("server = \"{manager_url}\"\n{operator}"))?;
        run(&["keyset", "create", KEYSET, "--profile", &at("operator.toml")])?;
        let upstream =
            format!("[upstream]\nurls = [\"{manager_url}\"]\n{}", reach("distribution-token"));
        write("distribution.toml", &format!("{upstream}{LISTEN}{LIMITS}"))?;
        let distribution = role("distribution")?;
        let port = distribution.port("distribution")?;
        Ok(Self { _manager: manager, distribution, admin_port, port, folder })
    }

    /// Where and how a terminator asks for the keyset.
    pub(crate) fn distribution(&self) -> Result<Target> {
        let path = format!("/v1/keysets/{KEYSET}");
        Target::try_new(self.port, "GET", &path, &self.token("terminator")?, &self.authority())
    }

    /// Where and how an operator rotates the keyset.
    pub(crate) fn rotate(&self) -> Result<Target> {
        let path = format!("/admin/v1/keysets/{KEYSET}/rotate");
        Target::try_new(self.admin_port, "POST", &path, &self.token("operator")?, &self.authority())
    }

    /// The URL of the distribution replica.
    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// The process of the distribution replica.
    pub(crate) fn pid(&self) -> u32 {
        self.distribution.pid()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn authority(&self) -> PathBuf {
        self.path("tls/ca.pem")
    }

    pub(crate) fn token_file(&self, role: &str) -> PathBuf {
        self.path(&format!("{role}-token"))
    }

    fn token(&self, role: &str) -> Result<String> {
        read(&self.token_file(role))
    }
}

fn read(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.trim().to_owned())
}
