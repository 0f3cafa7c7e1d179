//! What a manager holds: the ratchet in its file and the cluster secret, and with them the making,
//! wrapping and unwrapping of ticket keys. When to do what is the manager's.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stek_core::derive::kcv;
use stek_core::health::{WeakKey, check_material};
use stek_core::id::{Incarnation, Kcv, Revision};
use stek_core::keyset::KeyRecord;
use stek_core::name::KeysetName;
use stek_core::secret::KeyMaterial;
use stek_core::wrapped::{Epoch, ReplicaId, SeedId, WRAP_NONCE_LEN, WrappedKey};

use crate::cluster_secret::{CHECK_LEN, ClusterSecret, Generation};
use crate::random::{DrawError, RandomSource, draw};
use crate::ratchet::{self, Kek, KekError, RatchetState};
use crate::secret::{SECRET_LEN, erasing_stack};
use crate::state_file::{Contents, HighWater, StateFile, StateFileError};
use crate::wrap::{Binding, destruction_epoch, open, seal};

/// How many minted keys are remembered: a source that begins anew is seen at once, one that runs in
/// a longer circle by the database, which takes no key of a keyset twice.
const REMEMBERED: usize = 1024;

/// The custody of a ratchet, and of a second one beside it while seeds change. Shared by all tasks
/// of a manager; each call holds a lock, and those that write block until the disk has it.
#[derive(Debug)]
pub struct Custody {
    cluster: Arc<ClusterSecret>,
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    main: Held,
    next: Option<Held>,
    /// Whether new keys are wrapped under `next`.
    wraps_next: bool,
    /// What the random source gave lately, oldest first, to see that it does not repeat itself.
    minted: VecDeque<Kcv>,
    last_nonce: Option<[u8; WRAP_NONCE_LEN]>,
}

/// One ratchet with its file.
#[derive(Debug)]
struct Held {
    file: StateFile,
    contents: Contents,
    /// The cluster secret that its seed was claimed with, once that is known.
    generation: Option<Generation>,
}

impl Held {
    fn secret<'a>(&self, cluster: &'a ClusterSecret) -> Option<&'a [u8; SECRET_LEN]> {
        cluster.expose_one(self.generation?)
    }

    fn kek(&self, x: Epoch, cluster: &ClusterSecret) -> Result<Kek, KekError> {
        let secret = self.secret(cluster).ok_or(KekError::UnknownSecret)?;
        self.contents.state.kek_under(x, secret)
    }
}

impl Inner {
    fn all(&self) -> impl Iterator<Item = &Held> {
        std::iter::once(&self.main).chain(&self.next)
    }

    fn of(&self, seed: SeedId) -> Option<&Held> {
        self.all().find(|held| held.contents.state.seed_id() == seed)
    }

    fn wrapping(&self) -> &Held {
        self.next.as_ref().filter(|_| self.wraps_next).unwrap_or(&self.main)
    }
}

/// A ratchet could not be begun.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The random source gave nothing that can be used.
    #[error(transparent)]
    Draw(#[from] DrawError),
    /// The state file could not be made.
    #[error(transparent)]
    StateFile(#[from] StateFileError),
}

/// What is held is not what the database names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SeedMismatch {
    /// The state file is of another lineage of the ratchet.
    #[error("the state file is of seed {held}, the database names seed {named}")]
    OtherSeed {
        /// The seed of the state file.
        held: SeedId,
        /// The seed that the database names.
        named: SeedId,
    },
    /// The seed is the same, so it is the cluster secret that differs.
    #[error("the cluster secret is not the one that seed {named} was claimed with")]
    OtherClusterSecret {
        /// The seed that the database names.
        named: SeedId,
    },
}

/// No ticket key could be made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The random source gave nothing that can be used.
    #[error(transparent)]
    Draw(#[from] DrawError),
    /// The random source gave bytes that it had given before.
    #[error("the random source repeats itself")]
    Repeated,
}

/// A ticket key could not be wrapped.
#[derive(Debug, thiserror::Error)]
pub enum WrapError {
    /// There is no key-encryption key for the destruction epoch of the record.
    #[error(transparent)]
    Epoch(#[from] KekError),
    /// The material is not what the record says, so it could never be unwrapped.
    #[error("the key has check value {found}, its record says {expected}")]
    OtherKey {
        /// The check value of the material.
        found: Kcv,
        /// That of the record.
        expected: Kcv,
    },
    /// The random source gave nothing that can be used as nonce.
    #[error(transparent)]
    Draw(#[from] DrawError),
    /// The random source gave one nonce twice.
    #[error("the random source repeats itself")]
    Repeated,
}

/// A ticket key could not be unwrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnwrapError {
    /// It was wrapped under another seed.
    #[error("the key was wrapped under seed {named}, the state file is of seed {held}")]
    OtherSeed {
        /// The seed of the state file.
        held: SeedId,
        /// The seed of the wrapped key.
        named: SeedId,
    },
    /// There is no key-encryption key; after [`KekError::Passed`] the key is destroyed.
    #[error(transparent)]
    Epoch(#[from] KekError),
    /// The epoch beside the key is not the one of its `destroy_by`: one of the two was changed.
    #[error("the key is wrapped to epoch {}, its destroy_by says {}", named.as_u64(), expected.as_u64())]
    OtherEpoch {
        /// The epoch of the wrapped key.
        named: Epoch,
        /// The epoch that follows from the record.
        expected: Epoch,
    },
    /// The record, the ciphertext or the cluster secret is not the one it was wrapped with.
    #[error("the wrapped key and its record do not belong together")]
    Forged,
    /// It unwraps to a key that no working random source makes.
    #[error("the unwrapped key is refused")]
    Weak(#[source] WeakKey),
    /// It unwraps to another key than the record names.
    #[error("the unwrapped key has check value {found}, its record says {expected}")]
    OtherKey {
        /// The check value of the material.
        found: Kcv,
        /// That of the record.
        expected: Kcv,
    },
}

/// The ratchet could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum AdvanceError {
    /// It cannot go where it was told to.
    #[error(transparent)]
    Ratchet(#[from] ratchet::AdvanceError),
    /// The state file could not be written.
    #[error(transparent)]
    StateFile(#[from] StateFileError),
}

impl Custody {
    /// Begins the ratchet of `seed` at `epoch` in a new file at `path`.
    ///
    /// # Errors
    /// [`CreateError`] if the random source is broken or the file exists or cannot be made.
    pub fn create(
        path: &Path,
        cluster: Arc<ClusterSecret>,
        seed: SeedId,
        random: &dyn RandomSource,
        epoch: Epoch,
    ) -> Result<Self, CreateError> {
        let state = RatchetState::generate(seed, epoch, random)?;
        let replica = ratchet::new_replica_id(random).map_err(DrawError::Random)?;
        let this = Self::join(path, cluster, state, replica)?;
        // It will be claimed with the current one.
        this.lock().main.generation = Some(Generation::Current);
        Ok(this)
    }

    /// Takes on a ratchet that a peer began, as the copy `replica`, in a new file at `path`. With
    /// two cluster secrets nothing can be wrapped or unwrapped before [`Self::verify_seed`].
    ///
    /// # Errors
    /// [`StateFileError`] if the file exists or cannot be made.
    pub fn join(
        path: &Path,
        cluster: Arc<ClusterSecret>,
        state: RatchetState,
        replica: ReplicaId,
    ) -> Result<Self, StateFileError> {
        let contents = Contents { state, high_water: None, replica };
        let file = StateFile::create(path, &contents)?;
        Ok(Self::new(path, cluster, (file, contents), None))
    }

    /// Goes on with the ratchet in the file at `path`, and with the one beside it. With two cluster
    /// secrets nothing can be wrapped or unwrapped under either before [`Self::verify_seed`].
    ///
    /// # Errors
    /// [`StateFileError`] if the file is missing, in use, open to others or torn.
    pub fn open(path: &Path, cluster: Arc<ClusterSecret>) -> Result<Self, StateFileError> {
        let (file, contents) = StateFile::open(path)?;
        let next = beside::open(path, &contents)?;
        Ok(Self::new(path, cluster, (file, contents), next))
    }

    fn new(
        path: &Path,
        cluster: Arc<ClusterSecret>,
        main: (StateFile, Contents),
        next: Option<(StateFile, Contents)>,
    ) -> Self {
        let generation = cluster.sole();
        let held = |(file, contents)| Held { file, contents, generation };
        let (main, next) = (held(main), next.map(held));
        let (minted, last_nonce) = (VecDeque::new(), None);
        let inner = Mutex::new(Inner { main, next, wraps_next: false, minted, last_nonce });
        Self { cluster, path: path.to_owned(), inner }
    }

    /// The check value to claim this seed with; see [`ClusterSecret::check_value`].
    pub fn check_value(&self) -> [u8; CHECK_LEN] {
        self.cluster.check_value(&self.seed_id())
    }

    /// Whether state file and cluster secret are those that the database names. Notes which
    /// cluster secret the seed was claimed with; if it is none of ours, nothing is unwrapped under
    /// that seed, and nothing taken for forged.
    ///
    /// # Errors
    /// [`SeedMismatch`], which says which of the two is another.
    pub fn verify_seed(&self, named: SeedId, check: &[u8; CHECK_LEN]) -> Result<(), SeedMismatch> {
        let generation = self.cluster.claimed_with(&named, check);
        let mut inner = self.lock();
        let held = inner.main.contents.state.seed_id();
        let Inner { main, next, .. } = &mut *inner;
        let mut all = std::iter::once(main).chain(next);
        let Some(known) = all.find(|known| known.contents.state.seed_id() == named) else {
            return Err(SeedMismatch::OtherSeed { held, named });
        };
        known.generation = generation;
        generation.map(drop).ok_or(SeedMismatch::OtherClusterSecret { named })
    }

    /// Makes a ticket key.
    ///
    /// # Errors
    /// [`MintError`] if the random source fails, gives a pattern, or repeats itself.
    pub fn mint(&self, random: &dyn RandomSource) -> Result<KeyMaterial, MintError> {
        let material = draw(random)?;
        let minted = check_value_of(&material);
        let mut inner = self.lock();
        if inner.minted.contains(&minted) {
            return Err(MintError::Repeated);
        }
        if inner.minted.len() == REMEMBERED {
            inner.minted.pop_front();
        }
        inner.minted.push_back(minted);
        Ok(material)
    }

    /// Wraps `material` to the destruction epoch of `record`; see [`destruction_epoch`].
    ///
    /// # Errors
    /// [`WrapError`] if that epoch has passed or is absurd, if the material is not the record's, or
    /// if the random source is broken.
    pub fn wrap(
        &self,
        random: &dyn RandomSource,
        keyset: &KeysetName,
        record: &KeyRecord,
        material: &KeyMaterial,
    ) -> Result<WrappedKey, WrapError> {
        let (found, expected) = (check_value_of(material), record.kcv);
        if found != expected {
            return Err(WrapError::OtherKey { found, expected });
        }
        // Drawn as long as a key, so that the same health test looks at it.
        let drawn = draw(random)?;
        let mut nonce = [0; WRAP_NONCE_LEN];
        nonce.copy_from_slice(&drawn.expose_secret()[..WRAP_NONCE_LEN]);
        let mut inner = self.lock();
        if inner.last_nonce == Some(nonce) {
            return Err(WrapError::Repeated);
        }
        inner.last_nonce = Some(nonce);
        let held = inner.wrapping();
        let binding = Binding { keyset, record, seed: held.contents.state.seed_id() };
        let kek = held.kek(binding.epoch(), &self.cluster)?;
        Ok(seal(&kek, nonce, &binding, material))
    }

    /// Unwraps `wrapped`, which must be of `record` in `keyset`.
    ///
    /// # Errors
    /// [`UnwrapError`], by cause; nothing of the key is returned then.
    pub fn unwrap(
        &self,
        keyset: &KeysetName,
        record: &KeyRecord,
        wrapped: &WrappedKey,
    ) -> Result<KeyMaterial, UnwrapError> {
        let kek = {
            let inner = self.lock();
            let Some(held) = inner.of(wrapped.seed) else {
                let held = inner.main.contents.state.seed_id();
                return Err(UnwrapError::OtherSeed { held, named: wrapped.seed });
            };
            let expected = destruction_epoch(&record.schedule);
            if wrapped.epoch != expected {
                return Err(UnwrapError::OtherEpoch { named: wrapped.epoch, expected });
            }
            held.kek(expected, &self.cluster)?
        };
        let binding = Binding { keyset, record, seed: wrapped.seed };
        let material = open(&kek, &binding, wrapped).map_err(|_| UnwrapError::Forged)?;
        check_material(&material).map_err(UnwrapError::Weak)?;
        let (found, expected) = (check_value_of(&material), record.kcv);
        if found != expected {
            return Err(UnwrapError::OtherKey { found, expected });
        }
        Ok(material)
    }

    /// Moves the ratchet to `epoch`, in the file first: when this returns, nothing wrapped to an
    /// earlier epoch can be unwrapped with what is held here. Does nothing if it is there already.
    ///
    /// # Errors
    /// [`AdvanceError`]; the ratchet then counts as not moved and may be moved again.
    pub fn advance(&self, epoch: Epoch) -> Result<(), AdvanceError> {
        let mut inner = self.lock();
        let Inner { main, next, .. } = &mut *inner;
        // A peer that gave the second one may have been ahead; the main one must not be.
        let next = next.as_mut().filter(|next| next.contents.state.epoch() < epoch);
        for held in std::iter::once(main).chain(next) {
            let Contents { state, high_water, replica } = &held.contents;
            if state.epoch() == epoch {
                continue;
            }
            let mut state = state.duplicate();
            state.advance_to(epoch)?;
            let next = Contents { state, high_water: *high_water, replica: *replica };
            held.file.replace(&next)?;
            held.contents = next;
        }
        Ok(())
    }

    /// The epoch of the ratchet: what was wrapped to an earlier one is destroyed, as far as this
    /// manager goes.
    pub fn epoch(&self) -> Epoch {
        let inner = self.lock();
        let epochs = inner.all().map(|held| held.contents.state.epoch());
        epochs.min().unwrap_or(inner.main.contents.state.epoch())
    }

    /// The seed of the ratchet.
    pub fn seed_id(&self) -> SeedId {
        self.lock().main.contents.state.seed_id()
    }

    /// Which copy of the ratchet this is.
    pub fn replica(&self) -> ReplicaId {
        self.lock().main.contents.replica
    }

    /// The highest revision published that this manager knows of.
    pub fn high_water(&self) -> Option<HighWater> {
        self.lock().main.contents.high_water
    }

    /// Notes that `revision` of `incarnation` was published. It only rises, and only then is the
    /// file written, once.
    ///
    /// # Errors
    /// [`StateFileError`] if the file could not be written; the mark is then where it was.
    pub fn raise_high_water(
        &self,
        incarnation: Incarnation,
        revision: Revision,
    ) -> Result<(), StateFileError> {
        let mut inner = self.lock();
        let raised = Some(HighWater { incarnation, revision });
        let main = &mut inner.main;
        if raised <= main.contents.high_water {
            return Ok(());
        }
        let (state, replica) = (main.contents.state.duplicate(), main.contents.replica);
        let next = Contents { state, high_water: raised, replica };
        main.file.update(&next)?;
        main.contents = next;
        Ok(())
    }

    /// Whether a database at `revision` of `incarnation` is behind what was published: it was
    /// restored, and must not be served until an operator accepts that.
    pub fn is_behind(&self, incarnation: Incarnation, revision: Revision) -> bool {
        Some(HighWater { incarnation, revision }) < self.high_water()
    }

    /// Ends the custody: overwrites the states and removes the files.
    ///
    /// # Errors
    /// [`StateFileError`] if a state could not be overwritten or a file not removed.
    pub fn erase(self) -> Result<(), StateFileError> {
        let inner = self.inner.into_inner().unwrap_or_else(PoisonError::into_inner);
        inner.main.file.erase()?;
        inner.next.map_or(Ok(()), |next| next.file.erase())
    }

    /// A second state of the main ratchet.
    #[cfg(test)]
    pub(crate) fn duplicate(&self) -> RatchetState {
        self.lock().main.contents.state.duplicate()
    }

    /// Every change is made by one assignment after the file has it, so what another thread left
    /// when it panicked is sound.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_value_of(material: &KeyMaterial) -> Kcv {
    erasing_stack(|| kcv(material))
}

mod beside;
pub use beside::{HoldError, RewrapError, ShareError};

#[cfg(test)]
mod tests;
