//! The arguments of `stekd completions` and `stekd man`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

/// `stekd completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell that is to read it.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// `stekd man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write the pages of all commands to this directory instead, which is made if it is not there.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}
