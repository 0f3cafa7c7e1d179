//! A server as a terminator has it: fleet time on the machine's boot time, three live keys, and
//! counters registered.

use std::num::NonZeroU32;
use std::sync::Arc;

use prometheus::Registry;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use stek_clock::{Clock, FleetClock, SystemClock};
use stek_core::bundle::{Bundle, BundleKey};
use stek_core::derive::{self, Use};
use stek_core::id::{ContentDigest, ContentTag, Incarnation, KeyId, Revision};
use stek_core::keyset::{KeyRecord, TicketFormat};
use stek_core::name::KeysetName;
use stek_core::policy::{Policy, PolicyRequest};
use stek_core::schedule::Schedule;
use stek_core::scope::Scope;
use stek_core::secret::KeyMaterial;
use stek_core::time::{Seconds, Timestamp};
use stek_rustls::{Acceptor, ServerBuilder, TicketKeys, TicketMetrics};

use crate::sessions::Clients;

const SIX_HOURS: u64 = 6 * 3600;

/// The acceptor of a server for TLS 1.3 alone. It asks `clients` for certificates, if any, and has
/// as many tickets opened as a benchmark wants.
pub(crate) fn acceptor(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    clients: Option<&Clients>,
) -> anyhow::Result<Acceptor> {
    let metrics = TicketMetrics::register(&Registry::new(), &KeysetName::try_new("bench")?)?;
    let mut failed = None;
    let keys_for = |_: Use, scope: &Scope| {
        keys(scope).unwrap_or_else(|error| {
            failed = Some(error);
            Arc::new(TicketKeys::new(
                scope.clone(),
                Arc::new(FleetClock::new(Arc::new(SystemClock))),
            ))
        })
    };
    let mut builder = ServerBuilder::with_keys("bench", metrics, keys_for);
    if let Some(clients) = clients {
        builder = builder
            .request_client_certificates(clients.roots.clone())
            .resume_client_auth_without_verifying_again()
            .max_tries_per_connection(NonZeroU32::MAX);
    }
    let acceptor = builder
        .certificate(chain, key)
        .crypto_provider(Arc::new(aws_lc_rs::default_provider()))
        .protocol_versions(&[&rustls::version::TLS13])
        .build()?;
    failed.map_or(Ok(acceptor), Err)
}

/// A key that seals, one before it and one after it, for `scope`.
fn keys(scope: &Scope) -> anyhow::Result<Arc<TicketKeys>> {
    let clock = Arc::new(FleetClock::new(Arc::new(SystemClock)));
    clock.set(SystemClock.wall_millis());
    let now = clock.now();
    let keys: Vec<_> = (0..3).map(|position| key(now, position)).collect::<anyhow::Result<_>>()?;
    let tag = ContentTag {
        incarnation: Incarnation::new(now.as_unix() * 1000, &[1; 10]),
        revision: Revision::new(1),
        digest: ContentDigest::from_bytes([1; 8]),
    };
    let policy = Policy::try_new(&PolicyRequest::default())?;
    let bundle = Bundle::try_new(tag, KeysetName::try_new("bench")?, policy, keys, Vec::new())?;
    let keys = Arc::new(TicketKeys::new(scope.clone(), clock));
    keys.install(&bundle);
    Ok(keys)
}

/// The key that seals in the `position`th of three spans of six hours; it is now the second.
fn key(now: Timestamp, position: u64) -> anyhow::Result<BundleKey> {
    let start = now.as_unix() - SIX_HOURS * 3 / 2 + SIX_HOURS * position;
    let activate = Timestamp::from_unix(start);
    let retire = activate + Seconds::new(SIX_HOURS);
    let destroy = retire + Seconds::new(SIX_HOURS + 60);
    let published = Timestamp::from_unix(now.as_unix() - 10 * SIX_HOURS);
    let schedule = Schedule::try_new(published, activate, retire, destroy, destroy)?;
    let material = KeyMaterial::try_from_fill(|bytes| getrandom::fill(bytes))?;
    let mut random = [0; 10];
    getrandom::fill(&mut random)?;
    let id = KeyId::new(start * 1000, &random);
    let kcv = derive::kcv(&material);
    let record = KeyRecord { id, format: TicketFormat::V1, kcv, schedule };
    Ok(BundleKey { record, material: Arc::new(material) })
}
