//! The `stekd` program: reads configuration, puts the parts together in the roles of manager,
//! distribution and sample terminator, and speaks to operators. What the parts do is theirs.

pub mod cli;
mod commands;
pub mod config;
pub mod dev;
mod exit;
mod logging;
mod memory;
pub mod probe;
pub mod roles;
mod traces;

pub use exit::{CODES, Refused, USAGE, exit_code, said};
pub use logging::{LogFormat, init as init_logging};
pub use traces::Traces;

use anyhow::Result;

use crate::cli::{Cli, Command};

/// Runs one command to its end.
///
/// # Errors
/// Whatever stopped it, with context; [`exit_code`] tells the status to end with.
pub async fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Manager(asked) => roles::manager::run(&asked.config).await,
        Command::Distribution(asked) => roles::distribution::run(&asked.config).await,
        Command::Terminator(asked) => roles::terminator::run(&asked.config).await,
        Command::Dev(asked) => dev::run(&asked).await,
        Command::Demo(asked) => dev::demo::run(&asked).await,
        Command::DemoRevoke => dev::demo_revoke::run().await,
        Command::Migrate(asked) => commands::migrate::run(&asked.config).await,
        Command::Keyset(asked) => commands::keyset::run(asked).await,
        Command::Audit(asked) => commands::audit::run(asked).await,
        Command::Token(asked) => commands::token::run(asked).await,
        Command::Grant(asked) => commands::grant::run(asked).await,
        Command::Ratchet(asked) => commands::ratchet::run(asked).await,
        Command::Db(asked) => commands::db::run(asked).await,
        Command::Secret(asked) => commands::secret::run(&asked),
        Command::DevCa(asked) => commands::dev_ca::run(&asked),
        Command::Healthcheck(asked) => commands::healthcheck::run(&asked).await,
        Command::Probe(asked) => commands::probe::run(&asked).await,
        Command::Completions(asked) => commands::shell::completions(&asked),
        Command::Man(asked) => commands::shell::man(&asked),
    }
}
