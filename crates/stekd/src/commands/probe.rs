//! `stekd probe`: asks TLS servers for tickets and offers them to one another. What a finding is
//! and how it is worded is in [`crate::probe`].

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::RootCertStore;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use stek_clock::SystemClock;
use stek_core::time::Seconds;

use crate::Refused;
use crate::cli::probe::{ProbeArgs, Versions};
use crate::commands::progress;
use crate::commands::table::{self, Paint};
use crate::exit::{Faulty, Unanswered};
use crate::probe::client::{Client, Options, Tls};
use crate::probe::lifetime::{self, Ages, MAX_AGES};
use crate::probe::matrix::{self, Outcome};
use crate::probe::report::Report;
use crate::probe::target::{Target, server_name};
use crate::probe::trust::Trust;

/// Runs the probe and prints what it found. Ends well if every pair resumes.
pub(crate) async fn run(asked: &ProbeArgs) -> Result<()> {
    let name = server_name(&asked.servers, asked.server_name.as_deref())?;
    let ages = ages(asked)?;
    let client = Client::new(Options {
        name: name.clone(),
        trust: trust(asked)?,
        identity: identity(asked)?,
        time_out: asked.timeout.to_std(),
        clock: Arc::new(SystemClock),
    })?;
    let versions = match asked.tls {
        Versions::V12 => &[Tls::V12][..],
        Versions::V13 => &[Tls::V13],
        Versions::Both => &[Tls::V13, Tls::V12],
    };
    let mut report = Report::new(name.to_str().into_owned());
    for tls in versions {
        let progress = Progress::new(*tls, asked.servers.len());
        let matrix =
            matrix::measure(&client, &asked.servers, *tls, |done| progress.pair(done)).await;
        progress.end();
        let lifetimes = match &ages {
            Some(ages) => {
                let tell = |server: &Target, age, outcome: &Outcome| {
                    progress.age(server, age, outcome);
                };
                lifetime::measure(&client, &asked.servers, *tls, ages, tell).await
            }
            None => Vec::new(),
        };
        report.add(*tls, &asked.servers, &matrix, &lifetimes, versions.len() == 1);
    }
    let report = report.complete();
    table::print(asked.output, &report, |report| report.table(Paint::stdout()))?;
    // Each on a line of its own, as if it were the only one.
    let faults = || report.faults.join("\nstekd: ");
    if !report.spoken() {
        return Err(Unanswered(faults()).into());
    }
    if !report.ok {
        return Err(Faulty(faults()).into());
    }
    Ok(())
}

fn ages(asked: &ProbeArgs) -> Result<Option<Ages>> {
    if asked.watch_lifetime {
        return Ok(Some(Ages::OfHint));
    }
    if asked.ages.len() > MAX_AGES {
        let need = format!("--ages has {} ages, allowed are {MAX_AGES}", asked.ages.len());
        return Err(Refused(need).into());
    }
    let listed = || Ages::Listed(asked.ages.iter().copied().collect());
    Ok((!asked.ages.is_empty()).then(listed))
}

fn trust(asked: &ProbeArgs) -> Result<Trust> {
    if asked.dangerously_trust_anyone {
        return Ok(Trust::Anyone);
    }
    let certificates = match &asked.roots {
        Some(file) => certificates(file, "--roots")?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        let need = "no certificate authority to trust: name a file with --roots";
        return Err(Refused(need.into()).into());
    }
    Ok(Trust::Roots(roots))
}

fn certificates(file: &Path, option: &str) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(|error| Refused(format!("{option} {}: {error}", file.display())))?;
    if read.is_empty() {
        let need = format!("{option} {} holds no certificate", file.display());
        return Err(Refused(need).into());
    }
    Ok(read)
}

fn identity(asked: &ProbeArgs) -> Result<Option<Arc<dyn ResolvesClientCert>>> {
    let (Some(chain), Some(key)) = (&asked.client_certificate, &asked.client_key) else {
        return Ok(None);
    };
    let certificates = certificates(chain, "--client-certificate")?;
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| Refused(format!("--client-key {}: {error}", key.display())))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let pair = CertifiedKey::from_der(certificates, key, &provider)
        .context("the client's certificate and key")?;
    Ok(Some(Arc::new(SingleCertAndKey::from(pair))))
}

/// Says on standard error how far it is: on a terminal in one line, and each ticket that was
/// awaited in a line of its own everywhere.
struct Progress {
    tls: &'static str,
    pairs: usize,
    live: bool,
}

impl Progress {
    fn new(tls: Tls, servers: usize) -> Self {
        let live = std::io::stderr().is_terminal();
        Self { tls: tls.as_str(), pairs: servers * servers, live }
    }

    fn pair(&self, done: usize) {
        if self.live {
            progress::draw(&format!("TLS {}: {done} of {} pairs", self.tls, self.pairs));
        }
    }

    fn end(&self) {
        if self.live {
            progress::draw("");
        }
    }

    #[allow(clippy::print_stderr, reason = "progress is not the result")]
    fn age(&self, server: &Target, age: Seconds, outcome: &Outcome) {
        eprintln!("TLS {}: {server}: a ticket {age} old: {}", self.tls, outcome.as_str());
    }
}
