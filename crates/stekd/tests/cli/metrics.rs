//! docs/METRICS.md against what the running programs answer, in both directions.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;

use crate::process::PATIENCE;
use crate::site::{LISTEN, Role, Site, reach};

const DOCUMENT: &str = include_str!("../../../../docs/METRICS.md");

/// A metric as the document has it, or as a program shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Metric {
    kind: String,
    /// Values by label; none listed where they are open.
    labels: BTreeMap<String, BTreeSet<String>>,
    help: String,
}

/// The documented metrics of `role`.
fn documented(role: &str) -> BTreeMap<String, Metric> {
    let rows = DOCUMENT.lines().filter_map(|line| {
        let cells: Vec<_> = line.strip_prefix("| `stek_")?.split('|').map(str::trim).collect();
        let [name, kind, labels, _unit, meaning, roles, ..] = cells[..] else {
            panic!("six columns: {line}")
        };
        let name = format!("stek_{}", name.trim_end_matches('`'));
        let metric = Metric { kind: kind.into(), labels: label_cell(labels), help: meaning.into() };
        roles.split(' ').any(|of| of == role).then_some((name, metric))
    });
    rows.collect()
}

/// `` `label`: `value` `value`; `label` ``
fn label_cell(cell: &str) -> BTreeMap<String, BTreeSet<String>> {
    let labels = cell.split(';').filter(|label| !label.trim().is_empty()).map(|label| {
        let mut words = label.split('`').skip(1).step_by(2).map(str::to_owned);
        (words.next().expect("a label stands between backticks"), words.collect())
    });
    labels.collect()
}

/// What an exposition shows.
fn exported(text: &str) -> BTreeMap<String, Metric> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    let mut help = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, words)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            help.insert(name.to_owned(), words.to_owned());
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' '))
        {
            let help = help.get(name).cloned().unwrap_or_default();
            let metric = Metric { kind: kind.into(), labels: BTreeMap::new(), help };
            metrics.insert(name.to_owned(), metric);
        } else if !line.starts_with('#') {
            let (series, _value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let of = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let name = of.filter(|name| metrics.contains_key(*name)).unwrap_or(name);
            let metric = metrics.get_mut(name).unwrap_or_else(|| panic!("type before {line}"));
            // No value of ours has a comma or a quotation mark in it.
            for label in labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()) {
                let (label, value) = label.split_once('=').unwrap();
                if label != "le" {
                    let values = metric.labels.entry(label.to_owned()).or_default();
                    values.insert(value.trim_matches('"').to_owned());
                }
            }
        }
    }
    metrics
}

/// The row that the document should have.
fn row(name: &str, metric: &Metric, role: &str) -> String {
    let labels = metric.labels.iter().map(|(label, values)| {
        let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
        format!("`{label}`: {}", values.join(" "))
    });
    let labels = labels.collect::<Vec<_>>().join("; ");
    format!("| `{name}` | {} | {labels} | UNIT | {} | {role} |", metric.kind, metric.help)
}

/// What is wrong between the document and `text`, which `role` answered.
fn differences(role: &str, text: &str) -> Vec<String> {
    let (said, shown) = (documented(role), exported(text));
    let mut wrong = Vec::new();
    for (name, metric) in &shown {
        let Some(known) = said.get(name) else {
            let row = row(name, metric, role);
            wrong.push(format!("{name} is not in the table for {role}; add the row\n  {row}"));
            continue;
        };
        if known.kind != metric.kind {
            wrong.push(format!("{name} is a {}, not a {}", metric.kind, known.kind));
        }
        if (known.kind == "counter") != name.ends_with("_total") {
            wrong.push(format!("{name}: counters, and nothing else, end in _total"));
        }
        let (known, labels) = (&known.labels, &metric.labels);
        if !known.keys().eq(labels.keys()) {
            wrong.push(format!("{name} has the labels {:?}", labels.keys()));
        }
        for (label, values) in labels {
            let listed = known.get(label).filter(|listed| !listed.is_empty());
            let others = listed.map(|listed| values.difference(listed).collect::<Vec<_>>());
            if let Some(others) = others.filter(|others| !others.is_empty()) {
                wrong
                    .push(format!("{name}: the values {others:?} of {label} are not in the table"));
            }
        }
    }
    for name in said.keys().filter(|name| !shown.contains_key(*name)) {
        wrong.push(format!(
            "{name} is in the table for {role} and not exported: initialise it at registration, \
             or take {role} out of its row"
        ));
    }
    wrong
}

/// Values of labels that the document lists and no role has shown. Series of HTTP come with the first
/// request of their kind, so of those it may list more.
fn unshown(answers: &[(&str, String)]) -> Vec<String> {
    let mut shown: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for (name, metric) in answers.iter().flat_map(|(_, text)| exported(text)) {
        for (label, values) in metric.labels {
            shown.entry((name.clone(), label)).or_default().extend(values);
        }
    }
    let mut wrong = BTreeSet::new();
    for (name, metric) in answers.iter().flat_map(|(role, _)| documented(role)) {
        for (label, listed) in metric.labels.iter().filter(|_| !name.starts_with("stek_http_")) {
            let values = shown.get(&(name.clone(), label.clone())).cloned().unwrap_or_default();
            let others: Vec<_> = listed.difference(&values).collect();
            if !others.is_empty() {
                wrong.insert(format!("{name}: no program has the values {others:?} of {label}"));
            }
        }
    }
    wrong.into_iter().collect()
}

/// What the metrics listener at `port` answers.
pub(crate) fn scrape(port: &str) -> String {
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(!head.contains("chunked"), "{head}");
    body.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_names_every_metric_and_no_other() {
    let database = stek_testpg::create_database().await.unwrap();
    let site = Site::with_database(database.url());
    let manager = Role::start("manager", &site.path("manager.toml"));
    let admin = manager.port("admin");
    site.profile("operator", &admin);
    site.stekd("keyset create main --profile DIR/operator.toml");
    let config = format!("{}{LISTEN}", reach(&[&admin], "distribution-token"));
    let distribution = Role::start("distribution", &site.write("distribution.toml", &config));
    let bundles = distribution.port("distribution");
    let upstream = reach(&[&bundles], "terminator-token");
    let config = format!("keyset = \"main\"\ninstance = \"edge\"\n{upstream}{LISTEN}");
    let terminator = Role::start("terminator", &site.write("terminator.toml", &config));

    // Then the keyset is published, too.
    terminator.logs("installed");

    let roles = [("M", &manager), ("D", &distribution), ("T", &terminator)];
    let answers = roles.map(|(name, role)| {
        let port = role.port("metrics");
        // The first request is in the second answer.
        scrape(&port);
        (name, scrape(&port))
    });
    let each = answers.iter().flat_map(|(role, text)| differences(role, text));
    let wrong: Vec<_> = each.chain(unshown(&answers)).collect();
    assert!(wrong.is_empty(), "docs/METRICS.md:\n{}", wrong.join("\n"));
    database.drop_now().await.unwrap();
}
