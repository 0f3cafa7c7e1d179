//! Tokens as operators make and see them. The secret of a token stays with whoever made it: only
//! its hash travels.

use serde::{Deserialize, Serialize};
use stek_core::access::{Grant, KeysetSelector, Role, TokenHash};
use stek_core::name::PrincipalName;
use stek_core::principal::PrincipalPattern;
use stek_core::time::Timestamp;

use super::grant::ROLES;
use super::request::{json, read};
use crate::cursor::{At, Strings};
use crate::error::DecodeError;

/// The most grants that one token may bring.
pub const MAX_GRANTS: usize = 100;

/// Asks for a new token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateToken {
    /// The principal that its bearer will be.
    pub principal: PrincipalName,
    /// The hash of its secret.
    pub hash: TokenHash,
    /// From when on it is refused.
    pub expires_at: Timestamp,
    /// What the principal may do.
    pub grants: Vec<Grant>,
}

impl CreateToken {
    /// Reads the request.
    ///
    /// # Errors
    /// [`DecodeError`] with the field at fault.
    pub fn decode(input: &[u8]) -> Result<Self, DecodeError> {
        let document = read(input)?;
        let at = At::top(&document, Strings::Shown);
        at.only(&["principal", "hash", "expires_at", "grants"])?;
        let named = at.field("principal")?;
        let principal = named.principal()?;
        // A pattern would grant to others too.
        let exactly = named.named(|_| PrincipalPattern::exactly(&principal))?;
        let grants = at.field("grants")?;
        let grants = grants.items(MAX_GRANTS)?.map(|grant| {
            grant.only(&["keysets", "role"])?;
            Ok(Grant {
                principal: exactly.clone(),
                keysets: grant.field("keysets")?.named(KeysetSelector::parse)?,
                role: grant.field("role")?.parsed(ROLES, Role::parse)?,
            })
        });
        let grants = grants.collect::<Result<Vec<_>, DecodeError>>()?;
        Ok(Self {
            hash: at.field("hash")?.parsed("64 hexadecimal digits", TokenHash::parse)?,
            expires_at: at.field("expires_at")?.timestamp()?,
            principal,
            grants,
        })
    }

    /// The request as JSON.
    pub fn encode(&self) -> String {
        json(&Create {
            principal: self.principal.as_str(),
            hash: self.hash.to_hex(),
            expires_at: self.expires_at.to_string(),
            grants: self.grants.iter().map(GrantDocument::from).collect(),
        })
    }
}

#[derive(Serialize)]
struct Create<'a> {
    principal: &'a str,
    hash: String,
    expires_at: String,
    grants: Vec<GrantDocument>,
}

/// What a principal may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GrantDocument {
    /// A keyset's name, or `*` for all.
    pub keysets: String,
    /// `terminator`, `distribution`, `operator`, `auditor` or `manager`.
    pub role: String,
}

impl From<&Grant> for GrantDocument {
    fn from(grant: &Grant) -> Self {
        Self { keysets: grant.keysets.to_string(), role: grant.role.as_str().to_owned() }
    }
}

/// A token without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TokenDocument {
    /// Its identity, for revoking it.
    pub id: String,
    /// The principal that its bearer is.
    pub principal: String,
    /// From when on it is refused.
    pub expires_at: String,
    /// What the principal may do.
    pub grants: Vec<GrantDocument>,
}

/// All tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TokenList {
    /// The tokens.
    pub tokens: Vec<TokenDocument>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use stek_core::access::TokenSecret;

    fn request() -> CreateToken {
        let principal = PrincipalName::try_new("token:edge").unwrap();
        let keysets = KeysetSelector::parse("main").unwrap();
        CreateToken {
            hash: TokenSecret::take_from(&mut [9; 32]).hash(),
            expires_at: Timestamp::from_unix(1_790_000_000),
            grants: vec![Grant {
                principal: PrincipalPattern::exactly(&principal).unwrap(),
                keysets,
                role: Role::Terminator,
            }],
            principal,
        }
    }

    #[test]
    fn requests_read_what_they_write() {
        assert_eq!(CreateToken::decode(request().encode().as_bytes()), Ok(request()));
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        let good = request().encode();
        for (from, to, field) in [
            ("terminator", "root", "grants[0].role"),
            ("\"main\"", "\"Main\"", "grants[0].keysets"),
            ("token:edge", "token edge", "principal"),
            ("token:edge", "*.edge.example", "principal"),
            ("2026-", "2026/", "expires_at"),
            ("\"hash\":\"", "\"hash\":\"0", "hash"),
            ("\"role\"", "\"rôle\"", "grants[0]"),
        ] {
            let error = CreateToken::decode(good.replace(from, to).as_bytes()).unwrap_err();
            assert!(error.to_string().contains(field), "{field}: {error}");
        }
    }
}
