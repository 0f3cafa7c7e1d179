//! `openssl s_client` as a TLS client of the fleet.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// How long one connection may take.
const TIME_OUT: Duration = Duration::from_secs(60);

/// A client that trusts one authority and keeps its session in a file.
pub struct OpenSsl {
    authority: PathBuf,
    session: PathBuf,
}

/// What a connection came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whether OpenSSL says that the session was reused.
    pub reused: bool,
    /// What the server said, such as `server-a: resumed handshake`.
    pub said: String,
}

/// What the client does with its session file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Session {
    Save,
    Offer,
    OfferAndSave,
}

impl OpenSsl {
    /// A client whose session is kept in `session`.
    pub fn new(authority: PathBuf, session: PathBuf) -> Self {
        Self { authority, session }
    }

    /// A connection without a session; the new one is kept.
    ///
    /// # Errors
    /// If openssl is not there or the handshake fails.
    pub async fn begin(&self, server: SocketAddr) -> Result<Answer> {
        self.connect(server, Session::Save).await
    }

    /// A connection that offers the session that was kept, and leaves it as it is.
    ///
    /// # Errors
    /// As for [`OpenSsl::begin`].
    pub async fn offer(&self, server: SocketAddr) -> Result<Answer> {
        self.connect(server, Session::Offer).await
    }

    /// A connection that offers the session that was kept and keeps the one that comes of it.
    ///
    /// # Errors
    /// As for [`OpenSsl::begin`].
    pub async fn renew(&self, server: SocketAddr) -> Result<Answer> {
        self.connect(server, Session::OfferAndSave).await
    }

    /// The first 16 bytes of the ticket in the session file: the name of the key that sealed it.
    ///
    /// # Errors
    /// If there is no ticket in it.
    pub async fn key_name(&self) -> Result<String> {
        let shown = Command::new("openssl")
            .args(["sess_id", "-noout", "-text", "-in"])
            .arg(&self.session)
            .output()
            .await
            .context("openssl cannot be run")?;
        let text = String::from_utf8_lossy(&shown.stdout);
        let line = text.lines().find(|line| line.trim_start().starts_with("0000 - "));
        let line = line.context("no ticket in the session file")?;
        let hex = line.trim_start().trim_start_matches("0000 - ");
        Ok(hex.chars().take(47).filter(char::is_ascii_hexdigit).collect())
    }

    async fn connect(&self, server: SocketAddr, session: Session) -> Result<Answer> {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-tls1_3", "-ign_eof", "-servername", "localhost"]);
        command.args(["-verify_return_error", "-verify_hostname", "localhost", "-connect"]);
        command.arg(server.to_string()).arg("-CAfile").arg(&self.authority);
        if session != Session::Save {
            command.arg("-sess_in").arg(&self.session);
        }
        if session != Session::Offer {
            command.arg("-sess_out").arg(&self.session);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().context("openssl cannot be run")?;
        let mut stdin = child.stdin.take().context("openssl has no standard input")?;
        stdin.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let output = tokio::time::timeout(TIME_OUT, child.wait_with_output())
            .await
            .context("openssl took too long")??;
        drop(stdin);
        let text = String::from_utf8_lossy(&output.stdout);
        let said =
            text.lines().rev().find(|line| line.contains("handshake") && line.contains(": "));
        let (new, reused) = (text.contains("\nNew, TLSv1.3"), text.contains("\nReused, TLSv1.3"));
        match (said, new != reused) {
            (Some(said), true) => Ok(Answer { reused, said: said.trim().to_owned() }),
            _ => bail!("no answer: {text}{}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    /// Where the session is kept.
    pub fn session(&self) -> &Path {
        &self.session
    }
}
