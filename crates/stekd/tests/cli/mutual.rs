//! A distribution that knows terminators by their certificates, as a process: of several authorities,
//! and with a certificate of its own that is exchanged while it runs.

use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};

use crate::process::terminate;
use crate::site::{LISTEN, Role, Site, reach};

pub(crate) type Authority = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes the certificate `WHO.pem` of `uri` by `authority`, and its key `WHO.key`.
pub(crate) fn certify(site: &Site, authority: &Authority, who: &str, uri: &str) {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    let key = KeyPair::generate().unwrap();
    let pem = params.signed_by(&key, authority).unwrap().pem();
    site.write(&format!("{who}.pem"), &pem);
    site.write(&format!("{who}.key"), &key.serialize_pem());
}

/// A terminator of `keyset` with a certificate by `authority`, which trusts servers of `roots`.
fn terminator(site: &Site, authority: &Authority, keyset: &str, roots: &str, port: &str) -> Role {
    certify(site, authority, "edge", "spiffe://td/edge/1");
    let upstream = format!(
        "[upstream]\nurls = [\"https://localhost:{port}\"]\nroots_files = [\"{roots}/ca.pem\"]\n\
         certificate_file = \"edge.pem\"\nprivate_key_file = \"edge.key\"\n"
    );
    let text = format!("keyset = \"{keyset}\"\ninstance = \"edge-1\"\n{upstream}{LISTEN}");
    Role::start("terminator", &site.write("edge.toml", &text))
}

/// Gives the distribution the certificate in `folder`, without telling it.
fn exchange(site: &Site, folder: &str) {
    for file in ["server.pem", "server.key"] {
        let made = std::fs::read_to_string(site.path(&format!("{folder}/{file}"))).unwrap();
        site.write(&format!("served/{file}"), &made);
    }
}

#[test]
fn terminators_are_known_by_certificates_and_the_servers_own_is_exchanged() {
    let site = Site::with_database("sqlite:keys.db");
    let mut manager = Role::start("manager", &site.path("manager.toml"));
    let admin = manager.port("admin");
    site.profile("operator", &admin);
    site.stekd("keyset create main --profile DIR/operator.toml");
    site.stekd("keyset create other --profile DIR/operator.toml");
    let grant = "grant add spiffe://td/edge/* main --role terminator";
    site.stekd(&format!("{grant} --profile DIR/operator.toml"));

    let (one, two, strange) = (authority(), authority(), authority());
    site.write("clients.pem", &format!("{}{}", one.pem(), two.pem()));
    std::fs::create_dir(site.path("served")).unwrap();
    exchange(&site, "tls");
    let served = LISTEN.replace("tls/", "served/");
    let listen = served.replace("[metrics]", "client_ca_file = \"clients.pem\"\n[metrics]");
    let upstream = reach(&[&admin], "distribution-token");
    let file = site.write("distribution.toml", &format!("{upstream}{listen}"));
    let mut distribution = Role::start("distribution", &file);
    let port = distribution.port("distribution");
    let start = |authority, keyset, roots| terminator(&site, authority, keyset, roots, &port);

    for authority in [&one, &two] {
        let mut edge = start(authority, "main", "tls");
        edge.logs("installed");
        terminate(&mut edge.process);
    }
    let other = start(&one, "other", "tls");
    assert!(other.log_line("poll failed").contains("status 404"));
    let stranger = start(&strange, "main", "tls");
    assert!(stranger.log_line("poll failed").contains("unreachable"));

    // At once when told to, and otherwise by looking.
    for (folder, signal) in [("tls-2", Some("-HUP")), ("tls-3", None)] {
        site.stekd(&format!("dev-ca DIR/{folder} --name localhost"));
        exchange(&site, folder);
        if let Some(signal) = signal {
            let id = distribution.process.id().to_string();
            assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
            distribution.logs("\"reloading\"");
        }
        distribution.logs("certificates reloaded");
        let mut edge = start(&two, "main", folder);
        edge.logs("installed");
        terminate(&mut edge.process);
        assert!(start(&two, "main", "tls").log_line("poll failed").contains("unreachable"));
    }
    terminate(&mut distribution.process);
    terminate(&mut manager.process);
}
