//! Who is asking, and what that principal may do. Deny by default; a
//! keyset that is not granted answers like one that does not exist.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use http::Extensions;
use http::request::Parts;
use stek_core::access::{Access, KeysetSelector, Role, TokenSecret};
use stek_core::id::KeyId;
use stek_core::name::KeysetName;
use stek_core::principal::Principals;
use stek_core::time::Timestamp;
use stek_http::{Problem, Proof, Standing};

use crate::operations::Operations;

/// How soon to ask again while nothing is published yet.
const STARTING_RETRY: Duration = Duration::from_secs(1);

/// A principal that has proven who it is.
pub(crate) struct Caller {
    principals: Principals,
    access: Arc<Access>,
}

impl Caller {
    /// Whoever holds `secret`, and the token that it is.
    pub(crate) fn with_secret(
        access: &Arc<Access>,
        secret: &TokenSecret,
        now: Timestamp,
    ) -> Option<(KeyId, Self)> {
        let (id, whose) = access.authenticate(&secret.hash(), now)?;
        Some((id, Self { principals: whose.clone(), access: Arc::clone(access) }))
    }

    /// Whoever was given the token `id`, while that is valid.
    pub(crate) fn with_token(access: &Arc<Access>, id: KeyId, now: Timestamp) -> Option<Self> {
        let mut tokens = access.tokens().iter();
        let token = tokens.find(|token| token.id == id && now < token.expires_at)?;
        Some(Self { principals: token.principal.clone().into(), access: Arc::clone(access) })
    }

    /// Counts one request, the one with these `extensions`, of a caller who brought no [`Proof`].
    pub(crate) fn admit(&self, extensions: &Extensions) -> Result<(), Problem> {
        Standing::admit(extensions, &self.principals)
    }

    /// The name for the audit trail.
    pub(crate) fn name(&self) -> &str {
        self.principals.shown().as_str()
    }

    /// Whether the caller has one of `roles` on `keyset`.
    pub(crate) fn may(&self, roles: &[Role], keyset: &KeysetName) -> bool {
        roles.iter().any(|role| self.access.allows(&self.principals, *role, keyset))
    }

    /// The keysets on which the caller has one of `roles`; none if it has one on all.
    pub(crate) fn named(&self, roles: &[Role]) -> Option<BTreeSet<KeysetName>> {
        let granted = |role: &Role| self.access.granted(&self.principals, *role);
        let names = roles.iter().flat_map(granted);
        names
            .map(|selector| match selector {
                KeysetSelector::All => None,
                KeysetSelector::Named(name) => Some(name.clone()),
            })
            .collect()
    }

    /// Refuses a caller without any of `roles` anywhere.
    pub(crate) fn must_have_role(&self, roles: &[Role]) -> Result<(), Problem> {
        let has = roles.iter().any(|role| self.access.has_role(&self.principals, *role));
        if has { Ok(()) } else { Err(Problem::forbidden()) }
    }

    /// Refuses a caller without any of `roles` on every keyset.
    pub(crate) fn must_have_all(&self, roles: &[Role]) -> Result<(), Problem> {
        let has = roles.iter().any(|role| self.access.allows_all(&self.principals, *role));
        if has { Ok(()) } else { Err(Problem::forbidden()) }
    }

    /// The keyset of this name, if the caller has one of `roles` on it.
    pub(crate) fn keyset(&self, name: &str, roles: &[Role]) -> Result<KeysetName, Problem> {
        self.must_have_role(roles)?;
        let name = KeysetName::try_new(name)
            .map_err(|error| Problem::invalid_field("keyset", error.value, error.allowed))?;
        if self.may(roles, &name) { Ok(name) } else { Err(Problem::not_found()) }
    }
}

impl FromRequestParts<Arc<Operations>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut Parts,
        operations: &Arc<Operations>,
    ) -> Result<Self, Problem> {
        let Some(feed) = operations.feed() else {
            return Err(Problem::unavailable("the manager is starting", STARTING_RETRY));
        };
        let proof = Proof::from_request_parts(parts, operations).await?;
        let principals = proof.principals(&feed.access, operations.engine().fleet().now())?;
        proof.admit(&principals)?;
        Ok(Self { principals, access: Arc::clone(&feed.access) })
    }
}
