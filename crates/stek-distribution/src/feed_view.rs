//! The feed as one follower may see it: the keysets granted to it, and the tokens and grants of
//! those keysets.

use std::sync::Arc;

use stek_core::access::{Access, Grant, KeysetSelector, Role};
use stek_core::feed::FeedState;
use stek_core::name::{KeysetName, PrincipalName};

/// What `follower` may see of `feed`; the whole, without a copy, if it may see everything.
pub(crate) fn view(feed: &Arc<FeedState>, follower: &PrincipalName) -> Arc<FeedState> {
    let role = Role::Distribution;
    if feed.access.allows_all(follower, role) {
        return Arc::clone(feed);
    }
    let sees = |name: &KeysetName| feed.access.allows(follower, role, name);
    let concerns = |grant: &&Grant| match &grant.keysets {
        KeysetSelector::All => true,
        KeysetSelector::Named(name) => sees(name),
    };
    let grants: Vec<Grant> = feed.access.grants.iter().filter(concerns).cloned().collect();
    let concerned = |principal: &PrincipalName| grants.iter().any(|grant| &grant.principal == principal);
    let tokens = feed.access.tokens.iter().filter(|token| concerned(&token.principal)).cloned();
    let access = Access { tokens: tokens.collect(), grants: grants.clone() };
    let keysets = feed.keysets.iter().filter(|(name, _)| sees(name));
    let tombstones = feed.tombstones.iter().filter(|(name, _)| sees(name));
    Arc::new(FeedState {
        incarnation: feed.incarnation,
        revision: feed.revision,
        keysets: keysets.map(|(name, bundle)| (name.clone(), Arc::clone(bundle))).collect(),
        tombstones: tombstones.map(|(name, revision)| (name.clone(), *revision)).collect(),
        access: Arc::new(access),
        access_read_at: feed.access_read_at,
    })
}
