//! The change of seeds in two phases, and the giving up of a lost one. Phase 1: a seed is offered,
//! every manager fetches it and says so. Phase 2: it is live, keys are re-wrapped, the old one ends
//! and is erased everywhere.

use stek_core::audit::AuditAction;
use stek_core::time::Seconds;
use stek_core::wrapped::SeedId;
use stek_custody::custody::{Custody, SeedMismatch};
use stek_custody::ratchet::new_seed_id;
use stek_custody::state_file::StateFileError;
use stek_store::{Ratchet, Replica, SeedChange, SeedPhase, SeedRow};

use super::{ALIVE, Outcome, PeerError, RatchetError, State, WATCH, event, fetch, is_lost};
use crate::engine::{Engine, PassTime};

/// How long a seed that no peer gave is not asked for again.
const ASK_AGAIN: Seconds = Seconds::new(10);

/// After how many times the patience an offer whose state is not held is taken back: by then
/// whoever holds it would have made it live.
const WITHDRAW_AFTER: u64 = 3;

/// Erases states of seeds that have ended.
pub(crate) fn drop_ended(custody: &Custody, rows: &Ratchet) -> Result<(), StateFileError> {
    let is_known = |seed: SeedId| rows.seeds.iter().any(|known| known.row.seed == seed);
    if let Some(next) = custody.next_seed() {
        if !is_known(next) {
            custody.drop_next(next)?;
            tracing::info!(seed = %next, "the state of a seed that came to nothing is erased");
        } else if !is_known(custody.seed_id()) || custody.seed_id() == next {
            // One that has taken the main one's place and is still there was not erased.
            let old = custody.seed_id();
            custody.promote_next()?;
            tracing::info!(seed = %old, live = %next, "the state of a seed that ended is erased");
        }
    }
    Ok(())
}

/// Notes which cluster secret each seed that is held was claimed with: until then nothing is
/// unwrapped under it.
pub(super) fn verify_held(engine: &Engine, rows: &Ratchet) -> Result<(), SeedMismatch> {
    for seed in rows.seeds.iter().filter(|seed| engine.custody.holds(seed.row.seed)) {
        match engine.custody.verify_seed(seed.row.seed, &seed.row.check) {
            Err(error) if seed.phase != SeedPhase::Live => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "nothing can be unwrapped under a seed that others hold");
            }
            verified => verified?,
        }
    }
    Ok(())
}

/// Fetches what is not held: the live seed first.
pub(super) async fn hold_all(
    engine: &Engine,
    state: &mut State,
    rows: &Ratchet,
    time: PassTime,
) -> Result<Outcome, RatchetError> {
    let mut wanted: Vec<_> =
        rows.seeds.iter().filter(|seed| !engine.custody.holds(seed.row.seed)).collect();
    wanted.sort_by_key(|seed| seed.phase != SeedPhase::Live);
    for seed in wanted {
        let row = &seed.row;
        if engine.cluster.claimed_with(&row.seed, &row.check).is_none() {
            return Err(SeedMismatch::OtherClusterSecret { named: row.seed }.into());
        }
        let is_live = seed.phase == SeedPhase::Live;
        let rests = state.asked_for.is_some_and(|(asked, at)| {
            asked == row.seed && time.now < at + ASK_AGAIN && at <= time.now
        });
        let outcome =
            if rests { Err(PeerError::None) } else { ask(engine, state, row, time).await };
        match outcome {
            Ok(taken) => engine.custody.hold_next(taken, &row.check)?,
            Err(_) if is_live && lost(engine, state, rows, row, time).await? => {
                return replace(engine, row, time).await;
            }
            Err(source) if is_live => {
                return Err(RatchetError::NotHeld { seed: row.seed, source });
            }
            Err(PeerError::None) => {}
            Err(source) => return Err(RatchetError::NotHeld { seed: row.seed, source }),
        }
    }
    Ok(Outcome::Same)
}

async fn ask(
    engine: &Engine,
    state: &mut State,
    row: &SeedRow,
    time: PassTime,
) -> Result<stek_custody::ratchet::RatchetState, PeerError> {
    state.asked_for = Some((row.seed, time.now));
    let wanted = (engine.custody.replica(), row.seed);
    let (peers, random) = (engine.rules.peers.as_ref(), engine.random.as_ref());
    fetch(peers, &engine.cluster, random, wanted, time.now).await
}

/// Whether that has been so in each pass for [`WATCH`].
async fn lost(
    engine: &Engine,
    state: &mut State,
    rows: &Ratchet,
    row: &SeedRow,
    time: PassTime,
) -> Result<bool, RatchetError> {
    if !is_lost(engine.store.as_ref(), rows, row.seed, row.claimed_at, time.now).await? {
        state.lost = None;
        return Ok(false);
    }
    let boot = engine.clock().boot();
    let before = state.lost.filter(|(seed, _, last)| *seed == row.seed && boot < *last + WATCH / 2);
    let since = before.map_or(boot, |(_, since, _)| since);
    state.lost = Some((row.seed, since, boot));
    Ok(boot >= since + WATCH)
}

/// A new seed in place of one that nobody holds any more. Its keys are ended by the sweep.
async fn replace(engine: &Engine, lost: &SeedRow, time: PassTime) -> Result<Outcome, RatchetError> {
    if let Some(next) = engine.custody.next_seed() {
        engine.custody.drop_next(next)?;
    }
    let seed = new_seed_id(engine.random.as_ref())?;
    engine.custody.begin_next(seed, engine.random.as_ref())?;
    let by = SeedRow { seed, check: engine.cluster.check_value(&seed), claimed_at: time.now };
    let reason = format!("no manager that holds {} has shown life; {seed} is new", lost.seed);
    tracing::error!(lost = %lost.seed, %seed, "the ratchet is lost: new seed, new keys, and every \
                    session needs a full handshake");
    let change = SeedChange::Replace { lost: lost.seed, by };
    let events = [event(time, AuditAction::SeedLost, reason)];
    if engine.store.change_seeds(&change, &events, &engine.audit).await? {
        engine.custody.promote_next()?;
    } else {
        engine.custody.drop_next(seed)?;
    }
    Ok(Outcome::Replaced)
}

/// Offers a new seed; `false` if one is on its way already. The state is in the file before
/// anybody can hear of it. Whoever calls this holds [`Engine::seeds`].
pub(crate) async fn offer(
    engine: &Engine,
    time: PassTime,
    actor: &str,
    why: &str,
) -> Result<bool, RatchetError> {
    if engine.custody.next_seed().is_some() {
        return Ok(false);
    }
    let seed = new_seed_id(engine.random.as_ref())?;
    engine.custody.begin_next(seed, engine.random.as_ref())?;
    let row = SeedRow { seed, check: engine.cluster.check_value(&seed), claimed_at: time.now };
    let offered = format!("seed {seed}: {why}");
    let mut event = event(time, AuditAction::SeedOffered, offered);
    event.actor = actor.to_owned();
    let done = engine.store.change_seeds(&SeedChange::Offer(row), &[event], &engine.audit).await?;
    if done {
        tracing::info!(%seed, why, "a new seed is offered");
    } else {
        engine.custody.drop_next(seed)?;
    }
    Ok(done)
}

/// Takes the one step that is due between an offer and the end of the old seed.
pub(super) async fn step(
    engine: &Engine,
    rows: &Ratchet,
    time: PassTime,
) -> Result<(), RatchetError> {
    let Some(live) = rows.in_phase(SeedPhase::Live) else { return Ok(()) };
    if let Some(offered) = rows.in_phase(SeedPhase::Offered) {
        return answer_offer(engine, rows, live, offered, time).await;
    }
    if rows.in_phase(SeedPhase::Retiring).is_some() {
        return Ok(());
    }
    if live.claimed_at + engine.rules.reseed_after <= time.now {
        let why = format!("the live one is older than {}", engine.rules.reseed_after);
        offer(engine, time, "manager", &why).await?;
    } else if !is_current(engine, live) {
        offer(engine, time, "manager", "the live one is of the previous cluster secret").await?;
    }
    Ok(())
}

/// Whether a seed was claimed with the cluster secret that is to be used from now on.
fn is_current(engine: &Engine, row: &SeedRow) -> bool {
    use stek_custody::cluster_secret::Generation;
    engine.cluster.claimed_with(&row.seed, &row.check) == Some(Generation::Current)
}

async fn answer_offer(
    engine: &Engine,
    rows: &Ratchet,
    live: &SeedRow,
    offered: &SeedRow,
    time: PassTime,
) -> Result<(), RatchetError> {
    let patience = engine.rules.offer_patience;
    if !engine.custody.holds(offered.seed) {
        let limit = Seconds::new(patience.as_secs().saturating_mul(WITHDRAW_AFTER));
        if offered.claimed_at + limit <= time.now {
            let reason = format!("seed {}: nobody who holds it shows life", offered.seed);
            let events = [event(time, AuditAction::SeedWithdrawn, reason)];
            let change = SeedChange::Withdraw(offered.seed);
            engine.store.change_seeds(&change, &events, &engine.audit).await?;
        }
        return Ok(());
    }
    engine.custody.verify_seed(offered.seed, &offered.check)?;
    let missing: Vec<&Replica> =
        rows.replicas.iter().filter(|replica| !replica.holds(offered.seed)).collect();
    if !missing.is_empty() && time.now < offered.claimed_at + patience {
        return Ok(());
    }
    // A manager without the new cluster secret could open nothing afterwards: it is waited for
    // while it lives.
    let changes_secret = is_current(engine, offered) != is_current(engine, live);
    let alive = missing.iter().filter(|replica| time.now < replica.seen_at + ALIVE);
    if changes_secret && let Some(waited_for) = alive.min_by_key(|replica| replica.id) {
        let replica = waited_for.id;
        tracing::warn!(%replica, "a running manager has not the new cluster secret; waiting for it");
        return Ok(());
    }
    let reason = format!("seed {} in place of {}", offered.seed, live.seed);
    let mut events = vec![event(time, AuditAction::SeedPromoted, reason)];
    for replica in &missing {
        let reason = format!(
            "replica {} last held seed {} at epoch {} and has not fetched {}: it must join again",
            replica.id,
            replica.seed,
            replica.epoch.as_u64(),
            offered.seed
        );
        tracing::warn!(replica = %replica.id, seed = %replica.seed, "destruction not proven");
        events.push(event(time, AuditAction::DestructionUnproven, reason));
    }
    let change = SeedChange::Promote { offered: offered.seed, live: live.seed };
    if engine.store.change_seeds(&change, &events, &engine.audit).await? {
        engine.custody.wrap_under(offered.seed);
        engine.changed.notify_one();
        tracing::info!(seed = %offered.seed, before = %live.seed, "the offered seed is live");
    }
    Ok(())
}

/// Ends the retiring seed, under which nothing is wrapped any more.
pub(super) async fn end_retiring(
    engine: &Engine,
    rows: &Ratchet,
    time: PassTime,
) -> Result<(), RatchetError> {
    let Some(retiring) = rows.in_phase(SeedPhase::Retiring) else { return Ok(()) };
    let reason = format!("seed {}: its keys are re-wrapped", retiring.seed);
    let events = [event(time, AuditAction::SeedEnded, reason)];
    let change = SeedChange::End(retiring.seed);
    if engine.store.change_seeds(&change, &events, &engine.audit).await? {
        // The next pass reads that it has ended, and erases it.
        engine.changed.notify_one();
    }
    Ok(())
}
