//! Reads the audit trail, verifies its chain, and removes what is older than it has to be kept.
//! Needs the cluster secret, and no manager: a command may do the same with the database alone.

pub(crate) mod patrol;

use stek_core::audit::{
    AuditAction, AuditChain, AuditEvent, ChainLink, HandOver, Verifier, checkpoint_canonical,
};
use stek_core::name::KeysetName;
use stek_core::time::{Seconds, Timestamp};
use stek_custody::cluster_secret::{ClusterSecret, RowSealer};
use stek_store::{
    AuditCheckpoint, AuditRow, Change, Commit, CommitError, KeyStore, MAX_PAGE, StoreError,
};
use stek_wire::admin::{AuditDocument, AuditList, BrokenLink, VerdictDocument};

/// The most pages that one question looks at; whoever asks goes on from there.
const PAGES: usize = 50;

/// The most pages that are removed in one go.
const PRUNED_PAGES: usize = 100;

/// Which lines of the trail are wanted.
#[derive(Debug, Clone, Default)]
pub struct TrailQuery {
    /// Those after this one.
    pub after: u64,
    /// Those about this keyset.
    pub keyset: Option<KeysetName>,
    /// Those from this instant on.
    pub since: Option<Timestamp>,
}

/// What a chain is verified with: its links, and the seal of its checkpoint.
#[derive(Clone, Copy)]
pub(crate) struct Secrets<'a> {
    pub(crate) chain: &'a dyn AuditChain,
    pub(crate) sealer: &'a RowSealer,
}

/// One page of the trail, or as much of it as one question may look at.
pub(crate) async fn list(
    store: &dyn KeyStore,
    query: &TrailQuery,
) -> Result<AuditList, StoreError> {
    let mut list = AuditList { events: Vec::new(), unreadable: Vec::new(), next: None };
    let mut after = query.after;
    for _ in 0..PAGES {
        let page = Page::read(store, after).await?;
        let wanted = |row: &&AuditRow| {
            query.keyset.as_ref().is_none_or(|name| row.event.keyset.as_ref() == Some(name))
                && query.since.is_none_or(|since| row.event.at >= since)
        };
        let rows = page.rows.iter().filter(wanted);
        list.events.extend(
            rows.map(|row| AuditDocument::new(row.sequence, row.revision, &row.event, &row.link)),
        );
        list.unreadable.extend(page.unreadable.map(|(sequence, _)| sequence));
        let Some(last) = page.last else { return Ok(list) };
        after = last;
        if list.events.len() >= MAX_PAGE {
            break;
        }
    }
    list.next = Some(after);
    Ok(list)
}

/// Whether the chain holds from line `after` on, which was verified before, and where it has the
/// link `anchor`.
pub(crate) async fn verify(
    store: &dyn KeyStore,
    secrets: Secrets<'_>,
    after: u64,
    anchor: Option<ChainLink>,
) -> Result<VerdictDocument, StoreError> {
    let mut checkpoint = store.audit_checkpoint().await?;
    loop {
        let verdict = verify_from(store, secrets, after, anchor, checkpoint).await?;
        if verdict.broken.is_none() {
            return Ok(verdict);
        }
        match moved(store, checkpoint).await? {
            None => return Ok(verdict),
            further => checkpoint = further,
        }
    }
}

/// The checkpoint, if it is further than `checkpoint`: then lines were removed for their age while
/// they were looked at, and what is missing is no break. That ends with the trail.
async fn moved(
    store: &dyn KeyStore,
    checkpoint: Option<AuditCheckpoint>,
) -> Result<Option<AuditCheckpoint>, StoreError> {
    let from = checkpoint.map(|checkpoint| checkpoint.sequence);
    let now = store.audit_checkpoint().await?;
    Ok(now.filter(|now| Some(now.sequence) > from))
}

async fn verify_from(
    store: &dyn KeyStore,
    secrets: Secrets<'_>,
    after: u64,
    anchor: Option<ChainLink>,
    checkpoint: Option<AuditCheckpoint>,
) -> Result<VerdictDocument, StoreError> {
    let cluster = store.cluster().await?;
    let mut verdict = VerdictDocument {
        broken: None,
        first: 1,
        handed_over_at: None,
        verified_to: after,
        link: ChainLink::ORIGIN.to_string(),
        anchored_at: None,
        more: false,
    };
    let mut verifier = match begin(store, secrets, after, checkpoint).await? {
        Ok(verifier) => verifier,
        Err(broken) => return Ok(VerdictDocument { broken: Some(broken), ..verdict }),
    };
    verdict.first = checkpoint.map_or(1, |checkpoint| checkpoint.sequence + 1);
    verdict.handed_over_at = verifier.unverified_to();
    if anchor == Some(verifier.link()) {
        verdict.anchored_at = Some(verifier.sequence());
    }
    verdict.more = true;
    for _ in 0..PAGES {
        let page = Page::read(store, verifier.sequence()).await?;
        verdict.broken = walk(&mut verifier, &page, anchor, &mut verdict.anchored_at);
        if verdict.broken.is_some() || page.last.is_none() {
            verdict.more = false;
            break;
        }
    }
    if verdict.broken.is_none() && !verdict.more {
        verdict.broken = check_end(&verifier, cluster.audit_sequence, cluster.audit_head);
    }
    verdict.verified_to = verifier.sequence();
    verdict.link = verifier.link().to_string();
    Ok(verdict)
}

/// The same with the database and the cluster secret alone; to the end.
///
/// # Errors
/// The database.
pub async fn verify_offline(
    store: &dyn KeyStore,
    cluster: &ClusterSecret,
    anchor: Option<ChainLink>,
) -> Result<VerdictDocument, StoreError> {
    let (chain, sealer) = (cluster.audit_key(), cluster.row_sealer());
    let secrets = Secrets { chain: &chain, sealer: &sealer };
    let (mut anchored_at, mut handed_over_at) = (None, None);
    let mut after = 0;
    loop {
        let mut verdict = verify(store, secrets, after, anchor).await?;
        anchored_at = anchored_at.or(verdict.anchored_at);
        handed_over_at = handed_over_at.or(verdict.handed_over_at);
        if verdict.broken.is_some() || !verdict.more {
            (verdict.anchored_at, verdict.handed_over_at) = (anchored_at, handed_over_at);
            return Ok(verdict);
        }
        after = verdict.verified_to;
    }
}

/// A page of the trail with the database alone.
///
/// # Errors
/// The database.
pub async fn list_offline(
    store: &dyn KeyStore,
    query: &TrailQuery,
) -> Result<AuditList, StoreError> {
    list(store, query).await
}

/// Removes lines from before `now - retention` as far as the chain holds, and keeps a sealed
/// checkpoint in their place. Returns how many went.
///
/// # Errors
/// The database; [`PruneError::Broken`] if the chain does not hold there.
pub(crate) async fn prune(
    store: &dyn KeyStore,
    secrets: Secrets<'_>,
    now: Timestamp,
    retention: Seconds,
) -> Result<u64, PruneError> {
    let before = now - retention;
    let mut removed = 0;
    for _ in 0..PRUNED_PAGES {
        let checkpoint = store.audit_checkpoint().await?;
        let start = checkpoint.map_or(0, |checkpoint| checkpoint.sequence);
        let mut verifier = begin(store, secrets, start, checkpoint).await??;
        let sequence = verifier.sequence();
        let mut page = Page::read(store, sequence).await?;
        let old = page.rows.iter().take_while(|row| row.event.at < before).count();
        let all_old = old == page.rows.len();
        page.rows.truncate(old);
        page.unreadable = page.unreadable.filter(|_| all_old);
        if let Some(broken) = walk(&mut verifier, &page, None, &mut None) {
            if moved(store, checkpoint).await?.is_some() {
                continue;
            }
            return Err(broken.into());
        }
        let (last, link) = (verifier.sequence(), verifier.link());
        if last == sequence {
            break;
        }
        let seal = secrets.sealer.seal(&checkpoint_canonical(last, &link));
        let change = Change::PruneAudit(AuditCheckpoint { sequence: last, link, seal });
        let event = AuditEvent {
            at: now,
            actor: "manager".into(),
            action: AuditAction::TrailPruned,
            keyset: None,
            key: None,
            reason: format!("lines {} to {last}, from before {before}", sequence + 1),
        };
        let commit = Commit { at: now, changes: vec![change], events: vec![event] };
        match store.commit(&commit, secrets.chain).await {
            // Another manager was faster; it may have more of it.
            Err(CommitError::Pruned(_)) => continue,
            committed => committed?,
        };
        removed += last - sequence;
        if !all_old {
            break;
        }
    }
    Ok(removed)
}

/// Why lines were not removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PruneError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("the audit trail is broken at line {sequence}: {why}")]
    Broken { sequence: u64, why: String },
}

impl From<BrokenLink> for PruneError {
    fn from(broken: BrokenLink) -> Self {
        Self::Broken { sequence: broken.sequence, why: broken.why }
    }
}

/// What verifies the lines after line `after`.
async fn begin<'a>(
    store: &dyn KeyStore,
    secrets: Secrets<'a>,
    after: u64,
    checkpoint: Option<AuditCheckpoint>,
) -> Result<Result<Verifier<'a>, BrokenLink>, StoreError> {
    let start = match start(store, secrets, after, checkpoint).await? {
        Ok(start) => start,
        Err(broken) => return Ok(Err(broken)),
    };
    let hand_over = unheld(store, secrets, start.0).await?;
    let verifier =
        |hand_over| Verifier::after(secrets.chain, start.0, start.1).handed_over(hand_over);
    Ok(hand_over.map(verifier))
}

/// The last hand-over after line `after` from a key that is not held.
async fn unheld(
    store: &dyn KeyStore,
    secrets: Secrets<'_>,
    after: u64,
) -> Result<Result<Option<HandOver>, BrokenLink>, StoreError> {
    let mut last = None;
    for row in store.audit_hand_overs().await? {
        let sequence = row.hand_over.sequence;
        if !secrets.sealer.verify(&row.hand_over.canonical(), &row.seal) {
            let why = "the hand-over after this line is forged".to_owned();
            return Ok(Err(BrokenLink { sequence, why }));
        }
        if sequence > after && !row.hand_over.is_held(secrets.chain) {
            last = Some(row.hand_over);
        }
    }
    Ok(Ok(last))
}

/// Line `after` and its link, from which the rest is verified.
async fn start(
    store: &dyn KeyStore,
    secrets: Secrets<'_>,
    after: u64,
    checkpoint: Option<AuditCheckpoint>,
) -> Result<Result<(u64, ChainLink), BrokenLink>, StoreError> {
    if let Some(AuditCheckpoint { sequence, link, seal }) = checkpoint {
        if !secrets.sealer.verify(&checkpoint_canonical(sequence, &link), &seal) {
            let why = "the checkpoint after this line is forged".to_owned();
            return Ok(Err(BrokenLink { sequence, why }));
        }
        if after <= sequence {
            return Ok(Ok((sequence, link)));
        }
    }
    let Some(before) = after.checked_sub(1) else { return Ok(Ok((0, ChainLink::ORIGIN))) };
    Ok(match store.audit(before, 1).await {
        Ok(rows) => match rows.first().filter(|row| row.sequence == after) {
            Some(row) => Ok((after, row.link)),
            None => Err(missing(after)),
        },
        Err(StoreError::Corrupt { what, .. }) => Err(BrokenLink { sequence: after, why: what }),
        Err(error) => return Err(error),
    })
}

fn missing(sequence: u64) -> BrokenLink {
    BrokenLink { sequence, why: format!("line {sequence} is missing") }
}

/// Verifies a page; the first place at which it does not hold.
fn walk(
    verifier: &mut Verifier<'_>,
    page: &Page,
    anchor: Option<ChainLink>,
    anchored_at: &mut Option<u64>,
) -> Option<BrokenLink> {
    for row in &page.rows {
        if let Err(error) = verifier.next(row.sequence, row.revision, &row.event, &row.link) {
            return Some(BrokenLink { sequence: error.sequence(), why: error.to_string() });
        }
        if anchor == Some(row.link) {
            *anchored_at = Some(row.sequence);
        }
    }
    let (sequence, why) = page.unreadable.clone()?;
    Some(BrokenLink { sequence, why: format!("line {sequence} cannot be read: {why}") })
}

/// Whether the chain ends where the cluster's row says.
fn check_end(verifier: &Verifier<'_>, sequence: u64, head: ChainLink) -> Option<BrokenLink> {
    let at = verifier.sequence();
    if at < sequence {
        return Some(missing(at + 1));
    }
    let differs = at == sequence && verifier.link() != head;
    differs.then(|| {
        let why = "the chain ends in another link than the cluster's row names".to_owned();
        BrokenLink { sequence, why }
    })
}

/// A page of the trail up to the first line that cannot be read.
struct Page {
    rows: Vec<AuditRow>,
    unreadable: Option<(u64, String)>,
    /// The last line of it; none at the end of the trail.
    last: Option<u64>,
}

impl Page {
    /// The page after line `after`. If some line of it cannot be read, it ends there.
    async fn read(store: &dyn KeyStore, after: u64) -> Result<Self, StoreError> {
        let mut limit = MAX_PAGE;
        loop {
            match store.audit(after, limit).await {
                Ok(rows) => {
                    let last = rows.last().map(|row| row.sequence);
                    return Ok(Self { rows, unreadable: None, last });
                }
                Err(StoreError::Corrupt { what, .. }) if limit == 1 => {
                    // There is a line, and the next in order is the one that it should be.
                    let sequence = after + 1;
                    let unreadable = Some((sequence, what));
                    return Ok(Self { rows: Vec::new(), unreadable, last: Some(sequence) });
                }
                // Fewer, until what cannot be read is not among them.
                Err(StoreError::Corrupt { .. }) => limit /= 2,
                Err(error) => return Err(error),
            }
        }
    }
}
