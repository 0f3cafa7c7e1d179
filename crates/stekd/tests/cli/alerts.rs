//! Alerts and dashboard speak of series that the roles really have.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use crate::process::PATIENCE;
use crate::roles::{LISTEN, Role, Site, upstream};

/// What queries `/metrics` of each role.
const FILES: [&str; 2] = ["prometheus/stekd.rules.yml", "grafana/stekd.json"];

fn exposition(port: &str) -> String {
    let mut connection = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    connection.write_all(b"GET /metrics HTTP/1.0\r\nhost: localhost\r\n\r\n").unwrap();
    let mut text = String::new();
    connection.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.0 200"), "{text}");
    text
}

/// The same, once it has `series`: some come with the first pass.
fn exposition_with(port: &str, series: &str) -> String {
    let mut asked = (0..10_000).map(|_| exposition(port));
    asked.find(|text| names(text).contains(series)).expect("the first pass is soon")
}

/// The names of series in a query or an exposition.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("stek_")).collect()
}

/// The outcomes that selectors such as `outcome=~"active|pending"` name; the quotes of JSON are
/// escaped.
fn outcomes(text: &str) -> BTreeSet<&str> {
    let selectors = text.split("outcome").skip(1).filter_map(|rest| {
        let value = rest.trim_start_matches(['=', '~', '!']);
        let quoted = value.trim_start_matches('\\').strip_prefix('"')?;
        (value.len() < rest.len()).then(|| quoted.split(['"', '\\']).next().unwrap_or(""))
    });
    selectors.flat_map(|selector| selector.split('|')).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_and_dashboard_name_series_that_exist() {
    let database = stek_testpg::create_database().await.unwrap();
    let site = Site::with_database(database.url());
    let manager = Role::start("manager", &site.path("manager.toml"));
    let admin = manager.port("admin");
    let config = format!("{}{LISTEN}", upstream(&admin, "distribution-token"));
    let distribution = Role::start("distribution", &site.write("distribution.toml", &config));
    let bundles = distribution.port("distribution");
    let config = format!("keyset = \"main\"\n{}{LISTEN}", upstream(&bundles, "terminator-token"));
    let terminator = Role::start("terminator", &site.write("terminator.toml", &config));

    let shown = [
        exposition_with(&manager.port("metrics"), "stek_manager_keys"),
        exposition(&distribution.port("metrics")),
        exposition(&terminator.port("metrics")),
    ]
    .concat();
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    for file in FILES {
        let queries = std::fs::read_to_string(deploy.join(file)).unwrap();
        let (asked, there) = (names(&queries), names(&shown));
        assert!(asked.len() >= 10, "{file} is not read well: {asked:?}");
        let unknown: Vec<_> = asked.difference(&there).collect();
        assert!(unknown.is_empty(), "{file} names series that no role has: {unknown:?}");
        let (asked, there) = (outcomes(&queries), outcomes(&shown));
        assert!(asked.len() >= 3, "{file} is not read well: {asked:?}");
        let unknown: Vec<_> = asked.difference(&there).collect();
        assert!(unknown.is_empty(), "{file} names outcomes that no role has: {unknown:?}");
    }
}
