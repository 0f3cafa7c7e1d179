//! `stekd completions` and `stekd man`: the command line, told to shells and to `man`.

use anyhow::{Context, Result};

use crate::cli::help;
use crate::cli::shell::{CompletionsArgs, ManArgs};
use crate::commands::table;

/// Prints the completion script of a shell.
pub(crate) fn completions(asked: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(asked.shell, &mut help::command(), "stekd", &mut script);
    table::show(&script)
}

/// Prints the manual page, or writes those of all commands.
pub(crate) fn man(asked: &ManArgs) -> Result<()> {
    let Some(dir) = &asked.out else {
        let mut page = Vec::new();
        clap_mangen::Man::new(help::command()).render(&mut page)?;
        return table::show(&page);
    };
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(help::command(), dir))
        .with_context(|| format!("manual pages cannot be written to {}", dir.display()))
}
