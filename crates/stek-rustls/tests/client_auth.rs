//! Who resumes where when servers ask for client certificates: nobody past a check that he did not
//! pass (threats T4 and T6).

#![allow(clippy::unwrap_used, reason = "only tests use it")]

mod fixture;
mod servers;

use std::sync::Arc;

use fixture::{HOUR, TLS12, TLS13, advance, bundle, clock, keyset, planned_key};
use prometheus::Registry;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ResolvesServerCertUsingSni, WebPkiClientVerifier};
use rustls::{RootCertStore, SupportedProtocolVersion};
use servers::Outcome::{Full, Refused, Resumed};
use servers::{ADDRESS, Authority, NAME, OTHER_NAME, Site, roots};
use stek_clock::FleetClock;
use stek_core::scope::ClientAuth;
use stek_rustls::{BuildError, ServerBuilder, TicketKeys, TicketMetrics};

const YEAR: u64 = 365 * 24 * HOUR;

/// Both kinds of tickets, as far as the build has them.
fn with_all_tickets(builder: ServerBuilder<'_>) -> ServerBuilder<'_> {
    let builder = builder.resume_client_auth_without_verifying_again();
    #[cfg(feature = "tls12")]
    let builder = builder.resume_tls12_resealing_one_master_secret();
    builder
}

fn may_resume(version: &SupportedProtocolVersion) -> bool {
    version == TLS13 || cfg!(feature = "tls12")
}

#[test]
fn nobody_resumes_past_a_check_that_he_did_not_pass() {
    let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
    let (kept, removed) = (Authority::new("kept"), Authority::new("removed"));
    let client_identity = kept.issue(YEAR);
    let open = || site.server(&clock, &keys, with_all_tickets);
    let asking = |authorities: &[&Authority]| {
        let roots = roots(authorities);
        site.server(&clock, &keys, |b| with_all_tickets(b.require_client_certificates(roots)))
    };
    let optional = |authorities: &[&Authority]| {
        let roots = roots(authorities);
        site.server(&clock, &keys, |b| with_all_tickets(b.request_client_certificates(roots)))
    };
    let both = [&kept, &removed];
    // From where the ticket comes, and where it is offered.
    let open_rows = (open(), [open(), asking(&both), optional(&[&kept])]);
    let asking_rows = (asking(&both), [asking(&both), open(), asking(&[&kept])]);
    let mut cells = 0;
    for (mtls, (origin, [other, drifted, without_ca])) in [(false, open_rows), (true, asking_rows)]
    {
        for (place, target, same_domain) in [
            ("same node", &origin, true),
            ("other node", &other, true),
            ("drifted config", &drifted, false),
            ("CA removed", &without_ca, false),
        ] {
            for (sni, name) in [("same", NAME), ("other", OTHER_NAME), ("none", ADDRESS)] {
                for version in [TLS12, TLS13] {
                    let client = site.client(version, Some(&client_identity));
                    assert_eq!(origin.meet(&client, NAME), Full);
                    let resumes = same_domain && sni == "same" && may_resume(version);
                    let expected = if resumes { Resumed } else { Full };
                    let cell = format!("mTLS {mtls}, {place}, SNI {sni}, {version:?}");
                    assert_eq!(target.meet(&client, name), expected, "{cell}");
                    cells += 1;
                }
            }
        }
    }
    assert_eq!(cells, 48);
}

#[test]
fn a_client_without_a_certificate_is_refused_whatever_ticket_it_has() {
    let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
    let authority = Authority::new("clients");
    let open = site.server(&clock, &keys, with_all_tickets);
    let optional = site.server(&clock, &keys, |b| {
        with_all_tickets(b.request_client_certificates(roots(&[&authority])))
    });
    let asking = site.server(&clock, &keys, |b| {
        with_all_tickets(b.require_client_certificates(roots(&[&authority])))
    });
    for version in [TLS12, TLS13] {
        for origin in [&open, &optional] {
            let client = site.client(version, None);
            assert_eq!(origin.meet(&client, NAME), Full);
            assert_eq!(asking.meet(&client, NAME), Refused, "{version:?}");
        }
    }
    assert_eq!(asking.count("opened", "active"), 0);
}

#[test]
fn clients_of_a_removed_authority_are_verified_again() {
    let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
    let (kept, removed) = (Authority::new("kept"), Authority::new("removed"));
    let server = |authorities: &[&Authority]| {
        let roots = roots(authorities);
        site.server(&clock, &keys, |b| with_all_tickets(b.require_client_certificates(roots)))
    };
    let (before, after) = (server(&[&kept, &removed]), server(&[&kept]));
    for (authority, outcome) in [(&kept, Full), (&removed, Refused)] {
        let client = site.client(TLS13, Some(&authority.issue(YEAR)));
        assert_eq!(before.meet(&client, NAME), Full);
        assert_eq!(before.meet(&client, NAME), Resumed);
        assert_eq!(after.meet(&client, NAME), outcome);
    }
    assert_eq!((after.count("opened", "unknown"), after.count("opened", "active")), (2, 0));
}

#[test]
fn raising_the_policy_epoch_ends_all_sessions() {
    let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
    let authority = Authority::new("clients");
    let identity = authority.issue(YEAR);
    for mtls in [false, true] {
        let server = |epoch| {
            site.server(&clock, &keys, |builder| {
                let builder = with_all_tickets(builder.policy_epoch(epoch));
                match mtls {
                    true => builder.require_client_certificates(roots(&[&authority])),
                    false => builder,
                }
            })
        };
        let (before, after) = (server(0), server(1));
        let client = site.client(TLS13, Some(&identity));
        assert_eq!(before.meet(&client, NAME), Full);
        assert_eq!(before.meet(&client, NAME), Resumed);
        assert_eq!(after.meet(&client, NAME), Full);
        assert_eq!(after.meet(&client, NAME), Resumed);
    }
}

#[test]
fn servers_that_ask_certificates_give_no_tickets_unless_told_to() {
    let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
    let authority = Authority::new("clients");
    let identity = authority.issue(YEAR);
    let required =
        site.server(&clock, &keys, |b| b.require_client_certificates(roots(&[&authority])));
    let requested =
        site.server(&clock, &keys, |b| b.request_client_certificates(roots(&[&authority])));
    let told = site.server(&clock, &keys, |b| {
        with_all_tickets(b.require_client_certificates(roots(&[&authority])))
    });
    for (server, identity) in
        [(&required, Some(&identity)), (&requested, Some(&identity)), (&requested, None)]
    {
        let client = site.client(TLS13, identity);
        for _ in 0..3 {
            assert_eq!(server.meet(&client, NAME), Full);
        }
        assert_eq!(server.count("sealed", "sealed"), 0);
        assert!(server.count("sealed", "not-allowed") > 0);
    }
    // Nor do they open those of servers that were told to.
    let client = site.client(TLS13, Some(&identity));
    assert_eq!((told.meet(&client, NAME), required.meet(&client, NAME)), (Full, Full));
    assert_eq!(required.count("opened", "not-allowed"), 1);
}

#[test]
fn no_session_outlives_the_client_certificate() {
    let (clock, site) = (clock(), Site::new());
    let keys = bundle(1, &[planned_key(0), planned_key(6 * HOUR)]);
    let authority = Authority::new("clients");
    let server = site.server(&clock, &keys, |b| {
        with_all_tickets(b.require_client_certificates(roots(&[&authority])))
    });
    let client = site.client(TLS13, Some(&authority.issue(2 * HOUR)));
    assert_eq!(server.meet(&client, NAME), Full);
    // Its last second is 2 h after the start.
    for seconds in [HOUR, HOUR] {
        advance(&clock, seconds);
        assert_eq!(server.meet(&client, NAME), Resumed);
    }
    advance(&clock, 1);
    // The clock of the verifier stands still, so that only tickets can tell.
    assert_eq!(server.meet(&client, NAME), Full);
    assert_eq!(server.count("opened", "session-too-old"), 1);
    assert_eq!(server.count("sealed", "session-too-old"), 2);
}

fn build(verified: &RootCertStore, given: &RootCertStore) -> Result<ClientAuth, BuildError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(verified.clone().into(), provider);
    let metrics = TicketMetrics::register(&Registry::new(), &keyset()).unwrap();
    let clock = Arc::new(FleetClock::new(clock()));
    ServerBuilder::with_keys("web", metrics, |scope| {
        Arc::new(TicketKeys::new(scope.clone(), clock))
    })
    .certificate_resolver(Arc::new(ResolvesServerCertUsingSni::new()))
    .client_cert_verifier(verifier.build().unwrap(), given.clone())
    .build()
    .map(|server| server.scope().client_auth())
}

#[test]
fn a_verifier_and_its_roots_have_to_agree() {
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let (only, both) = (roots(&[&one]), roots(&[&one, &two]));
    assert_eq!(build(&both, &both).unwrap(), ClientAuth::Required);
    for (given, trusted) in [(&only, &both), (&both, &only)] {
        let error = build(trusted, given).unwrap_err();
        assert!(matches!(error, BuildError::RootsDiffer), "{error:?}");
    }
}
