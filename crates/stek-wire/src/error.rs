//! Why a document was refused: the field, what is allowed there, and what came if that can be shown.
//! Texts of the JSON library are never repeated, for they repeat what they read.

use std::fmt;

use stek_core::bundle::BundleError;
use stek_core::policy::PolicyError;
use stek_core::schedule::ScheduleError;

/// A document that was not accepted. No variant holds text from a document that may hold a key.
///
/// Fields are named as a path from the top, such as `keys[0].kcv`; the top is `document`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than a document of its kind may have.
    #[error("document has {length} bytes, allowed are {limit}")]
    TooLong {
        /// How many came.
        length: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// More values than a document of its kind may have.
    #[error("document has more than {limit} values")]
    TooManyValues {
        /// How many are allowed.
        limit: usize,
    },
    /// It is no JSON (RFC 8259), or stops in the middle, or goes on after its end.
    #[error("{field} is not well-formed JSON at line {line}, column {column}")]
    Malformed {
        /// The field being read.
        field: String,
        /// Line, from 1.
        line: usize,
        /// Column in bytes, from 1, or 0 at the start of a line.
        column: usize,
    },
    /// A version that this program does not read.
    #[error("{field} is {found}, this program reads version {}", crate::VERSION)]
    Version {
        /// The field that holds it.
        field: String,
        /// The version that came.
        found: u64,
    },
    /// A field that must be there is not.
    #[error("{field} is missing")]
    Missing {
        /// The field.
        field: String,
    },
    /// A field stands there twice, so that two readers could disagree.
    #[error("{field} is given more than once")]
    Repeated {
        /// The field.
        field: String,
    },
    /// A field that a request does not have; see [`crate::admin`].
    #[error("{field} is not known, allowed are {allowed}")]
    Unknown {
        /// The field.
        field: String,
        /// The fields that there are.
        allowed: String,
    },
    /// The value is of the wrong type or none of those allowed.
    #[error("{field} is {found}, allowed is {allowed}")]
    Value {
        /// The field.
        field: String,
        /// What came, as far as it may be shown.
        found: Found,
        /// What would have been accepted.
        allowed: &'static str,
    },
    /// Too long an array.
    #[error("{field} has {count} items, allowed are {limit}")]
    TooManyItems {
        /// The field.
        field: String,
        /// How many came.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// The policy breaks a relation.
    #[error("{field} is unsound")]
    Policy {
        /// The policy's field.
        field: String,
        /// The relation.
        #[source]
        source: PolicyError,
    },
    /// The instants of a key are out of order.
    #[error("{field} has instants out of order")]
    Schedule {
        /// The key's field.
        field: String,
        /// Which two.
        #[source]
        source: ScheduleError,
    },
    /// The keys are wrong, weak, or cannot stand beside each other.
    #[error("{field} is no bundle to install")]
    Bundle {
        /// The bundle's field.
        field: String,
        /// What is wrong.
        #[source]
        source: BundleError,
    },
}

impl DecodeError {
    /// The field at fault, if it is one.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::TooLong { .. } | Self::TooManyValues { .. } => None,
            Self::Malformed { field, .. }
            | Self::Version { field, .. }
            | Self::Missing { field }
            | Self::Repeated { field }
            | Self::Unknown { field, .. }
            | Self::Value { field, .. }
            | Self::TooManyItems { field, .. }
            | Self::Policy { field, .. }
            | Self::Schedule { field, .. }
            | Self::Bundle { field, .. } => Some(field),
        }
    }

    /// What is allowed in that field, where that can be said in a few words.
    pub fn allowed(&self) -> Option<&str> {
        match self {
            Self::Value { allowed, .. } => Some(allowed),
            Self::Unknown { allowed, .. } => Some(allowed),
            _ => None,
        }
    }
}

/// What stood where something else was allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number without sign or fraction.
    Whole(u64),
    /// Any other number.
    Number,
    /// A string of so many characters, not shown, for a key may have strayed there.
    Text {
        /// How long it is.
        characters: usize,
    },
    /// A string of a request, which holds no keys; cut after 80 characters.
    Shown(String),
    /// An array.
    Array,
    /// An object.
    Object,
    /// Something in the place of a secret.
    Hidden,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            Self::Whole(value) => value.fmt(f),
            Self::Number => f.write_str("a number with a sign, a fraction or too many digits"),
            Self::Text { characters } => write!(f, "a string of {characters} characters"),
            Self::Shown(text) => write!(f, "{text:?}"),
            Self::Array => f.write_str("an array"),
            Self::Object => f.write_str("an object"),
            Self::Hidden => f.write_str("something else (not shown)"),
        }
    }
}
