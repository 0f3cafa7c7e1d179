//! Content tags as HTTP entity tags (RFC 9110, sections 8.8.3 and 13.1.2). What cannot be read is
//! as good as absent: the answer is then a full one, which is never wrong.

use stek_core::id::ContentTag;

/// The most tags of one `If-None-Match` that are looked at.
pub const MAX_TAGS: usize = 16;

/// The value of an `ETag` header, a strong one: `"<incarnation>.<revision>.<digest>"`.
pub fn format_etag(tag: ContentTag) -> String {
    format!("\"{tag}\"")
}

/// Reads an `ETag` header; `None` if it is not one of ours. A proxy that re-encodes a body makes
/// the tag weak; it still names the same content.
pub fn parse_etag(value: &str) -> Option<ContentTag> {
    let (tag, rest) = entity_tag(value.trim_matches(WHITE))?;
    if rest.is_empty() { content_tag(tag) } else { None }
}

/// What a client says that it has, in `If-None-Match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfNoneMatch {
    /// `*`: anything at all.
    Any,
    /// These contents, in the order of the header; at least one.
    Tags(Vec<ContentTag>),
}

impl IfNoneMatch {
    /// Reads the header's value, several lines of it joined by commas. Entity tags that are not
    /// content tags are passed over, as are those after the first [`MAX_TAGS`].
    ///
    /// `None` if the value breaks the syntax or no content tag is in it.
    pub fn parse(value: &str) -> Option<Self> {
        let mut rest = value.trim_matches(WHITE);
        if rest == "*" {
            return Some(Self::Any);
        }
        let mut tags = Vec::new();
        for _ in 0..MAX_TAGS {
            let (tag, after) = entity_tag(rest)?;
            tags.extend(content_tag(tag));
            let after = after.trim_start_matches(WHITE);
            if after.is_empty() {
                break;
            }
            // A sender may leave list elements empty (RFC 9110, section 5.6.1.2).
            rest = after.strip_prefix(',')?.trim_start_matches([' ', '\t', ',']);
            if rest.is_empty() {
                break;
            }
        }
        if tags.is_empty() { None } else { Some(Self::Tags(tags)) }
    }

    /// Whether `tag` is among what the client has, so that the answer is `304`.
    pub fn covers(&self, tag: ContentTag) -> bool {
        match self {
            Self::Any => true,
            Self::Tags(tags) => tags.contains(&tag),
        }
    }

    /// What the client has installed: the first content tag.
    pub fn installed(&self) -> Option<ContentTag> {
        match self {
            Self::Any => None,
            Self::Tags(tags) => tags.first().copied(),
        }
    }
}

const WHITE: [char; 2] = [' ', '\t'];

/// Splits off one entity tag and gives the text between its quotes.
fn entity_tag(value: &str) -> Option<(&str, &str)> {
    value.strip_prefix("W/").unwrap_or(value).strip_prefix('"')?.split_once('"')
}

/// Exactly what [`format_etag`] writes, so that one content has one tag.
fn content_tag(text: &str) -> Option<ContentTag> {
    ContentTag::parse(text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stek_core::id::{ContentDigest, Incarnation, Revision};

    use super::*;

    fn tag(revision: u64) -> ContentTag {
        ContentTag {
            incarnation: Incarnation::new(1_790_000_000_000, &[7; 10]),
            revision: Revision::new(revision),
            digest: ContentDigest::from_bytes([0xab; 8]),
        }
    }

    #[test]
    fn tags_are_strong_and_read_back() {
        let text = format_etag(tag(42));
        assert_eq!(text, "\"01a0c450-6c00-7707-8707-070707070707.42.abababababababab\"");
        assert_eq!(parse_etag(&text), Some(tag(42)));
        assert_eq!(parse_etag(&format!(" W/{text}\t")), Some(tag(42)));
        for bad in [
            "",
            "*",
            "\"\"",
            "\"42\"",
            text.trim_matches('"'),
            &text[1..],
            &text[..text.len() - 1],
            &format!("{text},{text}"),
            &format!("w/{text}"),
            &text.replace(".42.", ".+42."),
            &text.replace(".42.", ".042."),
            &text.replace("ab", "AB"),
        ] {
            assert_eq!(parse_etag(bad), None, "{bad}");
        }
    }

    #[test]
    fn one_or_several_tags_or_a_star() {
        let (one, two) = (format_etag(tag(1)), format_etag(tag(2)));
        let parse = |value: &str| IfNoneMatch::parse(value);
        assert_eq!(parse(" * "), Some(IfNoneMatch::Any));
        assert_eq!(parse(&one), Some(IfNoneMatch::Tags(vec![tag(1)])));
        let both = Some(IfNoneMatch::Tags(vec![tag(1), tag(2)]));
        for value in [
            format!("{one},{two}"),
            format!(" {one} ,\tW/{two} "),
            format!("\"foreign, with a comma\", {one}, \"\", {two},"),
            format!("{one},, ,{two}"),
        ] {
            assert_eq!(parse(&value), both, "{value}");
        }
    }

    #[test]
    fn garbage_is_as_good_as_absent() {
        let one = format_etag(tag(1));
        for value in [
            "",
            ",",
            "\"foreign\"",
            "**",
            "*, *",
            &format!("{one} {one}"),
            &format!("{one}, *"),
            &format!("{one}, \"open"),
            &format!("{one}; q=1"),
            &one.replace('"', "'"),
        ] {
            assert_eq!(IfNoneMatch::parse(value), None, "{value}");
        }
    }

    #[test]
    fn only_so_many_tags_are_looked_at() {
        let many: Vec<_> = (0..100).map(|n| format_etag(tag(n))).collect();
        let Some(IfNoneMatch::Tags(tags)) = IfNoneMatch::parse(&many.join(",")) else { panic!() };
        assert_eq!(tags, (0..16).map(tag).collect::<Vec<_>>());
    }

    #[test]
    fn a_match_is_of_the_whole_tag() {
        let held = IfNoneMatch::Tags(vec![tag(1), tag(2)]);
        assert!(held.covers(tag(2)) && !held.covers(tag(3)));
        let other = ContentTag { digest: ContentDigest::from_bytes([0; 8]), ..tag(1) };
        assert!(!held.covers(other) && IfNoneMatch::Any.covers(other));
        assert_eq!((held.installed(), IfNoneMatch::Any.installed()), (Some(tag(1)), None));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "[ -~]{0,40}|[\"W/,*. \t0-9a-f-]{0,80}|\\PC{0,20}") {
            let _ = (parse_etag(&text), IfNoneMatch::parse(&text));
        }
    }
}
