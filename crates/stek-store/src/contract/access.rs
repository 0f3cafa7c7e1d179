//! Tokens and grants.

use std::sync::Arc;

use stek_core::access::{Grant, KeysetSelector, Role, Token, TokenHash};
use stek_core::id::Revision;
use stek_core::name::PrincipalName;
use stek_core::principal::PrincipalPattern;

use super::fixture::{assert_broken, at, commit, create, id};
use crate::{Change, KeyStore, SealedGrant, SealedToken, StoredAccess};

fn principal(text: &str) -> PrincipalName {
    PrincipalName::try_new(text).unwrap()
}

/// The token with this number, which expires as many seconds after the start.
pub fn token(number: u8) -> SealedToken {
    SealedToken {
        token: Token {
            id: id(u64::from(number)),
            principal: principal(&format!("token:edge-{number}")),
            hash: TokenHash::from_bytes([number; 32]),
            expires_at: at(u64::from(number)),
        },
        seal: [number ^ 0xff; 32],
    }
}

/// A grant of `role` on `keysets` to `who`.
pub fn grant(who: &str, keysets: &str, role: Role) -> SealedGrant {
    let keysets = KeysetSelector::parse(keysets).unwrap();
    let principal = PrincipalPattern::try_new(who).unwrap();
    SealedGrant { grant: Grant { principal, keysets, role }, seal: [9; 32] }
}

async fn access_revision(store: &Arc<dyn KeyStore>) -> Revision {
    store.cluster().await.unwrap().access_revision
}

/// Every field survives, the access revision tells of each change, and a token exists once.
pub async fn tokens_come_and_go(store: Arc<dyn KeyStore>) {
    let add = |number| Change::AddToken(token(number));
    let added = commit(&store, vec![add(2), add(1)]).await.unwrap();
    assert_eq!(store.access().await.unwrap().tokens, [token(1), token(2)]);
    assert_eq!(access_revision(&store).await, added.revision);
    // Other commits leave it alone, and so does removing what is not there.
    commit(&store, vec![create("main", vec![])]).await.unwrap();
    commit(&store, vec![Change::RemoveToken(id(99))]).await.unwrap();
    assert_eq!(access_revision(&store).await, added.revision);

    let mut same_id = token(4);
    same_id.token.id = id(1);
    let result = commit(&store, vec![add(3), Change::AddToken(same_id)]).await;
    assert_broken(result, "tokens_pkey");
    let mut same_secret = token(4);
    same_secret.token.hash = token(1).token.hash;
    let result = commit(&store, vec![add(3), Change::AddToken(same_secret)]).await;
    assert_broken(result, "tokens_hash_unique");

    let removed = commit(&store, vec![Change::RemoveToken(id(1))]).await.unwrap();
    assert_eq!(store.access().await.unwrap().tokens, [token(2)]);
    assert_eq!(access_revision(&store).await, removed.revision);
}

/// A grant that is there stays as it is, with its seal; one that is not there goes silently.
pub async fn grants_come_and_go(store: Arc<dyn KeyStore>) {
    let all: Vec<_> = Role::ALL
        .into_iter()
        .flat_map(|role| {
            [
                grant("a", "*", role),
                grant("a", "main", role),
                grant("spiffe://td/edge/*", "*", role),
            ]
        })
        .collect();
    let add = |row: &SealedGrant| Change::AddGrant(row.clone());
    let added = commit(&store, all.iter().map(add).collect()).await.unwrap();
    let mut expected = all.clone();
    let order = |row: &SealedGrant| {
        let Grant { principal, keysets, role } = &row.grant;
        (principal.clone(), keysets.to_string(), role.as_str())
    };
    expected.sort_by_key(order);
    let read = |access: StoredAccess| {
        let mut grants = access.grants;
        grants.sort_by_key(order);
        grants
    };
    assert_eq!(read(store.access().await.unwrap()), expected);
    assert_eq!(access_revision(&store).await, added.revision);

    let again = SealedGrant { seal: [8; 32], ..all[0].clone() };
    commit(&store, vec![Change::AddGrant(again)]).await.unwrap();
    let absent = grant("c", "*", Role::Auditor).grant;
    commit(&store, vec![Change::RemoveGrant(absent)]).await.unwrap();
    assert_eq!(read(store.access().await.unwrap()), expected);
    assert_eq!(access_revision(&store).await, added.revision);

    let gone = expected.remove(1);
    let removed = commit(&store, vec![Change::RemoveGrant(gone.grant)]).await.unwrap();
    assert_eq!(read(store.access().await.unwrap()), expected);
    assert_eq!(access_revision(&store).await, removed.revision);
}
