//! Who resumes where when servers ask for client certificates: nobody past a check that he did not
//! pass.

#![allow(clippy::unwrap_used, reason = "only tests use it")]

mod fixture;
mod servers;
mod sessions;
#[cfg(feature = "redis")]
mod testredis;

use std::sync::Arc;

use fixture::{HOUR, TLS12, TLS13, advance, bundle, clock, keyset, planned_key};
use prometheus::Registry;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientCertVerifierBuilder, ResolvesServerCertUsingSni, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use servers::Outcome::{Full, Refused, Resumed};
use servers::{ADDRESS, Authority, Counters, NAME, OTHER_NAME, Server, Site, meet, roots};
use sessions::memory;
use stek_clock::FleetClock;
use stek_core::scope::{ChainRule, ClientAuth, Scope};
use stek_rustls::{
    Acceptor, BuildError, ResumeClientAuth, Resumption, ServerBuilder, TicketKeys, TicketMetrics,
};

const YEAR: u64 = 365 * 24 * HOUR;

/// Tickets, and sessions in stores that all servers with this value share.
fn ways() -> Vec<Resumption> {
    vec![
        Resumption::Tickets,
        Resumption::Store(memory()),
        #[cfg(feature = "redis")]
        Resumption::Store(testredis::awaited::backend()),
    ]
}

/// All that may be opted in to.
fn opted<'a>(builder: ServerBuilder<'a>, way: &Resumption) -> ServerBuilder<'a> {
    let builder = builder.resume_client_auth_without_verifying_again().resumption(way.clone());
    #[cfg(feature = "tls12")]
    if matches!(way, Resumption::Tickets) {
        return builder.resume_tls12_resealing_one_master_secret();
    }
    builder
}

fn may_resume(version: &SupportedProtocolVersion, way: &Resumption) -> bool {
    version == TLS13 || (cfg!(feature = "tls12") && matches!(way, Resumption::Tickets))
}

#[test]
fn nobody_resumes_past_a_check_that_he_did_not_pass() {
    for way in &ways() {
        assert_eq!(cells_of_the_matrix(way), 48);
    }
}

/// Goes through the matrix for one way of resuming and counts its cells.
fn cells_of_the_matrix(way: &Resumption) -> u32 {
    let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
    let (kept, removed) = (Authority::new("kept"), Authority::new("removed"));
    let client_identity = kept.issue(YEAR);
    let open = || site.server(&clock, &keys, |b| opted(b, way));
    let asking = |authorities: &[&Authority]| {
        let roots = roots(authorities);
        site.server(&clock, &keys, |b| opted(b.require_client_certificates(roots), way))
    };
    let optional = |authorities: &[&Authority]| {
        let roots = roots(authorities);
        site.server(&clock, &keys, |b| opted(b.request_client_certificates(roots), way))
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
                    let resumes = same_domain && sni == "same" && may_resume(version, way);
                    let expected = if resumes { Resumed } else { Full };
                    let cell = format!("{way:?}, mTLS {mtls}, {place}, SNI {sni}, {version:?}");
                    assert_eq!(target.meet(&client, name), expected, "{cell}");
                    cells += 1;
                }
            }
        }
    }
    cells
}

#[test]
fn a_client_without_a_certificate_is_refused_whatever_ticket_it_has() {
    for way in &ways() {
        let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
        let authority = Authority::new("clients");
        let open = site.server(&clock, &keys, |b| opted(b, way));
        let optional = site.server(&clock, &keys, |b| {
            opted(b.request_client_certificates(roots(&[&authority])), way)
        });
        let asking = site.server(&clock, &keys, |b| {
            opted(b.require_client_certificates(roots(&[&authority])), way)
        });
        for version in [TLS12, TLS13] {
            for origin in [&open, &optional] {
                let client = site.client(version, None);
                assert_eq!(origin.meet(&client, NAME), Full);
                assert_eq!(asking.meet(&client, NAME), Refused, "{version:?}");
            }
        }
        assert_eq!(asking.opened("active"), 0);
    }
}

#[test]
fn a_hook_that_exchanges_the_whole_configuration_lets_nobody_in() {
    let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
    let authority = Authority::new("clients");
    let open = site.server(&clock, &keys, |builder| builder).acceptor.per_connection_config();
    let roots = roots(&[&authority]);
    let closed = site.server(&clock, &keys, |builder| {
        builder
            .require_client_certificates(roots)
            .configure(move |config| *config = (*open).clone())
    });
    assert_eq!(closed.meet(&site.client(TLS13, None), NAME), Refused);
    let known = site.client(TLS13, Some(&authority.issue(YEAR)));
    assert_eq!(closed.meet(&known, NAME), Full);
}

#[test]
fn clients_of_a_removed_authority_are_verified_again() {
    for way in &ways() {
        let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
        let (kept, removed) = (Authority::new("kept"), Authority::new("removed"));
        let server = |authorities: &[&Authority]| {
            let roots = roots(authorities);
            site.server(&clock, &keys, |b| opted(b.require_client_certificates(roots), way))
        };
        let (before, after) = (server(&[&kept, &removed]), server(&[&kept]));
        for (authority, outcome) in [(&kept, Full), (&removed, Refused)] {
            let client = site.client(TLS13, Some(&authority.issue(YEAR)));
            assert_eq!(before.meet(&client, NAME), Full);
            assert_eq!(before.meet(&client, NAME), Resumed);
            assert_eq!(after.meet(&client, NAME), outcome);
        }
        assert_eq!((after.opened("unknown"), after.opened("active")), (2, 0));
    }
}

#[test]
fn raising_the_policy_epoch_ends_all_sessions() {
    for way in &ways() {
        let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
        let authority = Authority::new("clients");
        let identity = authority.issue(YEAR);
        for mtls in [false, true] {
            let server = |epoch| {
                site.server(&clock, &keys, |builder| {
                    let builder = opted(builder.policy_epoch(epoch), way);
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
}

#[test]
fn servers_that_ask_certificates_give_no_tickets_unless_told_to() {
    for way in &ways() {
        let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
        let authority = Authority::new("clients");
        let identity = authority.issue(YEAR);
        let required = site.server(&clock, &keys, |b| {
            b.require_client_certificates(roots(&[&authority])).resumption(way.clone())
        });
        let requested = site.server(&clock, &keys, |b| {
            b.request_client_certificates(roots(&[&authority])).resumption(way.clone())
        });
        let told = site.server(&clock, &keys, |b| {
            opted(b.require_client_certificates(roots(&[&authority])), way)
        });
        for (server, identity) in
            [(&required, Some(&identity)), (&requested, Some(&identity)), (&requested, None)]
        {
            let client = site.client(TLS13, identity);
            for _ in 0..3 {
                assert_eq!(server.meet(&client, NAME), Full);
            }
            assert_eq!(server.sealed("sealed"), 0);
            assert!(server.sealed("not-allowed") > 0);
        }
        // Nor do they open those of servers that were told to.
        let client = site.client(TLS13, Some(&identity));
        assert_eq!((told.meet(&client, NAME), required.meet(&client, NAME)), (Full, Full));
        assert_eq!(required.opened("not-allowed"), 1);
    }
}

/// A server of a configuration that was made elsewhere, with the keys of `of`.
fn prebuilt(config: ServerConfig, of: &Server, client_auth: ResumeClientAuth) -> Acceptor {
    let (keys, metrics, way) = (Arc::clone(&of.keys), Counters::new().metrics, Resumption::Tickets);
    Acceptor::with_unchecked_client_auth(config, keys, metrics, way, client_auth).unwrap()
}

#[test]
fn a_prebuilt_configuration_that_asks_certificates_gives_no_tickets_unless_told_to() {
    let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
    let authority = Authority::new("clients");
    let asking = site
        .server(&clock, &keys, |builder| builder.require_client_certificates(roots(&[&authority])));
    for (said, again) in
        [(ResumeClientAuth::Never, Full), (ResumeClientAuth::WithoutVerifyingAgain, Resumed)]
    {
        let config = (*asking.acceptor.per_connection_config()).clone();
        let acceptor = prebuilt(config, &asking, said);
        let client = site.client(TLS13, Some(&authority.issue(YEAR)));
        let once = || meet(&acceptor.per_connection_config(), &client, NAME);
        assert_eq!((once(), once()), (Full, again), "{said:?}");
    }
}

#[test]
fn sessions_that_do_not_fit_the_scope_of_a_prebuilt_configuration_are_not_resumed() {
    let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
    let authority = Authority::new("clients");
    let asking = site
        .server(&clock, &keys, |builder| builder.require_client_certificates(roots(&[&authority])));
    // It asks nobody, under the keys of one that does.
    let open = site.server(&clock, &keys, |builder| builder).acceptor.per_connection_config();
    let open = prebuilt((*open).clone(), &asking, ResumeClientAuth::WithoutVerifyingAgain);
    let client = site.client(TLS13, Some(&authority.issue(YEAR)));
    for _ in 0..2 {
        assert_eq!(meet(&open.per_connection_config(), &client, NAME), Full);
    }
    assert_eq!(asking.meet(&client, NAME), Full);
}

#[test]
fn a_prebuilt_configuration_wants_a_scope_that_caps_chains() {
    let (clock, site) = (clock(), Site::new());
    let server = site.server(&clock, &bundle(1, &[planned_key(0)]), |builder| builder);
    let config = (*server.acceptor.per_connection_config()).clone();
    let scope = Scope::try_new("web", ChainRule::Unbounded).unwrap();
    let keys = Arc::new(TicketKeys::new(scope, Arc::new(FleetClock::new(clock))));
    let (metrics, never) = (Counters::new().metrics, ResumeClientAuth::Never);
    let built =
        Acceptor::with_unchecked_client_auth(config, keys, metrics, Resumption::Tickets, never);
    assert!(matches!(built, Err(BuildError::Unbounded { label }) if label == "web"));
}

#[test]
fn no_session_outlives_the_client_certificate() {
    for way in &ways() {
        let (clock, site) = (clock(), Site::new());
        let keys = bundle(1, &[planned_key(0), planned_key(6 * HOUR)]);
        let authority = Authority::new("clients");
        let server = site.server(&clock, &keys, |b| {
            opted(b.require_client_certificates(roots(&[&authority])), way)
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
        assert_eq!(server.opened("session-too-old"), 1);
        assert_eq!(server.sealed("session-too-old"), 2);
    }
}

fn verifier(roots: &RootCertStore) -> ClientCertVerifierBuilder {
    let provider = Arc::new(aws_lc_rs::default_provider());
    WebPkiClientVerifier::builder_with_provider(roots.clone().into(), provider)
}

fn build(
    verifier: ClientCertVerifierBuilder,
    roots: &RootCertStore,
    rule: &str,
) -> Result<ClientAuth, BuildError> {
    let metrics = TicketMetrics::register(&Registry::new(), &keyset()).unwrap();
    let clock = Arc::new(FleetClock::new(clock()));
    ServerBuilder::with_keys("web", metrics, |usage, scope| {
        Arc::new(TicketKeys::for_use(usage, scope.clone(), clock))
    })
    .certificate_resolver(Arc::new(ResolvesServerCertUsingSni::new()))
    .client_cert_verifier(verifier.build().unwrap(), roots.clone(), rule)
    .build()
    .map(|server| server.scope().client_auth())
}

#[test]
fn a_verifier_and_its_roots_have_to_agree() {
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let (only, both) = (roots(&[&one]), roots(&[&one, &two]));
    let silent = || verifier(&both).clear_root_hint_subjects();
    for verifier in [verifier(&both), silent()] {
        assert_eq!(build(verifier, &both, "crl").unwrap(), ClientAuth::Required);
    }
    for (given, trusted) in [(&only, &both), (&both, &only)] {
        let error = build(verifier(trusted), given, "crl").unwrap_err();
        assert!(matches!(error, BuildError::RootsDiffer), "{error:?}");
    }
    for verifier in [verifier(&both), silent()] {
        let error = build(verifier, &RootCertStore::empty(), "crl").unwrap_err();
        assert!(matches!(error, BuildError::Clients(_)), "{error:?}");
    }
    let error = build(verifier(&both), &both, "").unwrap_err();
    assert!(matches!(error, BuildError::UnnamedRule), "{error:?}");
}

#[test]
fn who_passed_one_rule_does_not_resume_past_another() {
    for way in &ways() {
        let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
        let authority = Authority::new("clients");
        let roots = roots(&[&authority]);
        let ruled = |rule| {
            let verifier = verifier(&roots).build().unwrap();
            site.server(&clock, &keys, |builder| {
                opted(builder.client_cert_verifier(verifier, roots.clone(), rule), way)
            })
        };
        let unruled = site.server(&clock, &keys, |builder| {
            opted(builder.require_client_certificates(roots.clone()), way)
        });
        let (one, same, stricter) = (ruled("crl"), ruled("crl"), ruled("crl and partners"));
        let identity = authority.issue(YEAR);
        for (target, outcome) in [(&same, Resumed), (&stricter, Full), (&unruled, Full)] {
            let client = site.client(TLS13, Some(&identity));
            assert_eq!(one.meet(&client, NAME), Full);
            assert_eq!(target.meet(&client, NAME), outcome, "{way:?}");
        }
    }
}
