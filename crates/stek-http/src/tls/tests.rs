mod mutual;

use super::*;
use crate::testing::Identity;

#[test]
fn files_that_do_not_parse_are_refused_by_cause() {
    let identity = Identity::new();
    let paths = identity.paths();

    std::fs::write(&paths.certificate_chain, "not pem").unwrap();
    let error = TlsFiles::load(paths.clone()).unwrap_err();
    assert!(matches!(error, TlsError::NoCertificate { .. }), "{error:?}");

    std::fs::write(&paths.certificate_chain, "-----BEGIN CERTIFICATE-----\n!\n").unwrap();
    let error = TlsFiles::load(paths.clone()).unwrap_err();
    assert!(matches!(error, TlsError::Certificates { .. }), "{error:?}");

    let identity = Identity::new();
    let paths = identity.paths();
    std::fs::remove_file(&paths.private_key).unwrap();
    let error = TlsFiles::load(paths).unwrap_err();
    assert!(matches!(error, TlsError::PrivateKey { .. }), "{error:?}");
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let identity = Identity::new();
    identity.write_key(&Identity::new());
    let error = TlsFiles::load(identity.paths()).unwrap_err();
    assert!(matches!(error, TlsError::Identity { .. }), "{error:?}");
}

#[test]
fn reload_takes_new_files_and_keeps_the_old_ones_when_they_are_bad() {
    let identity = Identity::new();
    let files = TlsFiles::load(identity.paths()).unwrap();
    let first = files.current();

    let next = Identity::new();
    identity.write_key(&next);
    files.reload().unwrap_err();
    assert!(Arc::ptr_eq(&first, &files.current()));

    identity.write_certificate(&next);
    files.reload().unwrap();
    assert!(!Arc::ptr_eq(&first, &files.current()));
}

#[test]
fn no_tickets_and_no_stored_sessions() {
    let config = TlsFiles::load(Identity::new().paths()).unwrap().current();
    assert_eq!(config.send_tls13_tickets, 0);
    assert!(!config.ticketer.enabled());
    assert!(!config.session_storage.can_cache());
    assert_eq!(config.max_early_data_size, 0);
}

#[test]
fn debug_and_errors_hold_no_key() {
    let identity = Identity::new();
    let files = TlsFiles::load(identity.paths()).unwrap();
    let pem = std::fs::read_to_string(identity.paths().private_key).unwrap();
    let secret = pem.lines().nth(1).unwrap();
    assert!(!format!("{files:?}").contains(secret));
    identity.write_key(&Identity::new());
    assert!(!format!("{:?}", files.reload().unwrap_err()).contains(secret));
}

#[test]
fn what_two_looks_found_is_taken_and_half_a_pair_is_refused_once() {
    let identity = Identity::new();
    let files = TlsFiles::load(identity.paths()).unwrap();
    let first = files.current();
    let look = || match files.look() {
        Look::Same => "same",
        Look::Taken => "taken",
        Look::Refused(TlsError::Identity { .. }) => "no pair",
        Look::Refused(TlsError::PrivateKey { .. }) => "no key",
        Look::Refused(_) => "refused",
    };
    assert_eq!([look(), look()], ["same", "same"]);

    let next = Identity::new();
    identity.write_key(&next);
    assert_eq!([look(), look(), look(), look()], ["same", "no pair", "same", "same"]);
    assert!(Arc::ptr_eq(&first, &files.current()));
    identity.write_certificate(&next);
    assert_eq!([look(), look(), look()], ["same", "taken", "same"]);
    assert!(!Arc::ptr_eq(&first, &files.current()));

    // Still being written at the first look.
    let last = Identity::new();
    identity.write_key(&last);
    assert_eq!(look(), "same");
    identity.write_certificate(&last);
    assert_eq!([look(), look(), look()], ["same", "taken", "same"]);

    let key = std::fs::read(identity.paths().private_key).unwrap();
    std::fs::remove_file(identity.paths().private_key).unwrap();
    assert_eq!([look(), look(), look()], ["same", "no key", "same"]);
    std::fs::write(identity.paths().private_key, key).unwrap();
    assert_eq!([look(), look(), look()], ["same", "taken", "same"]);
}

#[test]
fn a_file_without_end_is_not_read() {
    let identity = Identity::new();
    let paths = TlsPaths { certificate_chain: "/dev/zero".into(), ..identity.paths() };
    assert!(matches!(TlsFiles::load(paths), Err(TlsError::TooLong { .. })));
}

#[test]
fn the_end_of_the_certificate_is_known() {
    // rcgen's certificates end in 4096 unless told otherwise.
    let end = TlsFiles::load(Identity::new().paths()).unwrap().not_after().unwrap();
    assert_eq!(end.to_string(), "4096-01-01T00:00:00Z");
}
