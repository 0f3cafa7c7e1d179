use proptest::prelude::*;

use super::*;

fn pattern(text: &str) -> PrincipalPattern {
    PrincipalPattern::try_new(text).unwrap()
}

fn name(text: &str) -> PrincipalName {
    PrincipalName::try_new(text).unwrap()
}

#[test]
fn a_star_stands_for_one_whole_segment() {
    for (text, covered, not_covered) in [
        (
            "spiffe://td/edge/*",
            &["spiffe://td/edge/7", "spiffe://td/edge/a.b", "spiffe://td/edge/*"][..],
            &[
                "spiffe://td/edge",
                "spiffe://td/edge/",
                "spiffe://td/edge/a/b",
                "spiffe://td/edge/a/",
                "spiffe://td2/edge/7",
                "spiffe://td/edgy/7",
                "SPIFFE://td/edge/7",
                "https://td/edge/7",
                "token:spiffe://td/edge/7",
            ][..],
        ),
        (
            "spiffe://td/*/web",
            &["spiffe://td/eu/web"],
            &["spiffe://td/web", "spiffe://td/eu/us/web"],
        ),
        (
            "*.edge.example",
            &["a.edge.example", "A-1.edge.example"],
            &[
                "edge.example",
                ".edge.example",
                "a.b.edge.example",
                "a.edge.example.",
                "a.EDGE.example",
                "spiffe://a.edge.example",
                "token:a.edge.example",
            ],
        ),
        ("a.*.example", &["a.b.example"], &["a.example", "a.b.c.example"]),
        ("token:edge", &["token:edge"], &["token:edge2", "edge", "Token:edge"]),
    ] {
        for one in covered {
            assert!(pattern(text).covers(&name(one)), "{text} covers {one}");
        }
        for one in not_covered {
            assert!(!pattern(text).covers(&name(one)), "{text} does not cover {one}");
        }
    }
}

#[test]
fn a_star_elsewhere_is_refused() {
    for bad in [
        "*",
        "*.*",
        "edge.*",
        "*.example.",
        "**.example",
        "a*.example",
        "spiffe://*",
        "spiffe://*/edge",
        "spiffe://*.td/edge",
        "spiffe://td/**",
        "spiffe://td/edge-*",
        "*://td/edge",
        "token:*",
        "token:http://td/*",
        "urn:edge:*",
        "a@*.example",
    ] {
        let error = PrincipalPattern::try_new(bad).unwrap_err().to_string();
        assert!(error.contains(bad) && error.contains("a whole segment"), "{error}");
    }
    for bad in ["", "a b", "ü", &"x".repeat(513)] {
        assert!(PrincipalPattern::try_new(bad).is_err(), "{bad}");
    }
}

#[test]
fn any_name_of_a_certificate_may_fit() {
    let both = Principals::try_new([name("spiffe://td/edge/7"), name("a.example")]).unwrap();
    assert!(both.fit(&pattern("spiffe://td/edge/*")) && both.fit(&pattern("a.example")));
    assert!(!both.fit(&pattern("b.example")));
    assert_eq!(both.shown(), &name("spiffe://td/edge/7"));
    assert_eq!(Principals::try_new([]), None);
    let many = |count| (0..count).map(|n| name(&format!("n{n}")));
    assert!(Principals::try_new(many(MAX_NAMES)).is_some());
    assert_eq!(Principals::try_new(many(MAX_NAMES + 1)), None);
}

fn segment() -> impl Strategy<Value = String> {
    "[a-z0-9-]{1,6}"
}

proptest! {
    #[test]
    fn without_a_star_only_the_same_name_is_covered(left in "[!-~]{1,20}", right in "[!-~]{1,20}") {
        prop_assume!(!left.contains('*'));
        let one = pattern(&left);
        prop_assert!(one.covers(&name(&left)));
        prop_assert_eq!(one.covers(&name(&right)), left == right);
    }

    #[test]
    fn whatever_is_covered_has_as_many_segments_and_the_same_but_for_stars(
        segments in prop::collection::vec(prop_oneof![segment(), Just("*".to_owned())], 1..5),
        other in "[a-z0-9/.:*-]{1,30}",
    ) {
        let text = format!("spiffe://td/{}", segments.join("/"));
        let candidates = [other.clone(), format!("spiffe://td/{other}")];
        for candidate in &candidates {
            let found: Vec<_> = candidate.split('/').collect();
            let wanted: Vec<_> = text.split('/').collect();
            let same = |(wanted, found): (&&str, &&str)| {
                wanted == found || (*wanted == "*" && !found.is_empty())
            };
            let expected =
                found.len() == wanted.len() && wanted.iter().zip(&found).all(same);
            prop_assert_eq!(pattern(&text).covers(&name(candidate)), expected, "{}", candidate);
        }
    }

    #[test]
    fn filling_in_the_stars_is_covered_and_one_segment_more_is_not(
        segments in prop::collection::vec((segment(), any::<bool>()), 1..6),
        more in segment(),
    ) {
        for (head, separator, tail) in [("spiffe://td/", "/", ""), ("", ".", ".example")] {
            let join = |stars: bool| {
                let parts: Vec<_> = segments
                    .iter()
                    .map(|(text, star)| if stars && *star { "*" } else { text.as_str() })
                    .collect();
                format!("{head}{}{tail}", parts.join(separator))
            };
            let (pattern, filled) = (pattern(&join(true)), join(false));
            prop_assert!(pattern.covers(&name(&filled)));
            let longer = format!("{head}{more}{separator}{}", &filled[head.len()..]);
            prop_assert!(!pattern.covers(&name(&longer)));
        }
    }

    #[test]
    fn any_text_is_survived(text in "[!-~]{1,40}", other in "[!-~]{1,40}") {
        if let Ok(pattern) = PrincipalPattern::try_new(&text) {
            pattern.covers(&name(&other));
            prop_assert!(pattern.covers(&name(&text)));
        }
    }
}
