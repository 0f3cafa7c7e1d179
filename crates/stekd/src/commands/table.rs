//! Results on standard output: columns for people, JSON for programs.

use std::io::{self, IsTerminal, Write};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::cli::Output;

/// Prints `document` as JSON, or what `table` makes of it.
///
/// # Errors
/// Standard output cannot be written. That its reader has gone is none: it has seen enough.
pub(crate) fn print<D: Serialize>(
    output: Output,
    document: &D,
    table: impl FnOnce(&D) -> String,
) -> Result<()> {
    let text = match output {
        Output::Json => serde_json::to_string_pretty(document)? + "\n",
        Output::Table => table(document),
    };
    show(text.as_bytes())
}

/// Prints a line as it is.
///
/// # Errors
/// As [`print`].
pub(crate) fn line(text: &str) -> Result<()> {
    show(format!("{text}\n").as_bytes())
}

/// Prints what is there as it is.
///
/// # Errors
/// As [`print`].
pub(crate) fn show(text: &[u8]) -> Result<()> {
    match deliver(&[text]) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output"),
    }
}

/// Prints parts that are lost if nobody reads them.
///
/// # Errors
/// Also if the reader of standard output has gone.
pub(crate) fn deliver(parts: &[&[u8]]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    parts.iter().try_for_each(|part| out.write_all(part))?;
    out.flush()
}

/// Colours, where somebody looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// Standard output is a terminal and nobody objects.
    Colours,
    /// A file, a pipe, or `NO_COLOR`.
    Plain,
}

impl Paint {
    /// As standard output has it.
    pub(crate) fn stdout() -> Self {
        if colours_wanted(&std::io::stdout()) { Self::Colours } else { Self::Plain }
    }

    /// Text that says that all is well.
    pub(crate) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// `text` with the words that name outcomes in their colours.
    pub(crate) fn words(self, text: &str) -> String {
        let green = ["resumed", "yes"];
        let red = ["full", "no-ticket", "failed", "no"];
        let words = text.split_inclusive([' ', '\n']).map(|word| {
            let bare = word.trim_end();
            if green.contains(&bare) {
                self.paint("32", bare) + &word[bare.len()..]
            } else if red.contains(&bare) {
                self.paint("31", bare) + &word[bare.len()..]
            } else {
                word.to_owned()
            }
        });
        words.collect()
    }

    fn paint(self, colour: &str, text: &str) -> String {
        match self {
            Self::Colours => format!("\x1b[{colour}m{text}\x1b[0m"),
            Self::Plain => text.to_owned(),
        }
    }
}

/// Whether colours may go to `stream`: a terminal, unless `NO_COLOR` is set to something
/// (<https://no-color.org>).
pub(crate) fn colours_wanted(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Columns as wide as their widest cell, two spaces apart, the first row as heading.
pub(crate) fn columns(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let heading = heading.iter().map(|cell| (*cell).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&heading).chain(rows) {
        let cells: Vec<_> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_outcomes_are_painted() {
        let line = "resumed  full\n";
        assert_eq!(Paint::Plain.words(line), line);
        assert_eq!(Paint::Colours.words(line), "\x1b[32mresumed\x1b[0m  \x1b[31mfull\x1b[0m\n");
        assert_eq!(Paint::Colours.words("fully resumed-x\n"), "fully resumed-x\n");
    }

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["main".into(), "1".into()], vec!["eu".into(), "22".into()]];
        assert_eq!(columns(&["NAME", "REV"], &rows), "NAME  REV\nmain  1\neu    22\n");
    }
}
