//! What was measured, as lines, as JSON, and against the bars that this project sets itself.

use std::path::Path;

use serde_json::json;

use crate::measure::Rounds;
use crate::tickets::{SIZES, THREADS, case};
use crate::{handshake, hello};

pub(crate) const STEK: &str = "stek";
pub(crate) const RING: &str = "rustls-ring";
pub(crate) const AWS_LC: &str = "rustls-aws-lc";
/// The bare AEAD, without a ticket around it.
pub(crate) const FLOOR: &str = "floor";
/// Over the same AEAD; no bar is set by it.
pub(crate) const LEAST: &str = "least-ticketer";

/// Below this nothing is printed; a machine that is always disturbed stays below it, too.
const WORTH_SAYING: f64 = 1.1;
/// Sealing is to be so many times faster than the faster of the two built-in ticketers.
const SEAL_FACTOR: f64 = 1.2;
/// Opening may take so many nanoseconds longer than in the faster of the two.
const OPEN_EXTRA_NANOS: f64 = 300.0;
/// Sealing may take so many times as long as the bare AEAD.
const FLOOR_FACTOR: f64 = 1.3;
/// Accepting a resumed connection may take so many microseconds longer than with a plain ticketer.
const ACCEPT_EXTRA_MICROS: f64 = 2.0;
/// The worst hello may cost so many times what it costs without any ticket.
const HELLO_FACTOR: f64 = 1.1;

struct Line {
    what: String,
    case: String,
    contender: &'static str,
    value: f64,
    unit: &'static str,
    /// Where `value` is of quiet rounds alone, that of all.
    in_all_rounds: Option<f64>,
    /// Whether something else than the contender was measured.
    is_void: bool,
}

impl Line {
    fn is(&self, what: &str, case: &str, contender: &str) -> bool {
        (self.what.as_str(), self.case.as_str(), self.contender) == (what, case, contender)
    }
}

/// What became of a bar.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Met,
    NotMet,
    /// What it is judged by is void.
    Void,
}

impl Verdict {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::NotMet => "NOT MET",
            Self::Void => "VOID",
        }
    }
}

/// All measurements of one run.
pub(crate) struct Report {
    lines: Vec<Line>,
    verdicts: Vec<(String, Verdict)>,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { lines: Vec::new(), verdicts: Vec::new() }
    }

    /// Prints one measurement and keeps it.
    pub(crate) fn add(
        &mut self,
        what: &str,
        case: &str,
        contender: &'static str,
        value: f64,
        unit: &'static str,
    ) {
        self.keep(what, case, contender, value, None, unit);
    }

    fn keep(
        &mut self,
        what: &str,
        case: &str,
        contender: &'static str,
        value: f64,
        in_all_rounds: Option<f64>,
        unit: &'static str,
    ) {
        let digits = usize::from(!matches!(unit, "ns" | "req/s"));
        println!("bench {what}/{case}/{contender} {value:.digits$} {unit}");
        let (what, case) = (what.to_owned(), case.to_owned());
        self.lines.push(Line { what, case, contender, value, unit, in_all_rounds, is_void: false });
    }

    /// Prints and keeps what contenders took in the rounds that were disturbed least, and keeps what
    /// they took in all.
    pub(crate) fn add_rounds<const N: usize>(
        &mut self,
        what: &str,
        case: &str,
        contenders: [&'static str; N],
        rounds: &Rounds<N>,
        unit: &'static str,
    ) {
        let factor = rounds.disturbance();
        if factor >= WORTH_SAYING {
            println!(
                "# {what}/{case}: half of all rounds took {factor:.2}x the quiet ones or more"
            );
        }
        let took = rounds.quiet_medians().into_iter().zip(rounds.medians());
        for (contender, (quiet, all)) in contenders.into_iter().zip(took) {
            self.keep(what, case, contender, quiet, Some(all), unit);
        }
    }

    /// Says that a measurement is void, and why. No bar is met by it.
    pub(crate) fn void(&mut self, what: &str, case: &str, contender: &str, why: &str) {
        println!("# {what}/{case}/{contender} is void: {why}");
        for line in self.lines.iter_mut().filter(|line| line.is(what, case, contender)) {
            line.is_void = true;
        }
    }

    /// Prints a verdict for each bar.
    pub(crate) fn verdicts(&mut self) {
        for threads in THREADS {
            for size in SIZES {
                self.judge_tickets(&case(size, threads));
            }
        }
        let (what, case) = (handshake::WHAT, handshake::CASE);
        let [accept, in_all] = self.both(what, case, |get| get(STEK) - get(handshake::PLAIN));
        self.judge(
            format!(
                "accept {accept:+.1} us beside plain (bar +{ACCEPT_EXTRA_MICROS} us; \
                 in all rounds {in_all:+.1})"
            ),
            accept <= ACCEPT_EXTRA_MICROS,
        );
        for case in [hello::CASE, hello::OF_OUR_NAME] {
            let [hello, in_all] = self.both(hello::WHAT, case, |get| get(STEK) / get(hello::NOOP));
            self.judge(
                format!(
                    "clienthello/{case} {hello:.2}x noop (bar {HELLO_FACTOR}x; \
                     in all rounds {in_all:.2}x)"
                ),
                hello <= HELLO_FACTOR,
            );
        }
    }

    /// Writes everything to `path`.
    pub(crate) fn write(&self, path: &Path, build: &str) -> std::io::Result<()> {
        let lines = self.lines.iter().map(|line| {
            let Line { what, case, contender, value, unit, in_all_rounds, is_void } = line;
            json!({
                "what": what,
                "case": case,
                "contender": contender,
                "value": value,
                "unit": unit,
                "in_all_rounds": in_all_rounds,
                "void": is_void,
            })
        });
        let bars = self.verdicts.iter().map(|(bar, verdict)| {
            json!({
                "bar": bar,
                "met": *verdict == Verdict::Met,
                "void": *verdict == Verdict::Void,
            })
        });
        let document = json!({
            "build": build,
            "measurements": lines.collect::<Vec<_>>(),
            "bars": bars.collect::<Vec<_>>(),
        });
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, format!("{document:#}\n"))
    }

    fn judge_tickets(&mut self, case: &str) {
        let [seal, in_all] = self.both("seal", case, |get| get(RING).min(get(AWS_LC)) / get(STEK));
        self.judge(
            format!(
                "seal/{case} {seal:.2}x the faster built-in (bar {SEAL_FACTOR}x; \
                 in all rounds {in_all:.2}x)"
            ),
            seal >= SEAL_FACTOR,
        );
        let [open, in_all] = self.both("open", case, |get| get(STEK) - get(RING).min(get(AWS_LC)));
        self.judge(
            format!(
                "open/{case} {open:+.0} ns beside it (bar +{OPEN_EXTRA_NANOS} ns; \
                 in all rounds {in_all:+.0})"
            ),
            open <= OPEN_EXTRA_NANOS,
        );
        let [floor, in_all] = self.both("seal", case, |get| get(STEK) / get(FLOOR));
        let [least, _] = self.both("seal", case, |get| get(STEK) / get(LEAST));
        self.judge(
            format!(
                "seal/{case} {floor:.2}x floor (bar {FLOOR_FACTOR}x; in all rounds {in_all:.2}x), \
                 {least:.2}x the least ticketer"
            ),
            floor <= FLOOR_FACTOR,
        );
    }

    /// What `compare` makes of what contenders took: in the rounds that were disturbed least, by which
    /// bars are judged, and in all of them.
    fn both(
        &self,
        what: &str,
        case: &str,
        compare: impl Fn(&dyn Fn(&str) -> f64) -> f64,
    ) -> [f64; 2] {
        let took = |of: fn(&Line) -> Option<f64>| {
            // Not a number, which meets no bar, if it was not measured.
            compare(&|who| self.line(what, case, who).and_then(of).unwrap_or(f64::NAN))
        };
        [took(|line| Some(line.value)), took(|line| line.in_all_rounds)]
    }

    /// Prints whether a bar is met and keeps it.
    pub(crate) fn judge(&mut self, bar: String, met: bool) {
        self.pronounce(bar, if met { Verdict::Met } else { Verdict::NotMet });
    }

    /// The same for a bar that goes by `what` in this `case`, of whatever contender.
    pub(crate) fn judge_by(&mut self, what: &str, case: &str, bar: String, met: bool) {
        let goes_by = |line: &Line| (line.what.as_str(), line.case.as_str()) == (what, case);
        if self.lines.iter().any(|line| line.is_void && goes_by(line)) {
            return self.pronounce(bar, Verdict::Void);
        }
        self.judge(bar, met);
    }

    fn pronounce(&mut self, bar: String, verdict: Verdict) {
        println!("verdict {}: {bar}", verdict.as_str());
        self.verdicts.push((bar, verdict));
    }

    fn line(&self, what: &str, case: &str, contender: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.is(what, case, contender))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_void_meets_no_bar_and_says_so() {
        let mut report = Report::new();
        for (contender, value) in [(STEK, 3.0), ("nginx", 2.0)] {
            report.add("poll304", "1w", contender, value, "req/s");
            report.add("bundle200", "1w", contender, value, "req/s");
        }
        report.void("poll304", "1w", "nginx", "the generator was busy");
        report.judge_by("poll304", "1w", "one".into(), true);
        report.judge_by("bundle200", "1w", "two".into(), true);
        let dir = std::env::temp_dir().join(format!("stek-bench-{}", std::process::id()));
        let path = dir.join("report.json");
        report.write(&path, "test").unwrap();
        let written: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        std::fs::remove_dir_all(dir).unwrap();
        let void = |list: &str| {
            let all = written[list].as_array().unwrap().iter();
            all.map(|one| one["void"].as_bool().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(void("measurements"), [false, false, true, false]);
        assert_eq!(void("bars"), [true, false]);
        assert_eq!(written["bars"][0]["met"], false);
    }
}
