//! The bundle on the wire: the content of one keyset at one revision, with its secrets. Checks
//! what it reads as far as one bundle goes; whether it may replace another is
//! [`stek_core::bundle::check_replacement`].

use std::sync::Arc;

use stek_core::bundle::{Bundle, BundleKey, EndCause, EndedKey, MAX_ENDED_KEYS};
use stek_core::id::ContentTag;
use stek_core::keyset::{KeyRecord, MAX_LIVE_KEYS, TicketFormat};
use stek_core::policy::{Policy, PolicyRequest};
use stek_core::schedule::Schedule;

use crate::VERSION;
use crate::cursor::{At, Strings};
use crate::error::DecodeError;
use crate::node::{Limits, Strangers, parse};
use crate::secret_bytes::SecretBytes;
use crate::write::{Json, encode};

/// The longest bundle that is read, in bytes. The longest that there can be has about 160 KiB.
pub const MAX_BUNDLE_BYTES: usize = 4 * 1024 * 1024;

const LIMITS: Limits = Limits { bytes: MAX_BUNDLE_BYTES, values: 16 * 1024 };

/// The bundle as JSON, without white space and always with the same bytes for the same bundle.
///
/// ```json
/// {"version":1,"keyset":"main","incarnation":"<UUID>","revision":42,"digest":"<16 hex digits>",
///  "policy":{"rotation_period_seconds":21600,"ticket_lifetime_seconds":21600,
///    "poll_interval_seconds":60,"clock_skew_seconds":60,"lead_seconds":21600,
///    "session_lifetime_seconds":86400},
///  "keys":[{"id":"<UUID>","format":1,"kcv":"<16 hex digits>","published_at":"<RFC 3339>",
///    "activate_at":"…","retire_at":"…","destroy_at":"…","destroy_by":"…",
///    "secret":"<base64 of 32 bytes>"}],
///  "ended":[{"id":"<UUID>","kcv":"<16 hex digits>","cause":"expired","ended_at":"<RFC 3339>"}]}
/// ```
///
/// Keys come by activation. All keys of `bundle` are written, so erase those whose time has come
/// first, with [`Bundle::erased_at`].
pub fn encode_bundle(bundle: &Bundle) -> SecretBytes {
    encode(|json| write_bundle(json, bundle))
}

/// Reads a bundle and proves that it can be installed.
///
/// Unknown fields are passed over. A key whose `format` this program does not know is refused and
/// the bundle with it: without that key the terminator would not hold what its fleet holds.
/// Nothing of a key is copied out of `input` but into its [`stek_core::secret::KeyMaterial`];
/// whoever owns `input` wipes it.
///
/// # Errors
/// [`DecodeError`] with the field at fault and never with a secret.
pub fn decode_bundle(input: &[u8]) -> Result<Bundle, DecodeError> {
    let document = parse(input, LIMITS, Strangers::Skip)?;
    read_bundle(&At::top(&document, Strings::Hidden))
}

pub(crate) fn write_bundle(json: &mut Json<'_>, bundle: &Bundle) {
    let tag = bundle.tag();
    json.object(|json| {
        json.name("version").whole(VERSION);
        json.name("keyset").text(bundle.name());
        json.name("incarnation").text(tag.incarnation);
        json.name("revision").whole(tag.revision.as_u64());
        json.name("digest").text(tag.digest);
        json.name("policy").object(|json| write_policy(json, bundle.policy()));
        json.name("keys").array(bundle.keys(), write_key);
        json.name("ended").array(bundle.ended(), write_ended);
    });
}

fn write_policy(json: &mut Json<'_>, policy: &Policy) {
    json.name("rotation_period_seconds").whole(policy.rotation_period().as_secs());
    json.name("ticket_lifetime_seconds").whole(policy.ticket_lifetime().as_secs());
    json.name("poll_interval_seconds").whole(policy.poll_interval().as_secs());
    json.name("clock_skew_seconds").whole(policy.clock_skew().as_secs());
    json.name("lead_seconds").whole(policy.lead().as_secs());
    json.name("session_lifetime_seconds").whole(policy.session_lifetime().as_secs());
}

fn write_key(json: &mut Json<'_>, key: &BundleKey) {
    let record = &key.record;
    let schedule = &record.schedule;
    json.object(|json| {
        json.name("id").text(record.id);
        json.name("format").whole(record.format.as_u16().into());
        json.name("kcv").text(record.kcv);
        json.name("published_at").text(schedule.published_at());
        json.name("activate_at").text(schedule.activate_at());
        json.name("retire_at").text(schedule.retire_at());
        json.name("destroy_at").text(schedule.destroy_at());
        json.name("destroy_by").text(schedule.destroy_by());
        json.name("secret").key(&key.material);
    });
}

fn write_ended(json: &mut Json<'_>, key: &EndedKey) {
    json.object(|json| {
        json.name("id").text(key.id);
        json.name("kcv").text(key.kcv);
        json.name("cause").text(key.cause.as_str());
        json.name("ended_at").text(key.ended_at);
    });
}

pub(crate) fn read_version(at: &At<'_, '_>) -> Result<(), DecodeError> {
    let version = at.field("version")?;
    match version.whole()? {
        VERSION => Ok(()),
        found => Err(DecodeError::Version { field: version.path(), found }),
    }
}

pub(crate) fn read_bundle(at: &At<'_, '_>) -> Result<Bundle, DecodeError> {
    read_version(at)?;
    let name = at.field("keyset")?.keyset_name()?;
    let tag = ContentTag {
        incarnation: at.field("incarnation")?.incarnation()?,
        revision: at.field("revision")?.revision()?,
        digest: at.field("digest")?.digest()?,
    };
    let policy = read_policy(&at.field("policy")?)?;
    let keys = at.field("keys")?;
    let keys = keys.items(MAX_LIVE_KEYS)?.map(|key| read_key(&key)).collect::<Result<_, _>>()?;
    let ended = at.field("ended")?;
    let ended =
        ended.items(MAX_ENDED_KEYS)?.map(|key| read_ended(&key)).collect::<Result<_, _>>()?;
    Bundle::try_new(tag, name, policy, keys, ended)
        .map_err(|source| DecodeError::Bundle { field: at.path(), source })
}

fn read_policy(at: &At<'_, '_>) -> Result<Policy, DecodeError> {
    let span = |name| at.field(name)?.seconds().map(Some);
    let asked = PolicyRequest {
        rotation_period: span("rotation_period_seconds")?,
        ticket_lifetime: span("ticket_lifetime_seconds")?,
        poll_interval: span("poll_interval_seconds")?,
        clock_skew: span("clock_skew_seconds")?,
        lead: span("lead_seconds")?,
        session_lifetime: span("session_lifetime_seconds")?,
        // The manager's business alone; not sent.
        activation_quorum: None,
        activation_deadline: None,
    };
    Policy::try_new(&asked).map_err(|source| DecodeError::Policy { field: at.path(), source })
}

fn read_key(at: &At<'_, '_>) -> Result<BundleKey, DecodeError> {
    let instant = |name| at.field(name)?.timestamp();
    let format = at.field("format")?;
    let schedule = Schedule::try_new(
        instant("published_at")?,
        instant("activate_at")?,
        instant("retire_at")?,
        instant("destroy_at")?,
        instant("destroy_by")?,
    );
    let record = KeyRecord {
        id: at.field("id")?.key_id()?,
        format: u16::try_from(format.whole()?)
            .ok()
            .and_then(TicketFormat::from_u16)
            .ok_or_else(|| format.wrong("1, the one ticket format that this program knows"))?,
        kcv: at.field("kcv")?.kcv()?,
        schedule: schedule.map_err(|source| DecodeError::Schedule { field: at.path(), source })?,
    };
    Ok(BundleKey { record, material: Arc::new(at.field("secret")?.secret()?) })
}

fn read_ended(at: &At<'_, '_>) -> Result<EndedKey, DecodeError> {
    Ok(EndedKey {
        id: at.field("id")?.key_id()?,
        kcv: at.field("kcv")?.kcv()?,
        cause: at.field("cause")?.parsed("expired or revoked", EndCause::parse)?,
        ended_at: at.field("ended_at")?.timestamp()?,
    })
}

#[cfg(test)]
mod tests;
