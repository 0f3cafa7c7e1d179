//! What the client saw, and whether it is what should have been.

use std::time::Duration;

use stek_core::time::Seconds;

/// Why a connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The client hops on, with its newest ticket.
    Hop,
    /// A ticket is offered that has outlived its lifetime.
    Stale,
}

/// One connection.
#[derive(Debug, Clone)]
pub(super) struct Visit {
    /// Since the start.
    pub(super) at: Duration,
    pub(super) server: &'static str,
    pub(super) resumed: bool,
    /// Who issued the ticket that was offered, if one was.
    pub(super) issuer: Option<&'static str>,
    /// What became of it at the server.
    pub(super) outcome: Option<String>,
    pub(super) kind: Kind,
}

impl Visit {
    /// Whether the connection should have resumed: a ticket was offered that had not expired.
    pub(super) fn should_resume(&self) -> bool {
        self.kind == Kind::Hop && self.issuer.is_some()
    }

    /// Whether it did what it should; a stale ticket must have been seen and refused as expired.
    pub(super) fn is_right(&self) -> bool {
        let refused = self.outcome.as_deref() == Some("expired");
        self.resumed == self.should_resume() && (self.kind == Kind::Hop || refused)
    }
}

/// All connections.
#[derive(Debug, Default)]
pub(super) struct Report {
    visits: Vec<Visit>,
    rotations: u64,
}

impl Report {
    pub(super) fn visits(&self) -> usize {
        self.visits.iter().filter(|visit| visit.kind == Kind::Hop).count()
    }

    pub(super) fn add(&mut self, visit: Visit) {
        self.visits.push(visit);
    }

    pub(super) fn rotated(&mut self) {
        self.rotations += 1;
    }

    fn count(&self, which: impl Fn(&&Visit) -> bool) -> usize {
        self.visits.iter().filter(which).count()
    }

    /// The counts, for a person.
    pub(super) fn summary(&self) -> Vec<String> {
        let missed = self.count(|visit| visit.should_resume() && !visit.resumed);
        let elsewhere = |visit: &&Visit| visit.resumed && visit.issuer != Some(visit.server);
        let stale = self.count(|visit| visit.kind == Kind::Stale && !visit.resumed);
        let mut lines = vec![
            String::new(),
            format!("connections                   {:>4}", self.visits.len()),
            format!("resumed                       {:>4}", self.count(|visit| visit.resumed)),
            format!("resumed on the other server   {:>4}", self.count(elsewhere)),
            format!("missed though still valid     {missed:>4}"),
            format!("refused because too old       {stale:>4}"),
            format!("rotations                     {:>4}", self.rotations),
        ];
        for visit in self.visits.iter().filter(|visit| visit.should_resume() && !visit.resumed) {
            let cause = visit.outcome.as_deref().unwrap_or("no ticket reached the server");
            let at = visit.at.as_secs_f32();
            lines.push(format!("  missed at {at:.1} s on {}: {cause}", visit.server));
        }
        lines
    }

    /// What is not as it should be; nothing if all is.
    pub(super) fn faults(&self, duration: Seconds, rotation: Seconds) -> Vec<String> {
        let mut faults = Vec::new();
        let wrong = self.count(|visit| !visit.is_right());
        if wrong > 0 {
            faults.push(format!("{wrong} connections did not do what they should have"));
        }
        let due = duration.as_secs() / rotation.as_secs() - 1;
        if self.rotations < due {
            faults.push(format!("{} rotations, at least {due} were due", self.rotations));
        }
        if self.count(|visit| visit.resumed) == 0 {
            faults.push("nothing resumed".into());
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(kind: Kind, issuer: Option<&'static str>, resumed: bool) -> Visit {
        let (at, outcome) = (Duration::ZERO, Some("expired".to_owned()));
        Visit { at, server: "server-a", resumed, issuer, outcome, kind }
    }

    fn faults(visits: &[Visit], rotations: u64) -> Vec<String> {
        let report = Report { visits: visits.to_vec(), rotations };
        report.faults(Seconds::new(45), Seconds::new(10))
    }

    #[test]
    fn a_good_run_has_no_faults() {
        let visits = [
            visit(Kind::Hop, None, false),
            visit(Kind::Hop, Some("server-b"), true),
            visit(Kind::Stale, Some("server-a"), false),
        ];
        assert_eq!(faults(&visits, 3), Vec::<String>::new());
    }

    #[test]
    fn a_stale_ticket_that_never_reached_the_server_is_a_fault() {
        let unseen = Visit { outcome: None, ..visit(Kind::Stale, Some("server-a"), false) };
        assert_eq!(faults(&[visit(Kind::Hop, Some("server-b"), true), unseen], 3).len(), 1);
    }

    #[test]
    fn a_miss_a_stale_resumption_and_a_stuck_rotation_are_faults() {
        let good = visit(Kind::Hop, Some("server-b"), true);
        for bad in [visit(Kind::Hop, Some("server-b"), false), visit(Kind::Stale, Some("x"), true)]
        {
            assert_eq!(faults(&[good.clone(), bad], 3).len(), 1);
        }
        assert_eq!(faults(&[good], 2).len(), 1);
        assert_eq!(faults(&[visit(Kind::Hop, None, false)], 3).len(), 1);
    }
}
