//! What the demonstration shows: a table that is drawn anew on a terminal, plain lines elsewhere.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use stek_core::id::Kcv;
use stek_core::keyset::KeyRecord;
use stek_core::schedule::KeyState;
use stek_core::time::Timestamp;

use crate::commands::table::{self, colours_wanted};
use crate::dev::demo::report::{Kind, Visit};

/// How many connections the table shows.
const SHOWN: usize = 12;

/// A key as the table shows it.
pub(super) struct KeyLine {
    kcv: Kcv,
    state: KeyState,
    what_next: String,
}

impl KeyLine {
    pub(super) fn new(key: &KeyRecord, now: Timestamp) -> Self {
        let schedule = &key.schedule;
        let state = schedule.state(now);
        let what_next = match state {
            KeyState::Pending => format!("seals in {}", schedule.activate_at().since(now)),
            KeyState::Active => format!("seals for {} more", schedule.retire_at().since(now)),
            KeyState::DecryptOnly => format!("opens for {} more", schedule.destroy_at().since(now)),
            KeyState::Destroyed => "destroyed".into(),
        };
        Self { kcv: key.kcv, state, what_next }
    }
}

pub(super) struct Screen {
    live: bool,
    colours: bool,
    lines: VecDeque<String>,
    /// How many lines the last frame had.
    drawn: usize,
}

impl Screen {
    pub(super) fn new() -> Self {
        let stdout = std::io::stdout();
        let (live, colours) = (stdout.is_terminal(), colours_wanted(&stdout));
        Self { live, colours, lines: VecDeque::new(), drawn: 0 }
    }

    /// Shows a connection, with the keys as they are now.
    pub(super) fn visit(&mut self, visit: &Visit, keys: &[KeyLine]) {
        let mark = if visit.is_right() { ' ' } else { '!' };
        let what = if visit.resumed { "resumed" } else { "full" };
        let ticket = match (visit.issuer, visit.kind) {
            (None, _) => "no ticket yet".to_owned(),
            (Some(issuer), Kind::Hop) => format!("ticket of {issuer}"),
            (Some(issuer), Kind::Stale) => format!("ticket of {issuer}, kept too long"),
        };
        let key = match (visit.outcome.as_deref(), visit.resumed) {
            (Some(state), true) => format!("key {state}"),
            (Some(cause), false) => format!("refused: {cause}"),
            (None, _) => String::new(),
        };
        let at = visit.at.as_secs_f32();
        let server = visit.server;
        self.push(format!("{mark}{at:>5.1} s  {server:<9}  {what:<8} {ticket:<32} {key}"));
        self.draw(keys);
    }

    /// Shows that another key seals now.
    pub(super) fn rotated(&mut self, at: Duration, before: Kcv, after: Kcv) {
        let at = at.as_secs_f32();
        self.push(format!(" {at:>5.1} s  rotation   key {before} retires, key {after} seals"));
    }

    fn push(&mut self, line: String) {
        if !self.live {
            // What nobody reads is not worth failing for.
            let _ = table::line(line.trim_end());
            return;
        }
        self.lines.push_back(line);
        if self.lines.len() > SHOWN {
            self.lines.pop_front();
        }
    }

    fn draw(&mut self, keys: &[KeyLine]) {
        if !self.live {
            return;
        }
        let mut frame = vec![String::from("  KEY               STATE")];
        for key in keys {
            let (kcv, state) = (key.kcv, key.state.as_str());
            frame.push(format!("  {kcv}  {state:<13} {}", key.what_next));
        }
        frame.push(String::new());
        frame.extend(self.lines.iter().cloned());
        let mut out = String::new();
        if self.drawn > 0 {
            // Back to the first line of the last frame; `write!` to a string does not fail.
            let _ = write!(out, "\x1b[{}A", self.drawn);
        }
        for line in &frame {
            let colour = match line {
                _ if !self.colours => "",
                line if line.starts_with('!') => "\x1b[31m",
                line if line.contains("  resumed ") => "\x1b[32m",
                line if line.contains(" active ") => "\x1b[1m",
                _ => "",
            };
            let end = if colour.is_empty() { "" } else { "\x1b[0m" };
            let _ = writeln!(out, "\x1b[2K{colour}{line}{end}");
        }
        // Lines of a longer frame before.
        out.push_str("\x1b[J");
        self.drawn = frame.len();
        let mut stdout = std::io::stdout().lock();
        // A closed terminal ends nothing here; the summary says what is to be said.
        let _ = stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush());
    }
}
