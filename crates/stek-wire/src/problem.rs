//! Problem documents as a client reads them (RFC 9457). Nothing about an error answer is taken for
//! granted: whatever came, a sentence for a person comes out.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Media type of a problem document (RFC 9457, section 3).
pub const MEDIA_TYPE: &str = "application/problem+json";

/// The longest problem document that is looked at, in bytes.
pub const MAX_PROBLEM_BYTES: usize = 64 * 1024;

const LONGEST_TEXT: usize = 1_000;

/// An error answer. Decide by `type` and status, show the rest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Value")]
pub struct ProblemDocument {
    /// A URI that names the kind of problem, such as `urn:stekd:problem:invalid-field`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The kind in words, the same for each occurrence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The HTTP status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What is particular to this occurrence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The field at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The value that was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What would have been accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<String>,
}

impl ProblemDocument {
    /// What can be made of the body of an error answer. Members of a wrong type count as absent
    /// (RFC 9457, section 3.1), and so does a body that is no JSON object.
    pub fn read(body: &[u8]) -> Self {
        if body.len() > MAX_PROBLEM_BYTES {
            return Self::default();
        }
        serde_json::from_slice::<Value>(body).map(Self::from).unwrap_or_default()
    }
}

impl From<Value> for ProblemDocument {
    fn from(value: Value) -> Self {
        let text = |name: &str| value.get(name)?.as_str().map(plain);
        Self {
            kind: text("type"),
            title: text("title"),
            status: value.get("status").and_then(Value::as_u64).and_then(|n| n.try_into().ok()),
            detail: text("detail"),
            field: text("field"),
            value: text("value"),
            allowed: text("allowed"),
        }
    }
}

/// Cut, and without control characters: it goes to a terminal.
fn plain(text: &str) -> String {
    let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(LONGEST_TEXT).map(visible).collect()
}

impl fmt::Display for ProblemDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title.as_deref().unwrap_or("the server gave no reason"))?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        if let Some(field) = &self.field {
            write!(f, "; {field}")?;
            if let Some(value) = &self.value {
                write!(f, " is {value:?}")?;
            }
            if let Some(allowed) = &self.allowed {
                write!(f, ", allowed is {allowed}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_document_is_read_and_shown() {
        let body = br#"{"type":"urn:stekd:problem:invalid-field","title":"a value is not allowed",
            "status":422,"detail":"see the manual","field":"lead","value":"1s","allowed":"6m or more",
            "instance":"/x","more":[1]}"#;
        let problem = ProblemDocument::read(body);
        assert_eq!(problem.kind.as_deref(), Some("urn:stekd:problem:invalid-field"));
        assert_eq!(problem.status, Some(422));
        assert_eq!(
            problem.to_string(),
            "a value is not allowed: see the manual; lead is \"1s\", allowed is 6m or more"
        );
        let again = serde_json::to_vec(&problem).unwrap();
        assert_eq!(ProblemDocument::read(&again), problem);
        assert_eq!(serde_json::from_slice::<ProblemDocument>(&again).unwrap(), problem);
    }

    #[test]
    fn anything_else_still_makes_a_sentence() {
        let wrong = br#"{"type":1,"title":null,"status":"422","detail":[],"field":{},"value":7}"#;
        let bodies: [&[u8]; 6] = [b"", b"<html>", b"[]", b"null", b"\xff", wrong];
        for body in bodies {
            assert_eq!(ProblemDocument::read(body), ProblemDocument::default());
        }
        assert_eq!(ProblemDocument::default().to_string(), "the server gave no reason");
        assert_eq!(ProblemDocument::read(br#"{"status":70000}"#).status, None);
        let deep = "[".repeat(MAX_PROBLEM_BYTES);
        assert_eq!(ProblemDocument::read(deep.as_bytes()), ProblemDocument::default());
    }

    #[test]
    fn a_terminal_gets_no_control_characters_and_no_novel() {
        let long = "x".repeat(5_000);
        let body = format!(r#"{{"title":"\u001b[2Jgone\n","detail":"{long}"}}"#);
        let problem = ProblemDocument::read(body.as_bytes());
        assert_eq!(problem.title.as_deref(), Some("\u{fffd}[2Jgone\u{fffd}"));
        assert_eq!(problem.detail.map(|text| text.len()), Some(1_000));
    }
}
