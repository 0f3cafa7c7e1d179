//! The feed as one follower may see it: the keysets granted to it, and who may have those.

use std::collections::BTreeSet;
use std::sync::Arc;

use stek_core::access::{Access, Grant, KeysetSelector, Role, Token};
use stek_core::feed::FeedState;
use stek_core::name::KeysetName;
use stek_core::principal::{PrincipalPattern, Principals};

/// The roles that a follower decides about.
const SERVED: [Role; 2] = [Role::Terminator, Role::Distribution];

/// What `follower` may see of `feed`; the whole, without a copy, if it may see everything.
///
/// Else a grant on all keysets becomes one on each keyset that the follower may see, so that neither
/// what it holds nor what it passes on reaches further.
pub(crate) fn view(feed: &Arc<FeedState>, follower: &Principals) -> Arc<FeedState> {
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

fn keysets_of<'a>(access: &'a Access, follower: &'a Principals) -> BTreeSet<&'a KeysetName> {
    let named = access.granted(follower, Role::Distribution).filter_map(|keysets| match keysets {
        KeysetSelector::All => None,
        KeysetSelector::Named(name) => Some(name),
    });
    named.collect()
}

fn access_to(access: &Access, seen: &BTreeSet<&KeysetName>) -> Access {
    let mut grants = BTreeSet::new();
    for grant in access.grants().iter().filter(|grant| SERVED.contains(&grant.role)) {
        for name in seen.iter().filter(|name| grant.keysets.covers(name)) {
            let keysets = KeysetSelector::Named((*name).clone());
            grants.insert(Grant { principal: grant.principal.clone(), keysets, role: grant.role });
        }
    }
    let of_someone: Vec<_> = tokens_of(access, &grants).cloned().collect();
    Access::new(of_someone, grants.into_iter().collect())
}

/// The tokens of those whom `grants` mean. Grants to one principal, which is what tokens have as a
/// rule, are looked up: ten thousand of each must not cost a hundred million comparisons.
fn tokens_of<'a>(access: &'a Access, grants: &BTreeSet<Grant>) -> impl Iterator<Item = &'a Token> {
    let patterns: BTreeSet<_> = grants.iter().map(|grant| grant.principal.clone()).collect();
    let (named, wide): (BTreeSet<_>, BTreeSet<_>) =
        patterns.into_iter().partition(PrincipalPattern::is_literal);
    access.tokens().iter().filter(move |token| {
        let exactly = PrincipalPattern::exactly(&token.principal);
        exactly.is_ok_and(|exactly| named.contains(&exactly))
            || wide.iter().any(|pattern| pattern.covers(&token.principal))
    })
}
