//! docs/CONFIG.md against the types that configurations are read into: every key, in both directions,
//! and of numbers the default and the range.

use std::collections::{BTreeMap, BTreeSet};

use stek_http::Limits;
use stek_manager::RatchetRules;

use super::*;

const DOCUMENT: &str = include_str!("../../../../../docs/CONFIG.md");

/// The keys that `C` takes, as it names them when it is given another.
fn keys<C: DeserializeOwned + std::fmt::Debug>() -> BTreeSet<String> {
    let error = toml::from_str::<C>("no_such_key = 1").unwrap_err().to_string();
    let expected = error.split_once(", expected ").unwrap_or_else(|| panic!("{error}")).1;
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The cells of the rows below `heading`, up to the next one.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let below = DOCUMENT.split_once(&format!("\n{heading}\n"));
    let below = below.unwrap_or_else(|| panic!("no {heading}")).1;
    let below = below.split("\n#").next().unwrap();
    let lines = below.lines().filter(|line| line.starts_with("| `") || line.starts_with("| | `"));
    let cells = |line: &'static str| line.split('|').skip(1).map(str::trim).collect();
    lines.map(cells).collect()
}

/// The words between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = String> + '_ {
    cell.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// The keys of each section in the table of a role; those of no section under "".
fn sections(heading: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for row in rows(heading) {
        let section = quoted(row[0]).next().unwrap_or_default();
        found.entry(section).or_default().extend(quoted(row[1]));
    }
    found
}

/// What such a table should have: `shared` sections have a table of their own.
fn role<C: DeserializeOwned + std::fmt::Debug>(
    own: &[(&str, BTreeSet<String>)],
) -> BTreeMap<String, BTreeSet<String>> {
    let mut sections: BTreeMap<_, _> =
        own.iter().map(|(name, keys)| ((*name).to_owned(), keys.clone())).collect();
    let plain = sections.get("").cloned().unwrap_or_default();
    for key in keys::<C>().difference(&plain) {
        sections.entry(key.clone()).or_default();
    }
    sections
}

#[test]
fn the_tables_of_roles_have_every_section_and_key() {
    let own = [
        ("database", keys::<DatabaseSection>()),
        ("custody", keys::<CustodySection>()),
        ("peers", keys::<PeersSection>()),
        ("audit", keys::<AuditSection>()),
    ];
    assert_eq!(sections("## Manager"), role::<ManagerConfig>(&own));
    assert_eq!(sections("## Distribution"), role::<DistributionConfig>(&[]));
    let own = [("", ["keyset", "instance"].map(str::to_owned).into())];
    assert_eq!(sections("## Terminator"), role::<TerminatorConfig>(&own));
}

#[test]
fn the_tables_of_sections_have_every_key() {
    let table = |heading| rows(heading).iter().flat_map(|row| quoted(row[0])).collect();
    let (listen, limits) = (keys::<ListenSection>(), keys::<LimitsSection>());
    assert_eq!(&listen | &limits, table("### Listener"));
    assert!(keys::<TlsListenSection>().is_subset(&listen));
    assert_eq!(keys::<MetricsSection>(), table("### Metrics"));
    assert_eq!(keys::<TracesSection>(), table("### Traces"));
    assert_eq!(keys::<UpstreamSection>(), table("### Upstream"));
    assert_eq!(keys::<Profile>(), table("## Operator profile"));
}

fn number(word: &str) -> Option<u64> {
    word.trim_matches([',', '.', ';']).replace(',', "").parse().ok()
}

/// The range in words such as `1 to 3600`.
fn range(meaning: &str) -> (u64, u64) {
    let words: Vec<_> = meaning.split_whitespace().collect();
    let ranges = words.windows(3).filter(|three| three[1] == "to");
    let mut ranges = ranges.filter_map(|three| number(three[0]).zip(number(three[2])));
    ranges.next().unwrap_or_else(|| panic!("no range: {meaning}"))
}

#[test]
fn limits_have_the_defaults_and_ranges_of_their_table() {
    let known = keys::<LimitsSection>();
    let rows = rows("### Listener");
    let rows: Vec<_> = rows.iter().filter(|row| known.contains(row[0].trim_matches('`'))).collect();
    assert_eq!(rows.len(), known.len());
    for row in rows {
        let (key, default) = (row[0].trim_matches('`'), number(row[2]).unwrap());
        let limits = |value: u64| {
            let section: LimitsSection = toml::from_str(&format!("{key} = {value}")).unwrap();
            section.to_limits().map_err(|error| error.0)
        };
        assert_eq!(limits(default), Ok(Limits::default()), "the default of {key}");
        let (least, most) = range(row[3]);
        assert!(limits(least).is_ok() && limits(most).is_ok(), "{key}: {:?}", row[3]);
        assert!(limits(most + 1).is_err(), "{key} may be more than {most}");
        assert!(least == 0 || limits(least - 1).is_err(), "{key} may be less than {least}");
    }
}

#[test]
fn other_numbers_have_the_defaults_of_their_tables() {
    let default = |heading, key: &str| {
        let rows = rows(heading);
        let row = rows.iter().find(|row| row.contains(&format!("`{key}`").as_str())).unwrap();
        row.iter().find_map(|cell| number(cell)).unwrap_or_else(|| panic!("no default: {row:?}"))
    };
    let reseed = RatchetRules::default().reseed_after;
    assert_eq!(Seconds::from_hours(default("## Manager", "reseed_hours")), reseed);
    let audit = AuditSection { retention_days: default("## Manager", "retention_days") };
    assert_eq!(audit.retention_days, AuditSection::default().retention_days);
    let wait = Seconds::new(default("### Upstream", "wait_seconds"));
    assert_eq!(wait, stek_client::DEFAULT_WAIT);
}
