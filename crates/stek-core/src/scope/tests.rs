use super::*;

fn hex(digest: ScopeDigest) -> String {
    format!("{digest:?}")
}

fn ca(subject: &[u8], spki: &[u8], name_constraints: &[u8]) -> ClientCa {
    ClientCa {
        subject: subject.to_vec(),
        spki: spki.to_vec(),
        name_constraints: name_constraints.to_vec(),
    }
}

fn edge() -> Scope {
    Scope::try_new("edge", ChainRule::Capped)
        .and_then(|scope| scope.with_server_names(&["b.example", "A.example"]))
        .and_then(|scope| {
            let authorities =
                vec![ca(b"subject", b"spki", b""), ca(b"other", b"key", b"constraint")];
            scope.with_client_auth(ClientAuth::Required, authorities)
        })
        .unwrap()
        .with_policy_epoch(7)
}

/// All values were computed by another implementation of the layout, in Python.
#[test]
fn golden_vectors() {
    let plain = Scope::try_new("", ChainRule::Unbounded).unwrap();
    assert_eq!(
        hex(plain.digest()),
        "e1abc1c40a6d7ba851f1aed947c90226ea24f391346f7a47b391e18bea126c5a"
    );
    assert_eq!(
        hex(edge().digest()),
        "743e502c5d3581778722b6c2abbc7aefd6db192da6cfad5c4dcaf47766f336a9"
    );
    assert_eq!(
        hex(edge().with_client_rule("partners").unwrap().digest()),
        "300e6cc535991424895e89caa000669c9bb9017a333c690983dd56272312971e"
    );
}

#[test]
fn order_case_and_repetition_do_not_matter() {
    let same = edge().with_server_names(&["a.EXAMPLE", "B.example", "a.example"]).unwrap();
    let authorities = vec![
        ca(b"other", b"key", b"constraint"),
        ca(b"subject", b"spki", b""),
        ca(b"subject", b"spki", b""),
    ];
    let same = same.with_client_auth(ClientAuth::Required, authorities).unwrap();
    assert_eq!(same.digest(), edge().digest());
}

#[test]
fn every_part_separates() {
    let authorities = || vec![ca(b"subject", b"spki", b""), ca(b"other", b"key", b"constraint")];
    let variants = [
        edge(),
        Scope { label: "edgf".into(), ..edge() },
        edge().with_server_names(&["a.example"]).unwrap(),
        edge().with_client_auth(ClientAuth::Optional, authorities()).unwrap(),
        edge().with_client_auth(ClientAuth::None, authorities()).unwrap(),
        edge().with_client_auth(ClientAuth::Required, authorities()[..1].to_vec()).unwrap(),
        edge().with_policy_epoch(8),
        edge().with_client_rule("partners").unwrap(),
        edge().with_client_rule("staff").unwrap(),
        Scope { chain: ChainRule::Unbounded, ..edge() },
        // Bytes moved between neighbouring fields.
        edge()
            .with_client_auth(
                ClientAuth::Required,
                vec![ca(b"subjects", b"pki", b""), ca(b"other", b"key", b"constraint")],
            )
            .unwrap(),
    ];
    for (position, one) in variants.iter().enumerate() {
        for two in &variants[position + 1..] {
            assert_ne!(one.digest(), two.digest(), "{one:?} {two:?}");
        }
    }
}

#[test]
fn what_is_too_long_is_refused_by_name() {
    let error = Scope::try_new(&"x".repeat(256), ChainRule::Capped).unwrap_err();
    assert_eq!(error.to_string(), "label has 256 bytes, allowed are 255");
    let names = vec!["a"; 1025];
    let error = edge().with_server_names(&names).unwrap_err();
    assert_eq!(error.to_string(), "server_names has 1025 entries, allowed are 1024");
    let big = ca(&vec![0; 65_536], b"", b"");
    assert!(edge().with_client_auth(ClientAuth::Required, vec![big]).is_err());
}
