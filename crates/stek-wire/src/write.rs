//! Writes compact JSON twice: once to learn its length, once into memory of exactly that length,
//! so that no key is ever moved by a growing buffer. What a document contains, others decide.

use std::fmt::{self, Display, Write};

use stek_core::secret::KeyMaterial;

use crate::secret_bytes::{KEY_TEXT_LEN, SecretBytes};

/// The bytes of the document that `document` writes. It is called twice and must write the same.
pub(crate) fn encode(document: impl Fn(&mut Json<'_>)) -> SecretBytes {
    let mut length = Length(0);
    document(&mut Json::new(&mut length));
    let mut bytes = SecretBytes::with_capacity(length.0);
    document(&mut Json::new(&mut bytes));
    assert_eq!(bytes.len(), length.0, "a document has one length");
    bytes
}

/// A JSON document in the making; puts the commas.
pub(crate) struct Json<'a> {
    sink: &'a mut dyn Sink,
    comma: Comma,
}

impl<'a> Json<'a> {
    fn new(sink: &'a mut dyn Sink) -> Self {
        Self { sink, comma: Comma::Absent }
    }

    /// An object with what `fields` writes.
    pub(crate) fn object(&mut self, fields: impl FnOnce(&mut Self)) {
        self.separate();
        self.sink.text("{");
        self.comma = Comma::Absent;
        fields(self);
        self.sink.text("}");
        self.comma = Comma::Due;
    }

    /// An array with what `each` writes of every item.
    pub(crate) fn array<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut each: impl FnMut(&mut Self, T),
    ) {
        self.separate();
        self.sink.text("[");
        self.comma = Comma::Absent;
        for item in items {
            each(self, item);
        }
        self.sink.text("]");
        self.comma = Comma::Due;
    }

    /// The name of a field; its value comes next.
    pub(crate) fn name(&mut self, name: &'static str) -> &mut Self {
        self.text(name);
        self.sink.text(":");
        self.comma = Comma::Absent;
        self
    }

    /// A string, escaped where JSON asks for it (RFC 8259, section 7).
    pub(crate) fn text(&mut self, value: impl Display) {
        self.separate();
        self.sink.text("\"");
        write!(Escaping(self.sink), "{value}")
            .expect("memory takes all, and every value has a text");
        self.sink.text("\"");
    }

    /// A number without sign or fraction.
    pub(crate) fn whole(&mut self, value: u64) {
        self.separate();
        write!(Escaping(self.sink), "{value}").expect("memory takes all");
    }

    /// A number without fraction.
    pub(crate) fn signed(&mut self, value: i64) {
        self.separate();
        write!(Escaping(self.sink), "{value}").expect("memory takes all");
    }

    /// Nothing.
    pub(crate) fn null(&mut self) {
        self.separate();
        self.sink.text("null");
    }

    /// A key in base64.
    pub(crate) fn key(&mut self, material: &KeyMaterial) {
        self.separate();
        self.sink.text("\"");
        self.sink.key(material);
        self.sink.text("\"");
    }

    fn separate(&mut self) {
        if self.comma == Comma::Due {
            self.sink.text(",");
        }
        self.comma = Comma::Due;
    }
}

/// Whether a comma must come before the next value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comma {
    Due,
    Absent,
}

trait Sink {
    fn text(&mut self, text: &str);
    fn key(&mut self, material: &KeyMaterial);
}

impl Sink for SecretBytes {
    fn text(&mut self, text: &str) {
        self.extend_from_slice(text.as_bytes());
    }

    fn key(&mut self, material: &KeyMaterial) {
        self.push_key(material);
    }
}

/// Counts bytes and looks at no key.
struct Length(usize);

impl Sink for Length {
    fn text(&mut self, text: &str) {
        self.0 += text.len();
    }

    fn key(&mut self, _: &KeyMaterial) {
        self.0 += KEY_TEXT_LEN;
    }
}

struct Escaping<'a>(&'a mut dyn Sink);

impl Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(|c: char| c == '"' || c == '\\' || c < ' ') {
            let (plain, special) = rest.split_at(at);
            self.0.text(plain);
            let mut characters = special.chars();
            if let Some(special) = characters.next() {
                self.0.text(&format!("\\u{:04x}", u32::from(special)));
            }
            rest = characters.as_str();
        }
        self.0.text(rest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(document: impl Fn(&mut Json<'_>)) -> String {
        String::from_utf8(encode(document).as_slice().to_vec()).unwrap()
    }

    #[test]
    fn commas_stand_between_and_nowhere_else() {
        let text = written(|json| {
            json.object(|json| {
                json.name("a").array([1, 2], Json::whole);
                json.name("b").array(Vec::<u64>::new(), Json::whole);
                json.name("c").object(|_| {});
                json.name("d").array(["x", "y"], |json, item| {
                    json.object(|json| json.name("e").text(item));
                });
                json.name("f").null();
            });
        });
        assert_eq!(text, r#"{"a":[1,2],"b":[],"c":{},"d":[{"e":"x"},{"e":"y"}],"f":null}"#);
    }

    #[test]
    fn strings_come_back_as_they_went() {
        for value in ["", "plain", "a\"b\\c", "\"", "\\\\", "\n\t\u{0}\u{1f}", "ü€𝄞", "a\"ü\\"]
        {
            let text = written(|json| json.text(value));
            assert_eq!(serde_json::from_str::<String>(&text).unwrap(), value);
        }
    }
}
