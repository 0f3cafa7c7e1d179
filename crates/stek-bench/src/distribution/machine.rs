//! What the machine gives: cores, file descriptors, and what a process has used of it.

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Descriptors that a process needs beside its connections.
const SPARE_DESCRIPTORS: u64 = 256;

/// A generator that was busier than this was what was measured.
pub(crate) const BUSY_LIMIT: f64 = 0.9;
/// As a report says it.
pub(crate) const TOO_BUSY: &str = "the generator was over 90 % busy";

/// One core for whoever serves, another for whoever loads.
pub(crate) struct Cores {
    pub(crate) server: usize,
    generator: usize,
}

impl Cores {
    /// The first two that this process may use.
    pub(crate) fn split() -> Result<Self> {
        let allowed = sched_getaffinity(None).context("which cores may be used")?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        match (cores.next(), cores.next()) {
            (Some(server), Some(generator)) => Ok(Self { server, generator }),
            _ => anyhow::bail!("one core may be used, needed are two: for server and generator"),
        }
    }

    /// Keeps this thread, and those it starts, on the generator's core.
    pub(crate) fn pin_this_thread(&self) -> Result<()> {
        let mut one = CpuSet::new();
        one.set(self.generator);
        sched_setaffinity(None, &one).context("pinning the generator")
    }
}

/// Lets this process, and those it starts, open `connections` sockets.
pub(crate) fn raise_descriptor_limit(connections: usize) -> Result<()> {
    let need = u64::try_from(connections)? + SPARE_DESCRIPTORS;
    let mut limit = getrlimit(Resource::Nofile);
    ensure!(
        limit.maximum.is_none_or(|most| most >= need),
        "the hard limit of open files is {:?}, needed are {need}: raise it with ulimit -Hn",
        limit.maximum,
    );
    limit.current = limit.maximum.or(Some(need));
    setrlimit(Resource::Nofile, limit).context("raising the limit of open files")
}

/// Processor time of a process so far, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is a name in parentheses that may hold anything.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || fields.next().and_then(|field| field.parse::<u32>().ok());
    let (user, system) = ticks().zip(ticks()).context("/proc/PID/stat has another form")?;
    let per_second = u32::try_from(rustix::param::clock_ticks_per_second())?;
    Ok(f64::from(user + system) / f64::from(per_second))
}

/// Resident memory of a process, in KiB.
pub(crate) fn resident_kib(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).context("no VmRSS")?;
    Ok(kib.parse::<u32>()?.into())
}
