//! Names that people choose: keysets, instances, principals. What is allowed in each is decided
//! here, once; who may use which keyset is not.

use std::fmt;
use std::sync::Arc;

/// Longest keyset name in bytes: that of a DNS label, so that it fits wherever one does.
pub const KEYSET_NAME_MAX: usize = 63;
/// Longest instance name in bytes.
pub const INSTANCE_NAME_MAX: usize = 128;
/// Longest principal name in bytes; SPIFFE allows 2048, certificates rarely pass 300.
pub const PRINCIPAL_NAME_MAX: usize = 512;

/// A name that breaks its rule; says the field, the value and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?} is not allowed: {allowed}")]
pub struct NameError {
    /// Which name it is, such as `keyset name`.
    pub field: &'static str,
    /// The refused text, cut after 80 characters.
    pub value: String,
    /// What would have been accepted.
    pub allowed: &'static str,
}

impl NameError {
    pub(crate) fn new(field: &'static str, value: &str, allowed: &'static str) -> Self {
        Self { field, value: value.chars().take(80).collect(), allowed }
    }
}

/// The name of a keyset: 1 to 63 of `a-z 0-9 - . _`, beginning with a letter or digit.
///
/// It appears in URLs, metrics labels and file names as it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeysetName(Arc<str>);

impl KeysetName {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`NameError`] with what is allowed.
    pub fn try_new(name: &str) -> Result<Self, NameError> {
        let fits = (1..=KEYSET_NAME_MAX).contains(&name.len());
        let head =
            name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let body = name.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_')
        });
        if fits && head && body {
            Ok(Self(name.into()))
        } else {
            Err(NameError::new(
                "keyset name",
                name,
                "1 to 63 of a-z, 0-9, '-', '.' and '_', beginning with a letter or digit",
            ))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name under which one running terminator checks in: 1 to 128 visible ASCII characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceName(Arc<str>);

impl InstanceName {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`NameError`] with what is allowed.
    pub fn try_new(name: &str) -> Result<Self, NameError> {
        if (1..=INSTANCE_NAME_MAX).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_graphic())
        {
            Ok(Self(name.into()))
        } else {
            Err(NameError::new("instance name", name, "1 to 128 visible ASCII characters"))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who is asking, as its certificate or token says: 1 to 512 visible ASCII characters, such as
/// `spiffe://example.org/edge/7`, `edge-7.example.org` or `token:edge-7`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrincipalName(Arc<str>);

impl PrincipalName {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`NameError`] with what is allowed.
    pub fn try_new(name: &str) -> Result<Self, NameError> {
        if (1..=PRINCIPAL_NAME_MAX).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_graphic())
        {
            Ok(Self(name.into()))
        } else {
            Err(NameError::new("principal", name, "1 to 512 visible ASCII characters"))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text_like {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::try_new(text)
            }
        }
    )*};
}
text_like!(KeysetName, InstanceName, PrincipalName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyset_names_follow_their_rule() {
        for good in ["a", "main", "eu-west.edge_7", "0", &"x".repeat(63)] {
            assert!(KeysetName::try_new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", ".", "Main", "a/b", "a b", "ä", "a\n", &"x".repeat(64)] {
            let error = KeysetName::try_new(bad).unwrap_err();
            assert!(error.to_string().contains("keyset name"), "{error}");
            assert!(error.to_string().contains("1 to 63"), "{error}");
        }
    }

    #[test]
    fn instance_and_principal_names_are_visible_ascii() {
        assert!(InstanceName::try_new("edge-7#2").is_ok());
        assert!(PrincipalName::try_new("spiffe://example.org/edge/7").is_ok());
        for bad in ["", "a b", "tab\t", "ü", &"x".repeat(513)] {
            assert!(InstanceName::try_new(bad).is_err());
            assert!(PrincipalName::try_new(bad).is_err());
        }
    }
}
