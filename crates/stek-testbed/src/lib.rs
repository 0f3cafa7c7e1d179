//! A whole fleet in one process on a clock that the test moves: manager, distribution and two TLS
//! servers, talking to each other over TLS on loopback, on SQLite or a real PostgreSQL.

mod host;
mod openssl;
mod tier;

pub use host::HostClock;
pub use openssl::{Answer, OpenSsl};
pub use tier::{Tier, client};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use stek_clock::{Clock, ManualClock, SystemClock};
use stek_core::access::{Grant, KeysetSelector, Role, TokenSecret};
use stek_core::id::{Incarnation, Kcv};
use stek_core::keyset::Keyset;
use stek_core::name::{KeysetName, PrincipalName};
use stek_core::principal::PrincipalPattern;
use stek_core::time::{Seconds, Timestamp};
use stek_custody::cluster_secret::ClusterSecret;
use stek_custody::random::{RandomSource, SystemRandom};
use stek_manager::{EngineParts, NewToken, RatchetRules, claim_ratchet};
use stek_store::{KeyStore, PostgresOptions, PostgresStore, SqliteStore, WithClock};
use stek_wire::admin::PolicyDocument;
use stekd::dev::node::{KEYSET, Node, Ports};
use stekd::dev::site::Site;
use tokio_util::sync::CancellationToken;

/// How long anything that is awaited may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// How much time passes between two looks at what is awaited.
const LOOK: Duration = Duration::from_millis(20);

/// Which database the manager has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    /// A file in the fleet's directory.
    Sqlite,
    /// A database of its own on the test's PostgreSQL server.
    Postgres,
}

/// A running fleet.
pub struct Bed {
    /// Manager, distribution and servers.
    pub node: Node,
    /// Where its files are.
    pub site: Site,
    /// What time it is.
    pub clock: Arc<ManualClock>,
    /// The clocks of the manager's machine, which the node's servers share.
    pub manager_host: Arc<HostClock>,
    /// The clocks of the database's machine.
    pub database_host: Arc<HostClock>,
    database: Option<stek_testpg::TestDatabase>,
    _dir: tempfile::TempDir,
}

impl Bed {
    /// Starts a fleet whose keyset has this policy; both servers hold keys when it returns.
    ///
    /// # Errors
    /// Whatever part does not start.
    pub async fn start(database: Database, policy: PolicyDocument) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let site = Site::open_or_create(dir.path())?;
        // Tokens and certificates are dated by the machine's clock, so time begins there.
        let clock = Arc::new(ManualClock::at_unix_millis(SystemClock.wall_millis()));
        let database_host = HostClock::new(&clock);
        let lineage = Incarnation::new(clock.wall_millis(), &[7; 10]);
        let (store, database): (Arc<dyn KeyStore>, _) = match database {
            Database::Sqlite => {
                let path = dir.path().join("stekd.db");
                SqliteStore::migrate(&path, lineage).await?;
                (on_clock(SqliteStore::open(&path).await?, &database_host), None)
            }
            Database::Postgres => {
                let made = stek_testpg::create_database().await?;
                (postgres(made.url(), lineage, &database_host).await?, Some(made))
            }
        };
        Self::run(dir, site, (clock, database_host), store, database, policy).await
    }

    /// The same on the PostgreSQL database at `url`, which the test may take away and give back.
    ///
    /// # Errors
    /// Whatever part does not start.
    pub async fn start_on(url: &str, policy: PolicyDocument) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let site = Site::open_or_create(dir.path())?;
        let clock = Arc::new(ManualClock::at_unix_millis(SystemClock.wall_millis()));
        let database_host = HostClock::new(&clock);
        let lineage = Incarnation::new(clock.wall_millis(), &[7; 10]);
        let store = postgres(url, lineage, &database_host).await?;
        Self::run(dir, site, (clock, database_host), store, None, policy).await
    }

    async fn run(
        dir: tempfile::TempDir,
        site: Site,
        (clock, database_host): (Arc<ManualClock>, Arc<HostClock>),
        store: Arc<dyn KeyStore>,
        database: Option<stek_testpg::TestDatabase>,
        policy: PolicyDocument,
    ) -> Result<Self> {
        let custody = site.custody();
        let cluster = Arc::new(ClusterSecret::read(&custody.cluster_secret_file)?);
        let random = SystemRandom;
        let host = HostClock::new(&clock);
        let ratchet =
            claim_ratchet(store.as_ref(), &cluster, &custody.state_file, &random, &*host).await?;
        let parts = EngineParts {
            store,
            custody: Arc::new(ratchet),
            cluster,
            random: Arc::new(random),
            clock: Arc::clone(&host) as Arc<dyn Clock>,
            audit_retention: None,
            rules: RatchetRules::default(),
        };
        let node =
            Node::start(&site, parts, Ports::free(), policy, CancellationToken::new()).await?;
        Ok(Self { node, site, clock, manager_host: host, database_host, database, _dir: dir })
    }

    /// Fleet time.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_unix(self.clock.wall_millis() / 1000)
    }

    /// A file with a token of the principal `token:NAME` that has `role` on every keyset, for so
    /// long.
    ///
    /// # Errors
    /// If the manager does not take it.
    pub async fn token(
        &self,
        name: &str,
        role: Role,
        life: Seconds,
    ) -> Result<(PathBuf, TokenSecret)> {
        let mut bytes = [0; 32];
        SystemRandom.fill(&mut bytes).map_err(anyhow::Error::new)?;
        let secret = TokenSecret::take_from(&mut bytes);
        let principal = PrincipalName::try_new(&format!("token:{name}"))?;
        let granted = PrincipalPattern::exactly(&principal)?;
        let grant = Grant { principal: granted, keysets: KeysetSelector::All, role };
        let (hash, expires_at) = (secret.hash(), self.now() + life);
        let new = NewToken { principal, hash, expires_at, grants: vec![grant] };
        self.node.operations().add_token(new, "test").await?;
        let path = self.site.dir().join(format!("{name}-test-token"));
        std::fs::write(&path, secret.expose_text())?;
        Ok((path, secret))
    }

    /// The keyset as it is published.
    ///
    /// # Errors
    /// If it is not.
    pub fn keyset(&self) -> Result<Keyset> {
        let state = self.node.feed().borrow().clone().context("nothing is published")?;
        let bundle = state.keysets.get(&name()?).context("the keyset is not published")?;
        Ok(bundle.keyset().clone())
    }

    /// The check value of the key that seals now.
    ///
    /// # Errors
    /// If none does.
    pub fn active_key(&self) -> Result<Kcv> {
        let keyset = self.keyset()?;
        Ok(keyset.active(self.now()).context("no key is active")?.kcv)
    }

    /// Lets time pass until the next boundary and a second more, and returns when another key seals
    /// and both servers hold what is published.
    ///
    /// # Errors
    /// If that does not come about.
    pub async fn rotate_by_time(&self) -> Result<()> {
        let (before, now) = (self.active_key()?, self.now());
        let keyset = self.keyset()?;
        let boundary = keyset.active(now).context("no key is active")?.schedule.retire_at();
        self.clock.advance(boundary.since(now).to_std() + Duration::from_secs(1));
        self.until("another key seals", || Ok(self.active_key()? != before)).await?;
        self.until("the next key is pending", || {
            Ok(self.keyset()?.next_pending(self.now()).is_some())
        })
        .await?;
        self.servers_are_current().await
    }

    /// Returns when both servers hold what is published.
    ///
    /// # Errors
    /// If they do not get it.
    pub async fn servers_are_current(&self) -> Result<()> {
        self.until("both servers hold what is published", || {
            let state = self.node.feed().borrow().clone().context("nothing is published")?;
            let bundle = state.keysets.get(&name()?).context("the keyset is not published")?;
            let revision = Some(bundle.tag().revision);
            Ok(self.node.servers.iter().all(|server| server.terminator.installed() == revision))
        })
        .await
    }

    /// Waits until `condition` holds, while time goes on a little with each look, so that pauses
    /// between polls end.
    ///
    /// # Errors
    /// If it does not within two minutes, or fails.
    pub async fn until(
        &self,
        what: &str,
        mut condition: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let looking = async {
            // A look at the condition, not a guess at how long it takes.
            let mut looks = tokio::time::interval(Duration::from_millis(2));
            // After a halt of the machine time does not leap past those who were halted too.
            looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while !condition().unwrap_or(false) {
                looks.tick().await;
                self.clock.advance(LOOK);
            }
        };
        tokio::time::timeout(PATIENCE, looking).await.with_context(|| format!("waited for: {what}"))
    }

    /// Stops everything and drops the database.
    ///
    /// # Errors
    /// If the database cannot be dropped.
    pub async fn stop(self) -> Result<()> {
        self.node.stop().await;
        match self.database {
            Some(database) => database.drop_now().await,
            None => Ok(()),
        }
    }
}

fn name() -> Result<KeysetName> {
    Ok(KeysetName::try_new(KEYSET)?)
}

async fn postgres(
    url: &str,
    lineage: Incarnation,
    clock: &Arc<HostClock>,
) -> Result<Arc<dyn KeyStore>> {
    let options = PostgresOptions::new(url)?;
    PostgresStore::migrate(&options, lineage).await?;
    Ok(on_clock(PostgresStore::connect(&options).await?, clock))
}

fn on_clock<S: KeyStore>(store: S, clock: &Arc<HostClock>) -> Arc<dyn KeyStore> {
    let clock = Arc::clone(clock);
    Arc::new(WithClock::new(store, Arc::new(move || clock.wall_millis())))
}
