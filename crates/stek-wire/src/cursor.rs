//! Walks a JSON tree and knows where it stands, so that each refusal names its field. Converts to
//! the identifiers of the domain; relations between fields are the domain's own to check.

use base64ct::{Base64, Encoding};
use stek_core::access::TokenSecret;
use stek_core::id::{ContentDigest, Incarnation, Kcv, KeyId, Revision};
use stek_core::name::{KeysetName, NameError, PrincipalName};
use stek_core::principal::PrincipalPattern;
use stek_core::secret::{KEY_LEN, KeyMaterial};
use stek_core::time::{Seconds, Timestamp};

use crate::error::{DecodeError, Found};
use crate::node::{Node, Object, SHOWN_CHARACTERS, push_name};
use crate::secret_bytes::KEY_TEXT_LEN;

/// Whether refused strings appear in errors.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strings {
    /// Never, for the document may hold keys and one could have strayed.
    Hidden,
    /// Cut after a while.
    Shown,
}

/// One value of a document and the way to it.
#[derive(Clone, Copy)]
pub(crate) struct At<'a, 'de> {
    node: &'a Node<'de>,
    step: Step<'a, 'de>,
    strings: Strings,
}

#[derive(Clone, Copy)]
enum Step<'a, 'de> {
    Top,
    Field(&'a At<'a, 'de>, &'static str),
    Item(&'a At<'a, 'de>, usize),
}

impl<'a, 'de> At<'a, 'de> {
    /// The whole document.
    pub(crate) fn top(node: &'a Node<'de>, strings: Strings) -> Self {
        Self { node, step: Step::Top, strings }
    }

    /// The field `name` of this object; it must be there.
    pub(crate) fn field(&'a self, name: &'static str) -> Result<Self, DecodeError> {
        self.find(name)?.ok_or_else(|| {
            let mut field = self.way();
            push_name(&mut field, name);
            DecodeError::Missing { field }
        })
    }

    /// The field `name` of this object, unless it is absent or null.
    pub(crate) fn optional(&'a self, name: &'static str) -> Result<Option<Self>, DecodeError> {
        Ok(self.find(name)?.filter(|at| !at.is_null()))
    }

    /// The items of this array, of which there are at most `limit`.
    pub(crate) fn items(
        &'a self,
        limit: usize,
    ) -> Result<impl Iterator<Item = At<'a, 'de>>, DecodeError> {
        let Node::Array(items) = self.node else { return Err(self.wrong("an array")) };
        if items.len() > limit {
            let (field, count) = (self.path(), items.len());
            return Err(DecodeError::TooManyItems { field, count, limit });
        }
        let strings = self.strings;
        let item = move |(index, node)| At { node, step: Step::Item(self, index), strings };
        Ok(items.iter().enumerate().map(item))
    }

    /// Refuses an object with fields other than `names`.
    pub(crate) fn only(&self, names: &[&str]) -> Result<(), DecodeError> {
        let object = self.object()?;
        let known = object.fields.iter().map(|(name, _)| *name).find(|name| !names.contains(name));
        let Some(stranger) = known.or(object.stranger.as_deref()) else { return Ok(()) };
        let mut field = self.way();
        push_name(&mut field, stranger);
        Err(DecodeError::Unknown { field, allowed: names.join(", ") })
    }

    /// Whether it is `null`.
    pub(crate) fn is_null(&self) -> bool {
        matches!(self.node, Node::Null)
    }

    /// This truth value.
    pub(crate) fn truth(&self) -> Result<bool, DecodeError> {
        match self.node {
            Node::Bool(value) => Ok(*value),
            _ => Err(self.wrong("true or false")),
        }
    }

    /// This number.
    pub(crate) fn whole(&self) -> Result<u64, DecodeError> {
        match self.node {
            Node::Whole(value) => Ok(*value),
            _ => Err(self.wrong("a whole number from 0 to 18446744073709551615")),
        }
    }

    /// This number, below zero or not, if it is whole and fits.
    pub(crate) fn signed(&self) -> Option<i64> {
        match self.node {
            Node::Whole(value) => i64::try_from(*value).ok(),
            Node::Negative(value) => Some(*value),
            _ => None,
        }
    }

    /// This span.
    pub(crate) fn seconds(&self) -> Result<Seconds, DecodeError> {
        match self.node {
            Node::Whole(value) => Ok(Seconds::new(*value)),
            _ => Err(self.wrong("a whole number of seconds")),
        }
    }

    /// This revision.
    pub(crate) fn revision(&self) -> Result<Revision, DecodeError> {
        self.whole().map(Revision::new)
    }

    /// What `parse` makes of this string.
    pub(crate) fn parsed<T>(
        &self,
        allowed: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, DecodeError> {
        self.text().and_then(parse).ok_or_else(|| self.wrong(allowed))
    }

    /// This instant.
    pub(crate) fn timestamp(&self) -> Result<Timestamp, DecodeError> {
        let allowed = "an RFC 3339 instant in whole seconds between 1970 and 9999";
        self.parsed(allowed, |text| Timestamp::parse(text).ok())
    }

    /// This key identity.
    pub(crate) fn key_id(&self) -> Result<KeyId, DecodeError> {
        self.parsed("a UUID", |text| KeyId::parse(text).ok())
    }

    /// This lineage.
    pub(crate) fn incarnation(&self) -> Result<Incarnation, DecodeError> {
        self.parsed("a UUID", |text| Incarnation::parse(text).ok())
    }

    /// This check value.
    pub(crate) fn kcv(&self) -> Result<Kcv, DecodeError> {
        self.parsed("16 hexadecimal digits", |text| Kcv::parse(text).ok())
    }

    /// This digest.
    pub(crate) fn digest(&self) -> Result<ContentDigest, DecodeError> {
        self.parsed("16 hexadecimal digits", |text| ContentDigest::parse(text).ok())
    }

    /// This keyset name.
    pub(crate) fn keyset_name(&self) -> Result<KeysetName, DecodeError> {
        self.named(KeysetName::try_new)
    }

    /// This principal.
    pub(crate) fn principal(&self) -> Result<PrincipalName, DecodeError> {
        self.named(PrincipalName::try_new)
    }

    /// This pattern of principals.
    pub(crate) fn pattern(&self) -> Result<PrincipalPattern, DecodeError> {
        self.named(PrincipalPattern::try_new)
    }

    /// This name. The domain's error is not passed on, for it repeats the value.
    pub(crate) fn named<T>(
        &self,
        parse: impl FnOnce(&str) -> Result<T, NameError>,
    ) -> Result<T, DecodeError> {
        let text = self.text().ok_or_else(|| self.wrong("a string"))?;
        parse(text).map_err(|error| self.wrong(error.allowed))
    }

    /// This key, decoded from the input itself to where it will stay, in constant time.
    ///
    /// A string with escapes is refused: unescaping leaves a copy in memory that nobody wipes. No
    /// encoder has a reason to escape base64.
    pub(crate) fn secret(&self) -> Result<KeyMaterial, DecodeError> {
        self.borrowed_key().ok_or_else(|| DecodeError::Value {
            field: self.path(),
            found: Found::Hidden,
            allowed: "the base64 of 32 bytes, with padding and without escapes",
        })
    }

    /// Says that this value is not `allowed`.
    pub(crate) fn wrong(&self, allowed: &'static str) -> DecodeError {
        DecodeError::Value { field: self.path(), found: self.found(), allowed }
    }

    /// The way from the top, `document` for the top itself.
    pub(crate) fn path(&self) -> String {
        let way = self.way();
        if way.is_empty() { "document".into() } else { way }
    }

    fn way(&self) -> String {
        match self.step {
            Step::Top => String::new(),
            Step::Field(parent, name) => {
                let mut way = parent.way();
                push_name(&mut way, name);
                way
            }
            Step::Item(parent, index) => format!("{}[{index}]", parent.way()),
        }
    }

    fn object(&self) -> Result<&'a Object<'de>, DecodeError> {
        match self.node {
            Node::Object(object) => Ok(object),
            _ => Err(self.wrong("an object")),
        }
    }

    fn find(&'a self, name: &'static str) -> Result<Option<Self>, DecodeError> {
        let mut found = self.object()?.fields.iter().filter(|(known, _)| *known == name);
        let Some((_, node)) = found.next() else { return Ok(None) };
        let at = At { node, step: Step::Field(self, name), strings: self.strings };
        match found.next() {
            Some(_) => Err(DecodeError::Repeated { field: at.path() }),
            None => Ok(Some(at)),
        }
    }

    fn text(&self) -> Option<&str> {
        match self.node {
            Node::Text(text) => Some(text),
            Node::Escaped(text) => Some(text),
            _ => None,
        }
    }

    fn borrowed_key(&self) -> Option<KeyMaterial> {
        let Node::Text(text) = self.node else { return None };
        if text.len() != KEY_TEXT_LEN {
            return None;
        }
        KeyMaterial::try_from_fill(|bytes| match Base64::decode(text, bytes) {
            Ok(decoded) if decoded.len() == KEY_LEN => Ok(()),
            Ok(_) | Err(_) => Err(()),
        })
        .ok()
    }

    fn found(&self) -> Found {
        match self.node {
            Node::Null => Found::Null,
            Node::Bool(value) => Found::Bool(*value),
            Node::Whole(value) => Found::Whole(*value),
            Node::Number | Node::Negative(_) => Found::Number,
            Node::Text(text) => self.found_text(text),
            Node::Escaped(text) => self.found_text(text),
            Node::Array(_) => Found::Array,
            Node::Object(_) => Found::Object,
        }
    }

    fn found_text(&self, text: &str) -> Found {
        match self.strings {
            Strings::Shown if !text.contains(TokenSecret::PREFIX) => {
                Found::Shown(text.chars().take(SHOWN_CHARACTERS).collect())
            }
            // Also a bearer token that was pasted into a request.
            Strings::Shown | Strings::Hidden => Found::Text { characters: text.chars().count() },
        }
    }
}
