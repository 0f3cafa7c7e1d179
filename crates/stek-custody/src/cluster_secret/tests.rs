use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::random::SystemRandom;
use crate::testing::{
    CLUSTER_SECRET, Failing, Pattern, SEED, assert_redacted, cluster, hex, other_cluster, unhex,
};

fn written(mode: u32, content: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cluster-secret");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    (directory, path)
}

#[test]
fn only_private_modes_are_read() {
    for mode in 0..0o1000 {
        let (_directory, path) = written(0o600, CLUSTER_SECRET);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode | 0o400)).unwrap();
        let refused = mode & 0o037 != 0;
        match ClusterSecret::read(&path) {
            Ok(secret) => {
                assert!(!refused, "{mode:o}");
                assert_eq!(hex(secret.expose()), CLUSTER_SECRET);
            }
            Err(ClusterSecretError::Mode { mode: found, .. }) => {
                assert!(refused && found == mode | 0o400, "{mode:o}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_wrong_mode_is_named() {
    let (_directory, path) = written(0o644, CLUSTER_SECRET);
    let text = ClusterSecret::read(&path).unwrap_err().to_string();
    for part in [path.to_str().unwrap(), "0644", "0400", "0640"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn links_are_followed_and_other_things_refused() {
    let (directory, path) = written(0o440, CLUSTER_SECRET);
    let link = directory.path().join("link");
    symlink(&path, &link).unwrap();
    assert!(ClusterSecret::read(&link).is_ok());
    let directory = directory.path();
    assert!(matches!(ClusterSecret::read(directory), Err(ClusterSecretError::NotAFile { .. })));
    let missing = directory.join("missing");
    assert!(matches!(ClusterSecret::read(&missing), Err(ClusterSecretError::Read { .. })));
    let pipe = directory.join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert!(matches!(ClusterSecret::read(&pipe), Err(ClusterSecretError::NotAFile { .. })));
}

#[test]
fn one_written_form_is_read() {
    let line = format!("{CLUSTER_SECRET}\n");
    for good in [CLUSTER_SECRET, &line, &CLUSTER_SECRET.to_uppercase()] {
        let (_directory, path) = written(0o600, good);
        assert_eq!(hex(ClusterSecret::read(&path).unwrap().expose()), CLUSTER_SECRET);
    }
    let bad = [
        String::new(),
        "\n".into(),
        CLUSTER_SECRET[1..].into(),
        format!("{CLUSTER_SECRET}0"),
        format!("{CLUSTER_SECRET}\n\n"),
        format!("{CLUSTER_SECRET}\r\n"),
        format!(" {CLUSTER_SECRET}"),
        format!("{line}more"),
        CLUSTER_SECRET.replace('c', "g"),
        CLUSTER_SECRET.replacen("c0", "+1", 1),
        CLUSTER_SECRET.replacen("c0a", "é0", 1),
    ];
    for text in bad {
        let (_directory, path) = written(0o600, &text);
        let error = ClusterSecret::read(&path).unwrap_err();
        let ClusterSecretError::Content { source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*source, ParseClusterSecretError::Format, "{text:?}");
        assert_redacted(&error, &[&unhex::<32>(CLUSTER_SECRET)]);
    }
}

#[test]
fn weak_secrets_are_refused() {
    let stepping: String = (0..32).map(|i| format!("{i:02x}")).collect();
    let weak = [
        ("00".repeat(32), WeakKey::Constant),
        (stepping, WeakKey::Stepping),
        ("c0a1e9ce".repeat(8), WeakKey::FewDistinct),
    ];
    for (text, expected) in weak {
        let error = ClusterSecret::parse(&text).unwrap_err();
        assert_eq!(error, ParseClusterSecretError::Weak(expected));
    }
}

#[test]
fn generated_text_is_read_back() {
    let text = ClusterSecret::generate_text(&SystemRandom).unwrap();
    assert_eq!(text.len(), 64);
    assert_eq!(hex(ClusterSecret::parse(&text).unwrap().expose()), *text);
    assert_ne!(*ClusterSecret::generate_text(&SystemRandom).unwrap(), *text);
    assert!(ClusterSecret::generate_text(&Failing).is_err());
    assert!(ClusterSecret::generate_text(&Pattern(|_| 7)).is_err());
}

/// The expected values were computed with another implementation, Python's hashlib and hmac.
#[test]
fn derivations_match_the_vectors() {
    let secret = cluster();
    assert_eq!(
        hex(&secret.row_sealer().seal(b"canonical row")),
        "26fb49a77a8ac267097b96458f60c37f4bcd125877ea15caa74e50182c01f3da"
    );
    assert_eq!(
        hex(secret.audit_key().link(&ChainLink::ORIGIN, b"canonical event").as_bytes()),
        "142272b452f4ea5d060c13380b05f27a2e8ade1b8f237ad7d85bf576417727c8"
    );
    assert_eq!(hex(&secret.check_value(&SEED)), "47f714bdad8a8137");
}

#[test]
fn check_values_tell_secrets_and_seeds_apart() {
    let check = cluster().check_value(&SEED);
    assert_ne!(check, other_cluster().check_value(&SEED));
    assert_ne!(check, cluster().check_value(&SeedId::from_bytes([1; 16])));
}

#[test]
fn seals_see_every_bit_of_row_and_seal() {
    let sealer = cluster().row_sealer();
    let row = b"stek/grant/1 someone";
    let seal = sealer.seal(row);
    assert!(sealer.verify(row, &seal));
    assert!(!other_cluster().row_sealer().verify(row, &seal));
    assert!(!sealer.verify(&row[..row.len() - 1], &seal));
    for bit in 0..8 * seal.len() {
        let mut forged = seal;
        forged[bit / 8] ^= 1 << (bit % 8);
        assert!(!sealer.verify(row, &forged), "bit {bit} of the seal");
    }
    for bit in 0..8 * row.len() {
        let mut forged = *row;
        forged[bit / 8] ^= 1 << (bit % 8);
        assert!(!sealer.verify(&forged, &seal), "bit {bit} of the row");
    }
}

#[test]
fn links_depend_on_key_previous_link_and_event() {
    let key = cluster().audit_key();
    let link = key.link(&ChainLink::ORIGIN, b"event");
    assert_eq!(link, cluster().audit_key().link(&ChainLink::ORIGIN, b"event"));
    assert_ne!(link, other_cluster().audit_key().link(&ChainLink::ORIGIN, b"event"));
    assert_ne!(link, key.link(&link, b"event"));
    assert_ne!(link, key.link(&ChainLink::ORIGIN, b"other"));
}

#[test]
fn debug_shows_no_secret() {
    let secret = cluster();
    let (sealer, audit) = (secret.row_sealer(), secret.audit_key());
    let secrets = [secret.expose(), sealer.0.current.expose(), audit.0.current.expose()]
        .map(|s| s.as_slice());
    assert_redacted(&secret, &secrets);
    assert_redacted(&sealer, &secrets);
    assert_redacted(&audit, &secrets);
}
