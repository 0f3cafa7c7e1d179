//! Results on standard output: columns for people, JSON for programs.

use anyhow::Result;
use serde::Serialize;

use crate::cli::Output;

/// Prints `document` as JSON, or what `table` makes of it.
#[allow(clippy::print_stdout, reason = "this is what the command was asked for")]
pub(crate) fn print<D: Serialize>(
    output: Output,
    document: &D,
    table: impl FnOnce(&D) -> String,
) -> Result<()> {
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(document)?),
        Output::Table => print!("{}", table(document)),
    }
    Ok(())
}

/// Prints a line as it is.
#[allow(clippy::print_stdout, reason = "this is what the command was asked for")]
pub(crate) fn line(text: &str) {
    println!("{text}");
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
    fn columns_line_up() {
        let rows = vec![vec!["main".into(), "1".into()], vec!["eu".into(), "22".into()]];
        assert_eq!(columns(&["NAME", "REV"], &rows), "NAME  REV\nmain  1\neu    22\n");
    }
}
