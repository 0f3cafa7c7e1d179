//! The feed as one follower may see it: the keysets granted to it, and who may have those.

use std::collections::BTreeSet;
use std::sync::Arc;

use stek_core::access::{Access, Grant, KeysetSelector, Role};
use stek_core::feed::FeedState;
use stek_core::name::{KeysetName, PrincipalName};

/// The roles that a follower decides about.
const SERVED: [Role; 2] = [Role::Terminator, Role::Distribution];

/// What `follower` may see of `feed`; the whole, without a copy, if it may see everything.
///
/// Else a grant on all keysets becomes one on each keyset that the follower may see, so that neither
/// what it holds nor what it passes on reaches further.
pub(crate) fn view(feed: &Arc<FeedState>, follower: &PrincipalName) -> Arc<FeedState> {
    if feed.access.allows_all(follower, Role::Distribution) {
        return Arc::clone(feed);
    }
    let seen = keysets_of(&feed.access, follower);
    let access = access_to(&feed.access, &seen);
    let keysets = feed.keysets.iter().filter(|(name, _)| seen.contains(name));
    let tombstones = feed.tombstones.iter().filter(|(name, _)| seen.contains(name));
    Arc::new(FeedState {
        incarnation: feed.incarnation,
        revision: feed.revision,
        keysets: keysets.map(|(name, bundle)| (name.clone(), Arc::clone(bundle))).collect(),
        tombstones: tombstones.map(|(name, revision)| (name.clone(), *revision)).collect(),
        access: Arc::new(access),
        access_read_at: feed.access_read_at,
    })
}

fn keysets_of<'a>(access: &'a Access, follower: &PrincipalName) -> BTreeSet<&'a KeysetName> {
    let grants = access.grants.iter();
    let mine = grants.filter(|g| g.role == Role::Distribution && &g.principal == follower);
    let named = mine.filter_map(|grant| match &grant.keysets {
        KeysetSelector::All => None,
        KeysetSelector::Named(name) => Some(name),
    });
    named.collect()
}

fn access_to(access: &Access, seen: &BTreeSet<&KeysetName>) -> Access {
    let mut grants = BTreeSet::new();
    for grant in access.grants.iter().filter(|grant| SERVED.contains(&grant.role)) {
        for name in seen.iter().filter(|name| grant.keysets.covers(name)) {
            let keysets = KeysetSelector::Named((*name).clone());
            grants.insert(Grant { principal: grant.principal.clone(), keysets, role: grant.role });
        }
    }
    let principals: BTreeSet<&PrincipalName> = grants.iter().map(|g| &g.principal).collect();
    let tokens = access.tokens.iter().filter(|token| principals.contains(&token.principal));
    Access { tokens: tokens.cloned().collect(), grants: grants.into_iter().collect() }
}
