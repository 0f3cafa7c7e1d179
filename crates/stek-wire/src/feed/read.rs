//! Reads the feed document and proves that it does not contradict itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use stek_core::access::{Access, Grant, KeysetSelector, Role, Token, TokenHash};
use stek_core::bundle::Bundle;
use stek_core::id::{Incarnation, Revision};
use stek_core::name::KeysetName;

use super::FeedUpdate;
use crate::bundle::{read_bundle, read_version};
use crate::cursor::{At, Strings};
use crate::error::DecodeError;
use crate::node::{Limits, Strangers, parse};

/// The longest feed that is read, in bytes: about 20,000 keysets under the default policy.
pub const MAX_FEED_BYTES: usize = 128 * 1024 * 1024;

const LIMITS: Limits = Limits { bytes: MAX_FEED_BYTES, values: 8 * 1024 * 1024 };

/// Reads a feed document. Unknown fields are passed over; one bundle that is refused refuses all,
/// so that a follower never holds a mixture of two revisions. Whoever owns `input` wipes it.
///
/// # Errors
/// [`DecodeError`] with the field at fault and never with a secret.
pub fn decode_feed(input: &[u8]) -> Result<FeedUpdate, DecodeError> {
    let document = parse(input, LIMITS, Strangers::Skip)?;
    read_feed(&At::top(&document, Strings::Hidden))
}

fn read_feed(at: &At<'_, '_>) -> Result<FeedUpdate, DecodeError> {
    read_version(at)?;
    let incarnation = at.field("incarnation")?.incarnation()?;
    let revision = at.field("revision")?.revision()?;
    let since = at.field("since")?;
    let keysets = read_keysets(&at.field("keysets")?, incarnation, revision)?;
    let access_digest = at.field("access_digest")?;
    let access = at.field("access")?;
    let update = FeedUpdate {
        incarnation,
        revision,
        access_digest: access_digest.digest()?,
        since: if since.is_null() { None } else { Some(since.revision()?) },
        tombstones: read_tombstones(&at.field("tombstones")?, &keysets, revision)?,
        keysets,
        access: if access.is_null() { None } else { Some(Arc::new(read_access(&access)?)) },
        access_read_at: at.field("access_read_at")?.timestamp()?,
    };
    if update.since.is_some_and(|since| since > revision) {
        return Err(since.wrong("null or at most the feed's revision"));
    }
    if update.access.as_ref().is_some_and(|access| access.digest() != update.access_digest) {
        return Err(access_digest.wrong("the digest of access"));
    }
    Ok(update)
}

fn read_keysets(
    at: &At<'_, '_>,
    incarnation: Incarnation,
    revision: Revision,
) -> Result<BTreeMap<KeysetName, Arc<Bundle>>, DecodeError> {
    let mut keysets = BTreeMap::new();
    for item in at.items(LIMITS.values)? {
        let bundle = read_bundle(&item)?;
        if bundle.tag().incarnation != incarnation {
            return Err(item.field("incarnation")?.wrong("the feed's incarnation"));
        }
        if bundle.tag().revision > revision {
            return Err(item.field("revision")?.wrong("at most the feed's revision"));
        }
        if keysets.insert(bundle.name().clone(), Arc::new(bundle)).is_some() {
            return Err(item.field("keyset")?.wrong("a keyset that is not in the feed already"));
        }
    }
    Ok(keysets)
}

fn read_tombstones(
    at: &At<'_, '_>,
    keysets: &BTreeMap<KeysetName, Arc<Bundle>>,
    latest: Revision,
) -> Result<BTreeMap<KeysetName, Revision>, DecodeError> {
    let mut tombstones = BTreeMap::new();
    for item in at.items(LIMITS.values)? {
        let name = item.field("keyset")?;
        let keyset = name.keyset_name()?;
        let revision = item.field("revision")?;
        let deleted = revision.revision()?;
        if deleted > latest {
            return Err(revision.wrong("at most the feed's revision"));
        }
        if keysets.contains_key(&keyset) {
            return Err(name.wrong("a keyset that is not in the feed"));
        }
        if tombstones.insert(keyset, deleted).is_some() {
            return Err(name.wrong("a keyset that has no tombstone yet"));
        }
    }
    Ok(tombstones)
}

fn read_access(at: &At<'_, '_>) -> Result<Access, DecodeError> {
    let tokens = at.field("tokens")?;
    let grants = at.field("grants")?;
    let tokens = tokens.items(LIMITS.values)?.map(|token| read_token(&token));
    let tokens = tokens.collect::<Result<_, _>>()?;
    let grants = grants.items(LIMITS.values)?.map(|grant| read_grant(&grant));
    Ok(Access::new(tokens, grants.collect::<Result<_, _>>()?))
}

fn read_token(at: &At<'_, '_>) -> Result<Token, DecodeError> {
    Ok(Token {
        id: at.field("id")?.key_id()?,
        principal: at.field("principal")?.principal()?,
        hash: at.field("hash")?.parsed("64 hexadecimal digits", TokenHash::parse)?,
        expires_at: at.field("expires_at")?.timestamp()?,
    })
}

fn read_grant(at: &At<'_, '_>) -> Result<Grant, DecodeError> {
    let roles = "terminator, distribution, operator, auditor or manager";
    Ok(Grant {
        principal: at.field("principal")?.pattern()?,
        keysets: at.field("keysets")?.named(KeysetSelector::parse)?,
        role: at.field("role")?.parsed(roles, Role::parse)?,
    })
}
