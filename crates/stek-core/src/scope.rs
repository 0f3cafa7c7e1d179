//! The resumption domain in which a ticket is valid. Two configurations share tickets only if all
//! of this is equal, so a client can never resume past a check that it did not pass.

use std::fmt;

use sha2::{Digest, Sha256};

/// Longest label or server name in bytes.
pub const SCOPE_TEXT_MAX: usize = 255;
/// The most server names, and the most client CAs, of one scope.
pub const SCOPE_LIST_MAX: usize = 1024;

/// What a server demands of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientAuth {
    /// No certificate is asked for.
    None,
    /// One is asked for; clients without one are served.
    Optional,
    /// Clients without a valid one are refused.
    Required,
}

impl ClientAuth {
    const fn as_u8(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Optional => 1,
            Self::Required => 2,
        }
    }
}

/// Whether chains of resumption are capped in this scope. The two never share tickets: one that
/// does not cap would renew what the other must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChainRule {
    /// Renewal carries the instant of the full handshake, and ends with the session lifetime.
    Capped,
    /// Renewal begins anew; only the ticket lifetime bounds each ticket.
    Unbounded,
}

impl ChainRule {
    const fn as_u8(self) -> u8 {
        match self {
            Self::Unbounded => 0,
            Self::Capped => 1,
        }
    }
}

/// A certification authority whose clients are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientCa {
    /// The subject name, DER.
    pub subject: Vec<u8>,
    /// The SubjectPublicKeyInfo, DER.
    pub spki: Vec<u8>,
    /// The name constraints, DER, empty without any.
    pub name_constraints: Vec<u8>,
}

/// The resumption domain of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    label: String,
    server_names: Vec<String>,
    client_auth: ClientAuth,
    client_cas: Vec<ClientCa>,
    policy_epoch: u64,
    chain: ChainRule,
    client_rule: String,
}

/// Part of a scope that is too long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} has {len} {unit}, allowed are {max}")]
pub struct ScopeError {
    /// Which part.
    pub field: &'static str,
    /// How long it is.
    pub len: usize,
    /// What is counted.
    pub unit: &'static str,
    /// The most allowed.
    pub max: usize,
}

impl Scope {
    /// A scope of this label for servers that ask no certificate of clients, without server names.
    ///
    /// # Errors
    /// [`ScopeError`] if the label has more than [`SCOPE_TEXT_MAX`] bytes.
    pub fn try_new(label: &str, chain: ChainRule) -> Result<Self, ScopeError> {
        check("label", label.len(), "bytes", SCOPE_TEXT_MAX)?;
        Ok(Self {
            label: label.to_owned(),
            server_names: Vec::new(),
            client_auth: ClientAuth::None,
            client_cas: Vec::new(),
            policy_epoch: 0,
            chain,
            client_rule: String::new(),
        })
    }

    /// The same for these server names only, in whatever order and case.
    ///
    /// # Errors
    /// [`ScopeError`] if there are too many or one is too long.
    pub fn with_server_names<N: AsRef<str>>(mut self, names: &[N]) -> Result<Self, ScopeError> {
        check("server_names", names.len(), "entries", SCOPE_LIST_MAX)?;
        for name in names {
            check("server name", name.as_ref().len(), "bytes", SCOPE_TEXT_MAX)?;
        }
        self.server_names = names.iter().map(|name| name.as_ref().to_ascii_lowercase()).collect();
        self.server_names.sort_unstable();
        self.server_names.dedup();
        Ok(self)
    }

    /// The same for servers that ask certificates of clients.
    ///
    /// # Errors
    /// [`ScopeError`] if there are too many authorities or a part of one passes 65,535 bytes.
    pub fn with_client_auth(
        mut self,
        mode: ClientAuth,
        authorities: Vec<ClientCa>,
    ) -> Result<Self, ScopeError> {
        check("client_cas", authorities.len(), "entries", SCOPE_LIST_MAX)?;
        for ca in &authorities {
            for part in [&ca.subject, &ca.spki, &ca.name_constraints] {
                check("client CA", part.len(), "bytes", usize::from(u16::MAX))?;
            }
        }
        self.client_auth = mode;
        self.client_cas = authorities;
        Ok(self)
    }

    /// The same for servers that judge certificates of clients by a rule of this name, beyond who
    /// issued them. Empty is none.
    ///
    /// # Errors
    /// [`ScopeError`] if the name has more than [`SCOPE_TEXT_MAX`] bytes.
    pub fn with_client_rule(mut self, rule: &str) -> Result<Self, ScopeError> {
        check("client_rule", rule.len(), "bytes", SCOPE_TEXT_MAX)?;
        self.client_rule = rule.to_owned();
        Ok(self)
    }

    /// The same after `epoch` changes of what a certificate must prove; raise it to end sessions
    /// that were let in under the older rule.
    #[must_use]
    pub fn with_policy_epoch(mut self, epoch: u64) -> Self {
        self.policy_epoch = epoch;
        self
    }

    /// The label.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Whether chains of resumption are capped.
    pub fn chain(&self) -> ChainRule {
        self.chain
    }

    /// What clients must prove.
    pub fn client_auth(&self) -> ClientAuth {
        self.client_auth
    }

    /// The digest under which keys are derived:
    ///
    /// ```text
    /// SHA-256("stek/scope/1" ‖ lp(label) ‖ n16 ‖ lp(name)… ‖ mode u8 ‖ n16 ‖ SHA-256(CA)… ‖
    ///         policy_epoch u64 ‖ chain u8 [‖ lp(client rule)])
    /// CA = lp(subject) ‖ lp(SPKI) ‖ lp(name constraints);   lp = u16 big-endian length before;
    /// n16 = u16 big-endian count;   names and CA digests sorted, without repetition;
    /// nothing stands for no client rule
    /// ```
    pub fn digest(&self) -> ScopeDigest {
        let mut hash = Sha256::new();
        hash.update(b"stek/scope/1");
        prefixed(&mut hash, self.label.as_bytes());
        hash.update(count(self.server_names.len()));
        for name in &self.server_names {
            prefixed(&mut hash, name.as_bytes());
        }
        hash.update([self.client_auth.as_u8()]);
        let mut authorities: Vec<[u8; 32]> = self.client_cas.iter().map(ca_digest).collect();
        authorities.sort_unstable();
        authorities.dedup();
        hash.update(count(authorities.len()));
        for digest in &authorities {
            hash.update(digest);
        }
        hash.update(self.policy_epoch.to_be_bytes());
        hash.update([self.chain.as_u8()]);
        if !self.client_rule.is_empty() {
            prefixed(&mut hash, self.client_rule.as_bytes());
        }
        ScopeDigest(hash.finalize().into())
    }
}

fn check(
    field: &'static str,
    len: usize,
    unit: &'static str,
    max: usize,
) -> Result<(), ScopeError> {
    if len > max { Err(ScopeError { field, len, unit, max }) } else { Ok(()) }
}

/// Lengths are checked where they enter, so they fit.
fn count(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes()
}

fn prefixed(hash: &mut Sha256, bytes: &[u8]) {
    hash.update(count(bytes.len()));
    hash.update(bytes);
}

fn ca_digest(ca: &ClientCa) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [&ca.subject, &ca.spki, &ca.name_constraints] {
        prefixed(&mut hash, part);
    }
    hash.finalize().into()
}

/// SHA-256 over a scope; not secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ScopeDigest([u8; 32]);

impl ScopeDigest {
    /// From its bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ScopeDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests;
