//! The distribution API as a fleet loads it: many who ask and get nothing new, many who wait, and
//! one change that must reach all of them. Beside nginx with the same bytes as a file.
//!
//! Servers run pinned to one core and this program, which makes the load, to another.

pub(crate) mod bare;
mod fanout;
mod light;
mod machine;
mod nginx;
mod polls;
mod process;
mod site;
mod watch;

use anyhow::Result;

use crate::distribution::bare::Bare;
use crate::distribution::machine::Cores;
use crate::distribution::nginx::Nginx;
use crate::distribution::site::Site;
use crate::report::Report;

/// Measures everything into `report`.
pub(crate) fn measure(report: &mut Report) -> Result<()> {
    // Both of the crates' providers are linked here, so none is the default by itself.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cores = Cores::split()?;
    machine::raise_descriptor_limit(watch::CONNECTIONS)?;
    // On one core this makes one worker of tokio.
    cores.pin_this_thread()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let site = Site::start(&cores)?;
        let target = site.distribution()?;
        let answer = target.fetch(None).await?;
        let nginx = Nginx::start(&cores, &site, &answer.body)?;
        let bare = Bare::start(&cores, &site, &answer)?;
        polls::measure(report, &site, &nginx, &bare).await?;
        drop((nginx, bare));
        let watchers = watch::measure(report, &site).await?;
        fanout::measure(report, &site, watchers).await
    })
}
