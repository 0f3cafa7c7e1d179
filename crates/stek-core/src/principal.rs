//! Whom a grant means and who asks: patterns of principals, and the names that one proof gives.
//! Which keysets and roles go with them is decided in [`crate::access`].

use std::fmt;
use std::sync::Arc;

use crate::name::{NameError, PrincipalName};

/// The most names that one certificate may bear. SPIFFE allows one URI; the rest is room for those
/// who put several DNS names beside it.
pub const MAX_NAMES: usize = 16;

/// What the principals of bearer tokens begin with. No certificate can speak in such a name.
pub const TOKEN_PREFIX: &str = "token:";

/// What the audit trail calls the planner.
pub const PLANNER: &str = "manager";

/// Names that the audit trail gives to itself: those of the planner and of commands without a
/// manager. No token and no certificate can speak in them.
pub const RESERVED: [&str; 2] = [PLANNER, "offline"];

/// What stands for one whole segment in a pattern.
const ANY: &str = "*";

const ALLOWED: &str = "a principal, or one with '*' for a whole segment of a URI's path, such as \
                       spiffe://example.org/edge/*, or for a whole label of a DNS name but the \
                       last, such as *.edge.example";

/// Whom a grant means: one principal, or all whose names differ from it in whole segments only.
///
/// `*` stands for exactly one segment that is not empty: between slashes in the path of a URI,
/// between dots in a DNS name. It stands for nothing else, so that
/// `spiffe://example.org/edge/*` covers neither `…/edge` nor `…/edge/a/b` nor `…/edge/`. There is
/// none for several segments, none for the authority of a URI and none for names of tokens.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrincipalPattern(Arc<str>);

impl PrincipalPattern {
    /// Checks `text`: 1 to 512 visible ASCII characters, `*` as said above.
    ///
    /// # Errors
    /// [`NameError`] with what is allowed.
    pub fn try_new(text: &str) -> Result<Self, NameError> {
        PrincipalName::try_new(text)?;
        if text.contains(ANY) && !places_are_sound(text) {
            return Err(NameError::new("principal pattern", text, ALLOWED));
        }
        Ok(Self(text.into()))
    }

    /// The pattern that means `name` alone.
    ///
    /// # Errors
    /// [`NameError`] for a name with a star in it, which would mean others too.
    pub fn exactly(name: &PrincipalName) -> Result<Self, NameError> {
        let text = name.as_str();
        if text.contains(ANY) {
            return Err(NameError::new("principal", text, "a name without '*'"));
        }
        Ok(Self(text.into()))
    }

    /// Whether it means `name`. Takes time by the length of both and no more.
    pub fn covers(&self, name: &PrincipalName) -> bool {
        let name = name.as_str();
        if self.is_literal() {
            return *self.0 == *name;
        }
        let kind = Kind::of(&self.0);
        if kind != Kind::of(name) || kind == Kind::Other {
            return false;
        }
        let separator = kind.separator();
        let mut segments = name.split(separator);
        let fits = |wanted: &str| match segments.next() {
            Some(segment) if wanted == ANY => !segment.is_empty(),
            Some(segment) => wanted == segment,
            None => false,
        };
        self.0.split(separator).all(fits) && segments.next().is_none()
    }

    /// Whether it means one principal only.
    pub fn is_literal(&self) -> bool {
        !self.0.contains(ANY)
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PrincipalPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PrincipalPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// How a name is cut into segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `scheme://authority/path`, cut at slashes.
    Uri,
    /// Letters, digits, hyphens and underscores, cut at dots.
    Dns,
    /// Anything else, such as `token:edge-7`: not cut at all.
    Other,
}

impl Kind {
    fn of(text: &str) -> Self {
        let in_scheme = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
        let in_dns = |b: u8| b.is_ascii_alphanumeric() || b"-_.*".contains(&b);
        match text.split_once("://") {
            Some((scheme, _)) if !scheme.is_empty() && scheme.bytes().all(in_scheme) => Self::Uri,
            None if text.bytes().all(in_dns) => Self::Dns,
            _ => Self::Other,
        }
    }

    fn separator(self) -> char {
        if self == Self::Uri { '/' } else { '.' }
    }
}

/// Whether every star stands where one may.
fn places_are_sound(text: &str) -> bool {
    let kind = Kind::of(text);
    let whole = |segment: &str| segment == ANY || !segment.contains(ANY);
    match kind {
        // scheme: / nothing / authority / path…
        Kind::Uri => {
            let mut segments = text.split('/');
            let authority = segments.nth(2).unwrap_or(ANY);
            !authority.contains(ANY) && segments.all(whole)
        }
        Kind::Dns => {
            let last = text.rsplit('.').next().unwrap_or(ANY);
            !last.is_empty() && !last.contains(ANY) && text.split('.').all(whole)
        }
        Kind::Other => false,
    }
}

/// The names that one proof gives: that of a token, or those of a certificate. At least one, at
/// most [`MAX_NAMES`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principals(Arc<[PrincipalName]>);

impl Principals {
    /// These names, in this order; `None` if there are none or too many.
    pub fn try_new(names: impl IntoIterator<Item = PrincipalName>) -> Option<Self> {
        let names: Vec<_> = names.into_iter().take(MAX_NAMES + 1).collect();
        (1..=MAX_NAMES).contains(&names.len()).then(|| Self(names.into()))
    }

    /// The name under which it is written down what they did: the first.
    pub fn shown(&self) -> &PrincipalName {
        &self.0[0]
    }

    /// The names, that under which it is written down first.
    pub fn names(&self) -> &[PrincipalName] {
        &self.0
    }

    /// Whether a grant to `pattern` is one to any of them.
    pub fn fit(&self, pattern: &PrincipalPattern) -> bool {
        self.0.iter().any(|name| pattern.covers(name))
    }
}

impl From<PrincipalName> for Principals {
    fn from(name: PrincipalName) -> Self {
        Self([name].into())
    }
}

#[cfg(test)]
mod tests;
