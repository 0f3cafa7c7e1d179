//! Writes the feed document, whole or as the difference to a revision.

use stek_core::access::{Access, Grant, Token};
use stek_core::feed::FeedState;
use stek_core::id::Revision;

use crate::VERSION;
use crate::bundle::write_bundle;
use crate::secret_bytes::SecretBytes;
use crate::write::{Json, encode};

/// Whether tokens and grants are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessPart {
    /// All of them, never a difference.
    Included,
    /// None, for the follower's cursor carries their digest and so it has them.
    Omitted,
}

/// The feed as JSON, without white space and always with the same bytes for the same state.
///
/// ```json
/// {"version":1,"incarnation":"<UUID>","revision":42,"access_digest":"<16 hex digits>",
///  "since":null,"keysets":[<bundle>],"tombstones":[{"keyset":"old","revision":40}],
///  "access_read_at":"<RFC 3339>",
///  "access":{"tokens":[{"id":"<UUID>","principal":"token:edge","hash":"<64 hex digits>",
///      "expires_at":"<RFC 3339>"}],
///    "grants":[{"principal":"token:edge","keysets":"*","role":"terminator"}]}}
/// ```
///
/// With `since`, only keysets and tombstones of later revisions are in it, for a follower that has
/// the state at exactly that revision of this lineage. A keyset that was created again has no
/// tombstone. Bundles and tombstones come by keyset name,
/// tokens by identity, grants by principal. All keys of `state` are written, so erase those whose
/// time has come first.
pub fn encode_feed(since: Option<Revision>, state: &FeedState, access: AccessPart) -> SecretBytes {
    let is_later = |revision: Revision| since.is_none_or(|since| revision > since);
    let tag = state.tag();
    encode(|json| {
        json.object(|json| {
            json.name("version").whole(VERSION);
            json.name("incarnation").text(tag.incarnation);
            json.name("revision").whole(tag.revision.as_u64());
            json.name("access_digest").text(tag.digest);
            match since {
                Some(since) => json.name("since").whole(since.as_u64()),
                None => json.name("since").null(),
            }
            let keysets = state.keysets.values().filter(|b| is_later(b.tag().revision));
            json.name("keysets").array(keysets, |json, bundle| write_bundle(json, bundle));
            let tombstones = state.tombstones.iter().filter(|(keyset, revision)| {
                is_later(**revision) && !state.keysets.contains_key(*keyset)
            });
            json.name("tombstones").array(tombstones, |json, (keyset, revision)| {
                json.object(|json| {
                    json.name("keyset").text(keyset);
                    json.name("revision").whole(revision.as_u64());
                });
            });
            json.name("access_read_at").text(state.access_read_at);
            match access {
                AccessPart::Included => write_access(json.name("access"), &state.access),
                AccessPart::Omitted => json.name("access").null(),
            }
        });
    })
}

fn write_access(json: &mut Json<'_>, access: &Access) {
    let mut tokens: Vec<&Token> = access.tokens().iter().collect();
    tokens.sort_by_key(|token| token.id);
    let mut grants: Vec<&Grant> = access.grants().iter().collect();
    grants.sort();
    json.object(|json| {
        json.name("tokens").array(tokens, |json, token| {
            json.object(|json| {
                json.name("id").text(token.id);
                json.name("principal").text(&token.principal);
                json.name("hash").text(token.hash.to_hex());
                json.name("expires_at").text(token.expires_at);
            });
        });
        json.name("grants").array(grants, |json, grant| {
            json.object(|json| {
                json.name("principal").text(&grant.principal);
                json.name("keysets").text(&grant.keysets);
                json.name("role").text(grant.role.as_str());
            });
        });
    });
}
