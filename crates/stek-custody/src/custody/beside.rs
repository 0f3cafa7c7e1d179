//! The second ratchet, beside the main one while seeds change: in a file of its own whose name ends
//! in `.next`. It is taken on, wrapped under, and in the end takes the main one's place, which
//! overwrites the old seed where it lies; or it is dropped.

use std::fs;
use std::path::{Path, PathBuf};

use stek_core::keyset::KeyRecord;
use stek_core::name::KeysetName;
use stek_core::wrapped::{Epoch, SeedId, WrappedKey};

use super::{Custody, Held, Inner, SeedMismatch, UnwrapError, WrapError};
use crate::cluster_secret::{CHECK_LEN, Generation};
use crate::random::{DrawError, RandomSource};
use crate::ratchet::RatchetState;
use crate::share::{self, JoinRequest, SealedState};
use crate::state_file::{Contents, StateFile, StateFileError};

/// A second ratchet could not be taken on.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// There is one of another seed, which has to be dropped first.
    #[error("a state of seed {0} is held beside the main one")]
    Another(SeedId),
    /// Its seed was claimed with another cluster secret.
    #[error(transparent)]
    Mismatch(#[from] SeedMismatch),
    /// The random source gave nothing that can be used.
    #[error(transparent)]
    Draw(#[from] DrawError),
    /// Its file could not be made.
    #[error(transparent)]
    StateFile(#[from] StateFileError),
}

/// The state that was asked for is not held here, or not under which cluster secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no state of seed {0} is held here")]
pub struct ShareError(pub SeedId);

/// A wrapping could not be exchanged.
#[derive(Debug, thiserror::Error)]
pub enum RewrapError {
    /// The old one does not open.
    #[error(transparent)]
    Unwrap(#[from] UnwrapError),
    /// There is no new one.
    #[error(transparent)]
    Wrap(#[from] WrapError),
}

impl Custody {
    /// Begins the ratchet of `seed` beside the main one, at its epoch. Does nothing if it is there.
    ///
    /// # Errors
    /// [`HoldError`].
    pub fn begin_next(&self, seed: SeedId, random: &dyn RandomSource) -> Result<(), HoldError> {
        self.hold(RatchetState::generate(seed, self.epoch(), random)?, Generation::Current)
    }

    /// Takes on a ratchet that a peer began, beside the main one, whose seed was claimed with
    /// `check`. Does nothing if it is held.
    ///
    /// # Errors
    /// [`HoldError`].
    pub fn hold_next(&self, state: RatchetState, check: &[u8; CHECK_LEN]) -> Result<(), HoldError> {
        let named = state.seed_id();
        let generation = self.cluster.claimed_with(&named, check);
        self.hold(state, generation.ok_or(SeedMismatch::OtherClusterSecret { named })?)
    }

    fn hold(&self, state: RatchetState, generation: Generation) -> Result<(), HoldError> {
        let mut inner = self.lock();
        if inner.of(state.seed_id()).is_some() {
            return Ok(());
        }
        if let Some(next) = &inner.next {
            return Err(HoldError::Another(next.contents.state.seed_id()));
        }
        let contents = Contents { state, high_water: None, replica: inner.main.contents.replica };
        let file = StateFile::create(&path_of(&self.path), &contents)?;
        inner.next = Some(Held { file, contents, generation: Some(generation) });
        Ok(())
    }

    /// The seed of the second ratchet.
    pub fn next_seed(&self) -> Option<SeedId> {
        self.lock().next.as_ref().map(|next| next.contents.state.seed_id())
    }

    /// Whether a state of `seed` is held.
    pub fn holds(&self, seed: SeedId) -> bool {
        self.lock().of(seed).is_some()
    }

    /// Wraps under `seed` from now on, if it is held.
    pub fn wrap_under(&self, seed: SeedId) {
        let mut inner = self.lock();
        let next = inner.next.as_ref().map(|next| next.contents.state.seed_id());
        inner.wraps_next = next == Some(seed);
    }

    /// Exchanges the wrapping of a key for one under the seed that is wrapped under now.
    ///
    /// # Errors
    /// [`RewrapError`].
    pub fn rewrap(
        &self,
        random: &dyn RandomSource,
        keyset: &KeysetName,
        record: &KeyRecord,
        wrapped: &WrappedKey,
    ) -> Result<WrappedKey, RewrapError> {
        let material = self.unwrap(keyset, record, wrapped)?;
        Ok(self.wrap(random, keyset, record, &material)?)
    }

    /// The second ratchet takes the place of the main one, which is overwritten in its file: when
    /// this returns, nothing wrapped under the old seed can be unwrapped with what is held here.
    /// Does nothing without a second one.
    ///
    /// # Errors
    /// [`StateFileError`]; then it may be called again, or the file opened again. Until that
    /// succeeds both may be of one seed.
    pub fn promote_next(&self) -> Result<(), StateFileError> {
        let mut inner = self.lock();
        let main = inner.main.contents.state.seed_id();
        let Some(next) = &inner.next else { return Ok(()) };
        if next.contents.state.seed_id() == main {
            return inner.erase_next();
        }
        let (state, generation) = (next.contents.state.duplicate(), next.generation);
        let (high_water, replica) = (inner.main.contents.high_water, inner.main.contents.replica);
        let contents = Contents { state, high_water, replica };
        inner.main.file.replace(&contents)?;
        inner.main.contents = contents;
        inner.main.generation = generation;
        inner.erase_next()
    }

    /// Erases the second ratchet if it is of `seed`. Does nothing otherwise.
    ///
    /// # Errors
    /// [`StateFileError`] if it could not be overwritten or its file not removed; it is held then
    /// and may be dropped again.
    pub fn drop_next(&self, seed: SeedId) -> Result<(), StateFileError> {
        let mut inner = self.lock();
        if inner.next.as_ref().is_none_or(|next| next.contents.state.seed_id() != seed) {
            return Ok(());
        }
        inner.erase_next()
    }

    /// The state of the seed that is asked for, sealed for the request. Whoever calls this has
    /// made sure who asks, and writes it into the audit trail.
    ///
    /// # Errors
    /// [`ShareError`] if it is not held, or not verified; see [`Self::verify_seed`].
    pub fn share(&self, request: &JoinRequest) -> Result<SealedState, ShareError> {
        let inner = self.lock();
        let held = inner.of(request.seed).ok_or(ShareError(request.seed))?;
        let secret = held.secret(&self.cluster).ok_or(ShareError(request.seed))?;
        Ok(share::seal(&held.contents.state, request, secret))
    }

    /// The lowest epoch of any state held, with its seed: what can still be unwrapped.
    pub fn reach(&self) -> Vec<(SeedId, Epoch)> {
        let inner = self.lock();
        inner.all().map(|held| &held.contents.state).map(|s| (s.seed_id(), s.epoch())).collect()
    }
}

impl Inner {
    /// The state is held until its file is erased, so that what failed is tried again.
    fn erase_next(&mut self) -> Result<(), StateFileError> {
        self.wraps_next = false;
        if let Some(next) = &self.next {
            next.file.erase()?;
        }
        self.next = None;
        Ok(())
    }
}

fn path_of(main: &Path) -> PathBuf {
    let mut path = main.as_os_str().to_owned();
    path.push(".next");
    path.into()
}

/// The second ratchet, as a process that ended before left it.
pub(super) fn open(
    main: &Path,
    held: &Contents,
) -> Result<Option<(StateFile, Contents)>, StateFileError> {
    let path = path_of(main);
    match StateFile::open(&path) {
        // It has taken the main one's place already.
        Ok((file, contents)) if contents.state.seed_id() == held.state.seed_id() => {
            file.erase()?;
            Ok(None)
        }
        Ok(next) => Ok(Some(next)),
        Err(StateFileError::Missing { .. }) => Ok(None),
        // It was being made, or being erased; nobody counted on it.
        Err(StateFileError::Torn { .. }) => {
            fs::remove_file(&path).map_err(|source| StateFileError::Io {
                path,
                operation: "remove",
                source,
            })?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
