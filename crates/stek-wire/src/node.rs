//! JSON as a tree that borrows its strings from the input, so that reading a secret copies nothing.
//! Values of unknown fields are passed over, not kept. What the fields mean is decided elsewhere.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_path_to_error::{Segment, Track};
use zeroize::Zeroizing;

use crate::error::DecodeError;

/// One JSON value.
pub(crate) enum Node<'de> {
    Null,
    Bool(bool),
    Whole(u64),
    /// A whole number below zero.
    Negative(i64),
    /// Any other number.
    Number,
    /// A string without escapes: a part of the input itself.
    Text(&'de str),
    /// A string that had escapes.
    Escaped(Zeroizing<String>),
    Array(Vec<Node<'de>>),
    Object(Object<'de>),
}

/// The known fields of an object in the order in which they came, and the first unknown one.
pub(crate) struct Object<'de> {
    pub(crate) fields: Vec<(&'static str, Node<'de>)>,
    pub(crate) stranger: Option<String>,
}

/// How much of a document is read.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of input.
    pub(crate) bytes: usize,
    /// Values in known fields; bounds the memory that the tree takes.
    pub(crate) values: usize,
}

/// Whether the names of unknown fields are kept. In documents with keys they are not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strangers {
    Skip,
    Note,
}

/// The longest part of an unknown name or a refused text that is kept.
pub(crate) const SHOWN_CHARACTERS: usize = 80;

/// The name of every field of every document that is read here. A path in an error has no others.
const NAMES: [&str; 57] = [
    "access",
    "access_digest",
    "access_read_at",
    "activate_at",
    "activation_deadline_seconds",
    "activation_quorum",
    "age_ms",
    "cause",
    "clock_offset_ms",
    "challenge",
    "clock_skew_seconds",
    "destroy_at",
    "destroy_by",
    "digest",
    "dry_run",
    "ended",
    "ended_at",
    "expires_at",
    "format",
    "grants",
    "hash",
    "holdings",
    "id",
    "incarnation",
    "instance",
    "instances",
    "kcv",
    "key",
    "keys",
    "keyset",
    "keysets",
    "laggards",
    "last_seen",
    "lead_seconds",
    "name",
    "newest",
    "policy",
    "poll_interval_seconds",
    "principal",
    "published_at",
    "reason",
    "replica",
    "replicas",
    "retire_at",
    "revision",
    "role",
    "rotation_period_seconds",
    "secret",
    "seed",
    "session_lifetime_seconds",
    "since",
    "ticket_lifetime_seconds",
    "tokens",
    "tombstones",
    "twice_since",
    "uncounted",
    "version",
];

/// Reads `input` to its end.
///
/// # Errors
/// [`DecodeError`] if it is over the limits or no JSON; its text repeats nothing of the input.
pub(crate) fn parse(
    input: &[u8],
    limits: Limits,
    strangers: Strangers,
) -> Result<Node<'_>, DecodeError> {
    if input.len() > limits.bytes {
        return Err(DecodeError::TooLong { length: input.len(), limit: limits.bytes });
    }
    let room = Cell::new(limits.values);
    let mut json = serde_json::Deserializer::from_slice(input);
    let mut track = Track::new();
    let reader = Reader { room: &room, strangers };
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let result = reader.deserialize(tracked).and_then(|node| json.end().map(|()| node));
    result.map_err(|error| {
        if room.get() == 0 {
            return DecodeError::TooManyValues { limit: limits.values };
        }
        let field = known_path(&track.path());
        DecodeError::Malformed { field, line: error.line(), column: error.column() }
    })
}

/// The path with `?` for whatever is not a name of ours: a key could stand there too.
fn known_path(path: &serde_path_to_error::Path) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => text.push_str(&format!("[{index}]")),
            Segment::Map { key } => push_name(&mut text, known(key).unwrap_or("?")),
            Segment::Enum { .. } | Segment::Unknown => push_name(&mut text, "?"),
        }
    }
    if text.is_empty() { "document".into() } else { text }
}

/// Appends `name` to a path.
pub(crate) fn push_name(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

fn known(name: &str) -> Option<&'static str> {
    NAMES.into_iter().find(|known| *known == name)
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    room: &'a Cell<usize>,
    strangers: Strangers,
}

impl Reader<'_> {
    /// Takes the place of one value, or ends the reading.
    fn count<'de, E: Error>(self, node: Node<'de>) -> Result<Node<'de>, E> {
        let room = self.room.get().saturating_sub(1);
        self.room.set(room);
        if room == 0 { Err(E::custom("too many values")) } else { Ok(node) }
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Node<'de>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Node<'de>, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Node<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Node<'de>, E> {
        self.count(Node::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node<'de>, E> {
        self.count(Node::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node<'de>, E> {
        self.count(Node::Whole(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node<'de>, E> {
        self.count(Node::Negative(value))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Node<'de>, E> {
        self.count(Node::Number)
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Node<'de>, E> {
        self.count(Node::Text(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Node<'de>, E> {
        self.count(Node::Escaped(Zeroizing::new(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Node<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = from.next_element_seed(self)? {
            items.push(item);
        }
        self.count(Node::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Node<'de>, A::Error> {
        let mut object = Object { fields: Vec::new(), stranger: None };
        while let Some(name) = from.next_key_seed(NameReader(self.strangers))? {
            match name {
                Name::Known(name) => object.fields.push((name, from.next_value_seed(self)?)),
                Name::Stranger(name) => {
                    object.stranger = object.stranger.or(name);
                    from.next_value::<IgnoredAny>()?;
                }
            }
        }
        self.count(Node::Object(object))
    }
}

enum Name {
    Known(&'static str),
    Stranger(Option<String>),
}

struct NameReader(Strangers);

impl<'de> DeserializeSeed<'de> for NameReader {
    type Value = Name;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Name, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for NameReader {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Name, E> {
        Ok(match known(name) {
            Some(name) => Name::Known(name),
            None if self.0 == Strangers::Skip => Name::Stranger(None),
            None => Name::Stranger(Some(name.chars().take(SHOWN_CHARACTERS).collect())),
        })
    }
}
