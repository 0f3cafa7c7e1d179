//! Alerts and dashboard speak of metrics and outcomes that docs/METRICS.md has, and so the programs.

use std::collections::BTreeSet;

const DOCUMENT: &str = include_str!("../../../../docs/METRICS.md");
const QUERIES: [(&str, &str); 2] = [
    ("alerts", include_str!("../../../../deploy/prometheus/stekd.rules.yml")),
    ("dashboard", include_str!("../../../../deploy/grafana/stekd.json")),
];

/// The names of metrics in `text`.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("stek_")).collect()
}

/// The metric of a series: that of a histogram has an end to its name.
fn metric<'name>(series: &'name str, there: &BTreeSet<&str>) -> &'name str {
    let of = ["_bucket", "_sum", "_count"].iter().find_map(|end| series.strip_suffix(end));
    of.filter(|name| there.contains(name)).unwrap_or(series)
}

/// The outcomes that selectors such as `outcome=~"active|pending"` name; JSON escapes the quotes.
fn outcomes(queries: &str) -> BTreeSet<&str> {
    let selectors = queries.split("outcome").skip(1).filter_map(|rest| {
        let value = rest.trim_start_matches(['=', '~', '!']);
        let quoted = value.trim_start_matches('\\').strip_prefix('"')?;
        (value.len() < rest.len()).then(|| quoted.split(['"', '\\']).next().unwrap_or(""))
    });
    selectors.flat_map(|selector| selector.split('|')).collect()
}

#[test]
fn alerts_and_dashboard_name_metrics_that_exist() {
    let rows: Vec<_> = DOCUMENT.lines().filter(|line| line.starts_with("| `stek_")).collect();
    let there: BTreeSet<_> = rows.iter().filter_map(|row| row.split('`').nth(1)).collect();
    let words: BTreeSet<_> =
        rows.iter().flat_map(|row| row.split('`').skip(1).step_by(2)).collect();
    for (what, queries) in QUERIES {
        let asked = names(queries);
        assert!(asked.len() >= 10, "the {what} are not read well: {asked:?}");
        let unknown: Vec<_> =
            asked.iter().filter(|series| !there.contains(metric(series, &there))).collect();
        assert!(unknown.is_empty(), "the {what} name metrics that no program has: {unknown:?}");
        let asked = outcomes(queries);
        assert!(asked.len() >= 3, "the {what} are not read well: {asked:?}");
        let unknown: Vec<_> = asked.difference(&words).collect();
        assert!(unknown.is_empty(), "the {what} name outcomes that no program has: {unknown:?}");
    }
}
