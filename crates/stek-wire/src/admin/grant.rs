//! Grants as operators make, see and remove them.

use serde::{Deserialize, Serialize};
use stek_core::access::{Grant, KeysetSelector, Role};

use super::request::{json, read};
use crate::cursor::{At, Strings};
use crate::error::DecodeError;

pub(crate) const ROLES: &str = "terminator, distribution, operator, auditor or manager";

/// A grant: who may act in which role on which keysets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GrantEntry {
    /// A principal, or a pattern with `*` for a whole segment of a URI's path or label of a DNS name.
    pub principal: String,
    /// A keyset's name, or `*` for all.
    pub keysets: String,
    /// `terminator`, `distribution`, `operator`, `auditor` or `manager`.
    pub role: String,
}

impl GrantEntry {
    /// Reads the request for a new grant.
    ///
    /// # Errors
    /// [`DecodeError`] with the field at fault.
    pub fn decode(input: &[u8]) -> Result<Grant, DecodeError> {
        let document = read(input)?;
        let at = At::top(&document, Strings::Shown);
        at.only(&["principal", "keysets", "role"])?;
        Ok(Grant {
            principal: at.field("principal")?.pattern()?,
            keysets: at.field("keysets")?.named(KeysetSelector::parse)?,
            role: at.field("role")?.parsed(ROLES, Role::parse)?,
        })
    }

    /// The grant that it says.
    ///
    /// # Errors
    /// [`DecodeError`] with the field at fault.
    pub fn to_grant(&self) -> Result<Grant, DecodeError> {
        Self::decode(self.encode().as_bytes())
    }

    /// The request as JSON.
    pub fn encode(&self) -> String {
        json(self)
    }
}

impl From<&Grant> for GrantEntry {
    fn from(grant: &Grant) -> Self {
        Self {
            principal: grant.principal.to_string(),
            keysets: grant.keysets.to_string(),
            role: grant.role.as_str().to_owned(),
        }
    }
}

/// All grants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GrantList {
    /// The grants by principal, keysets and role.
    pub grants: Vec<GrantEntry>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use stek_core::principal::PrincipalPattern;

    fn grant() -> Grant {
        Grant {
            principal: PrincipalPattern::try_new("spiffe://td/edge/*").unwrap(),
            keysets: KeysetSelector::parse("main").unwrap(),
            role: Role::Terminator,
        }
    }

    #[test]
    fn requests_read_what_they_write() {
        assert_eq!(GrantEntry::from(&grant()).to_grant(), Ok(grant()));
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        let good = GrantEntry::from(&grant()).encode();
        for (from, to, field) in [
            ("edge/*", "edge-*", "principal"),
            ("main", "Main", "keysets"),
            ("terminator", "root", "role"),
            ("\"role\"", "\"rôle\"", "rôle"),
        ] {
            let error = GrantEntry::decode(good.replace(from, to).as_bytes()).unwrap_err();
            assert!(error.to_string().contains(field), "{field}: {error}");
        }
    }
}
