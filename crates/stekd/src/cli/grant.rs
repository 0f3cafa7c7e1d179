//! `stekd grant …` as clap reads it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use stek_core::access::{Grant, KeysetSelector};
use stek_core::principal::PrincipalPattern;

use super::{Reach, RoleArg};

/// `stekd grant …`.
#[derive(Debug, Args)]
pub struct GrantArgs {
    /// How to reach the manager.
    #[command(flatten)]
    pub reach: Reach,
    /// What to do.
    #[command(subcommand)]
    pub command: GrantCommand,
}

/// What can be done with grants.
#[derive(Debug, Subcommand)]
pub enum GrantCommand {
    /// Let principals act in a role on a keyset.
    Add {
        /// What is granted to whom.
        #[command(flatten)]
        grant: GrantArg,
        /// Use the database and cluster secret of this manager configuration instead of asking a
        /// manager: for the first operator.
        #[arg(long, value_name = "FILE")]
        offline: Option<PathBuf>,
    },
    /// List the grants.
    List,
    /// Take a grant away. Answers that are waited for are judged anew at once.
    Remove {
        /// The grant as `list` shows it.
        #[command(flatten)]
        grant: GrantArg,
    },
}

/// One grant.
#[derive(Debug, Args)]
pub struct GrantArg {
    /// A principal such as `spiffe://example.org/edge/7`, `edge-7.example` or `token:NAME`; `*`
    /// stands for one whole segment of a URI's path or one whole label of a DNS name.
    #[arg(value_name = "PRINCIPAL", value_parser = PrincipalPattern::try_new)]
    pub principal: PrincipalPattern,
    /// The keyset, or '*' for all.
    #[arg(value_name = "KEYSET", value_parser = KeysetSelector::parse)]
    pub keysets: KeysetSelector,
    /// What they may do.
    #[arg(long, value_enum)]
    pub role: RoleArg,
}

impl From<GrantArg> for Grant {
    fn from(arg: GrantArg) -> Self {
        Self { principal: arg.principal, keysets: arg.keysets, role: arg.role.into() }
    }
}
