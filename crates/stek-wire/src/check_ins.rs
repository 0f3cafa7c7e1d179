//! The report of a distribution replica: who holds which revision there, and at the replicas that
//! report to it. What may be concluded from it is decided in [`stek_core::check_in`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stek_core::check_in::{
    Census, Holding, KeysetTally, Laggard, MAX_CLOCK_OFFSET_MILLIS, MAX_HOLDINGS, MAX_LAGGARDS,
    MAX_REPLICAS, ReplicaId, ReplicaTally,
};
use stek_core::name::{InstanceName, KeysetName};

use crate::VERSION;
use crate::bundle::read_version;
use crate::cursor::{At, Strings};
use crate::error::DecodeError;
use crate::node::{Limits, Strangers, parse};
use crate::secret_bytes::SecretBytes;
use crate::write::{Json, encode};

/// The path to which replicas post their reports.
pub const PATH: &str = "/v1/check-ins";

/// The longest report that is read, in bytes.
pub const MAX_CHECK_INS_BYTES: usize = 16 * 1024 * 1024;

/// The most keysets of one replica in a report.
pub const MAX_KEYSETS: usize = 20_000;

const LIMITS: Limits = Limits { bytes: MAX_CHECK_INS_BYTES, values: 2 * 1024 * 1024 };

/// The report as JSON, without white space and always with the same bytes for the same census.
///
/// ```json
/// {"version":1,"replicas":[{"principal":null,"replica":"eu-1","age_ms":40,
///   "incarnation":"<UUID>","keysets":[{"keyset":"main","newest":42,
///     "holdings":[{"revision":42,"instances":9999,"twice_since":"<RFC 3339>"}],
///     "laggards":[{"principal":"token:edge","instance":"edge-7","revision":41,
///       "last_seen":"<RFC 3339>","clock_offset_ms":-12}],"uncounted":0}]}]}
/// ```
///
/// `principal` is null for the replica that posts: the receiver knows whose credential it used.
/// `age_ms` is how long ago it counted, so that nobody has to trust another's clock. Revision 0
/// holds nothing. `twice_since` is null if none of those instances has polled twice.
pub fn encode_check_ins(census: &Census) -> SecretBytes {
    encode(|json| {
        json.object(|json| {
            json.name("version").whole(VERSION);
            json.name("replicas").array(&census.replicas, write_replica);
        });
    })
}

fn write_replica(json: &mut Json<'_>, tally: &ReplicaTally) {
    json.object(|json| {
        match &tally.replica.principal {
            Some(principal) => json.name("principal").text(principal),
            None => json.name("principal").null(),
        }
        json.name("replica").text(&tally.replica.name);
        json.name("age_ms").whole(u64::try_from(tally.age.as_millis()).unwrap_or(u64::MAX));
        json.name("incarnation").text(tally.incarnation);
        json.name("keysets").array(&tally.keysets, |json, (name, tally)| {
            json.object(|json| {
                json.name("keyset").text(name);
                json.name("newest").whole(tally.newest.as_u64());
                json.name("holdings").array(&tally.holdings, write_holding);
                json.name("laggards").array(&tally.laggards, write_laggard);
                json.name("uncounted").whole(u64::from(tally.uncounted));
            });
        });
    });
}

fn write_holding(json: &mut Json<'_>, holding: &Holding) {
    json.object(|json| {
        json.name("revision").whole(holding.revision.as_u64());
        json.name("instances").whole(u64::from(holding.instances));
        match holding.twice_since {
            Some(since) => json.name("twice_since").text(since),
            None => json.name("twice_since").null(),
        }
    });
}

fn write_laggard(json: &mut Json<'_>, laggard: &Laggard) {
    json.object(|json| {
        json.name("principal").text(&laggard.principal);
        json.name("instance").text(&laggard.instance);
        json.name("revision").whole(laggard.revision.as_u64());
        json.name("last_seen").text(laggard.last_seen);
        match laggard.clock_offset_millis {
            Some(offset) => json.name("clock_offset_ms").signed(i64::from(offset)),
            None => json.name("clock_offset_ms").null(),
        }
    });
}

/// Reads a report. Unknown fields are passed over.
///
/// # Errors
/// [`DecodeError`] with the field at fault.
pub fn decode_check_ins(input: &[u8]) -> Result<Census, DecodeError> {
    let document = parse(input, LIMITS, Strangers::Skip)?;
    let at = At::top(&document, Strings::Shown);
    read_version(&at)?;
    let replicas = at.field("replicas")?;
    let replicas = replicas.items(MAX_REPLICAS)?.map(|item| read_replica(&item));
    Ok(Census { replicas: replicas.collect::<Result<_, _>>()? })
}

fn read_replica(at: &At<'_, '_>) -> Result<ReplicaTally, DecodeError> {
    let principal = at.optional("principal")?;
    let mut keysets = BTreeMap::new();
    for item in at.field("keysets")?.items(MAX_KEYSETS)? {
        let (name, tally) = read_keyset(&item)?;
        if keysets.insert(name, Arc::new(tally)).is_some() {
            return Err(item.field("keyset")?.wrong("a keyset that is not there already"));
        }
    }
    Ok(ReplicaTally {
        replica: ReplicaId {
            principal: principal.map(|principal| principal.principal()).transpose()?,
            name: at.field("replica")?.named(InstanceName::try_new)?,
        },
        age: Duration::from_millis(at.field("age_ms")?.whole()?),
        incarnation: at.field("incarnation")?.incarnation()?,
        keysets,
    })
}

fn read_keyset(at: &At<'_, '_>) -> Result<(KeysetName, KeysetTally), DecodeError> {
    let name = at.field("keyset")?.keyset_name()?;
    let holdings = at.field("holdings")?;
    let holdings = holdings.items(MAX_HOLDINGS)?.map(|item| read_holding(&item));
    let laggards = at.field("laggards")?;
    let laggards = laggards.items(MAX_LAGGARDS)?.map(|item| read_laggard(&item));
    let tally = KeysetTally {
        newest: at.field("newest")?.revision()?,
        holdings: holdings.collect::<Result<_, _>>()?,
        laggards: laggards.collect::<Result<_, _>>()?,
        uncounted: read_count(&at.field("uncounted")?)?,
    };
    Ok((name, tally))
}

fn read_holding(at: &At<'_, '_>) -> Result<Holding, DecodeError> {
    let twice_since = at.optional("twice_since")?;
    Ok(Holding {
        revision: at.field("revision")?.revision()?,
        instances: read_count(&at.field("instances")?)?,
        twice_since: twice_since.map(|since| since.timestamp()).transpose()?,
    })
}

fn read_count(at: &At<'_, '_>) -> Result<u32, DecodeError> {
    let allowed = "a whole number from 0 to 4294967295";
    u32::try_from(at.whole()?).map_err(|_| at.wrong(allowed))
}

fn read_laggard(at: &At<'_, '_>) -> Result<Laggard, DecodeError> {
    let offset = at.optional("clock_offset_ms")?;
    Ok(Laggard {
        principal: at.field("principal")?.principal()?,
        instance: at.field("instance")?.named(InstanceName::try_new)?,
        revision: at.field("revision")?.revision()?,
        last_seen: at.field("last_seen")?.timestamp()?,
        clock_offset_millis: offset.map(|offset| read_offset(&offset)).transpose()?,
    })
}

fn read_offset(at: &At<'_, '_>) -> Result<i32, DecodeError> {
    let allowed = "a whole number from -86400000 to 86400000";
    let offset = at.signed().and_then(|offset| i32::try_from(offset).ok());
    let near = |offset: &i32| offset.abs() <= MAX_CLOCK_OFFSET_MILLIS;
    offset.filter(near).ok_or_else(|| at.wrong(allowed))
}

#[cfg(test)]
mod tests;
