//! The one-way ratchet: a secret that is replaced by a hash of itself each epoch, and the
//! key-encryption keys that it gives for this epoch and later ones. Pure; where the state is kept
//! is decided in [`crate::state_file`].

use std::fmt;

use stek_core::health::WeakKey;
use stek_core::wrapped::{Epoch, ReplicaId, SeedId};
use zeroize::Zeroize;

use crate::cluster_secret::ClusterSecret;
use crate::random::{DrawError, RandomError, RandomSource, draw};
use crate::secret::{SECRET_LEN, Secret, erasing_stack, expand, mac};

/// The most epochs that one advance may pass: ten years of hours. A clock that asks for more is
/// wrong.
pub const MAX_ADVANCE: u64 = 10 * 8766;

/// The most epochs that a key-encryption key may lie ahead: 366 days of hours. The longest-lived
/// ticket key is destroyed within a few weeks of its mint; a row that asks for more was tampered
/// with, and must not cost a long walk.
pub const MAX_AHEAD: u64 = 366 * 24;

/// *R* = {seed_id, epoch e, S_e}. Whoever holds it can derive every later state and no earlier one.
pub struct RatchetState {
    seed: SeedId,
    epoch: Epoch,
    secret: Secret,
}

/// The ratchet was asked to go where it cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdvanceError {
    /// Back: an earlier state cannot be computed.
    #[error("the ratchet is at epoch {} and cannot go back to {}", at.as_u64(), to.as_u64())]
    Back {
        /// Where it is.
        at: Epoch,
        /// Where it should go.
        to: Epoch,
    },
    /// Further than [`MAX_ADVANCE`] at once.
    #[error(
        "epoch {} is more than {MAX_ADVANCE} epochs after {}, where the ratchet is",
        to.as_u64(),
        at.as_u64()
    )]
    TooFar {
        /// Where it is.
        at: Epoch,
        /// Where it should go.
        to: Epoch,
    },
}

/// There is no key-encryption key for an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KekError {
    /// The ratchet has passed it. What was wrapped to it is destroyed.
    #[error("epoch {} has passed, the ratchet is at {}", asked.as_u64(), at.as_u64())]
    Passed {
        /// The epoch in question.
        asked: Epoch,
        /// Where the ratchet is.
        at: Epoch,
    },
    /// It lies more than [`MAX_AHEAD`] epochs ahead.
    #[error(
        "epoch {} is more than {MAX_AHEAD} epochs after {}, where the ratchet is",
        asked.as_u64(),
        at.as_u64()
    )]
    TooFar {
        /// The epoch in question.
        asked: Epoch,
        /// Where the ratchet is.
        at: Epoch,
    },
    /// It is not known with which cluster secret the seed was claimed, or it is none of ours.
    #[error("the cluster secret that the seed was claimed with is not known here")]
    UnknownSecret,
}

impl RatchetState {
    /// Begins a ratchet at `epoch` with random bytes.
    ///
    /// # Errors
    /// [`DrawError`] if the random source fails or is broken.
    pub fn generate(
        seed: SeedId,
        epoch: Epoch,
        random: &dyn RandomSource,
    ) -> Result<Self, DrawError> {
        let material = draw(random)?;
        let secret = Secret::written_by(|bytes| bytes.copy_from_slice(material.expose_secret()));
        Ok(Self { seed, epoch, secret })
    }

    /// The state whose S_e was handed over or stored; takes it out of `secret` and erases it there.
    ///
    /// # Errors
    /// [`WeakKey`] if no ratchet ever gave these bytes; they are erased too.
    pub fn try_new(
        seed: SeedId,
        epoch: Epoch,
        secret: &mut [u8; SECRET_LEN],
    ) -> Result<Self, WeakKey> {
        let state =
            Self { seed, epoch, secret: Secret::written_by(|bytes| bytes.copy_from_slice(secret)) };
        secret.zeroize();
        state.secret.check()?;
        Ok(state)
    }

    /// Goes forward to `epoch`; S_{e+1} = HMAC-SHA256(S_e, "stek/1/ratchet"), and S_e is erased.
    /// Does nothing if it is there already.
    ///
    /// # Errors
    /// [`AdvanceError`] if `epoch` lies behind or too far ahead; nothing has changed then.
    pub fn advance_to(&mut self, epoch: Epoch) -> Result<(), AdvanceError> {
        let at = self.epoch;
        let steps = epoch.as_u64().checked_sub(at.as_u64());
        let steps = steps.ok_or(AdvanceError::Back { at, to: epoch })?;
        if steps > MAX_ADVANCE {
            return Err(AdvanceError::TooFar { at, to: epoch });
        }
        self.secret = walked(&self.secret, steps);
        self.epoch = epoch;
        Ok(())
    }

    /// KEK(x) = HKDF-SHA256(salt = cluster secret, ikm = S_x, info = "stek/1/kek" ‖ seed_id ‖ x),
    /// x as u64 BE. Costs one HMAC for each epoch between.
    ///
    /// # Errors
    /// [`KekError`] if epoch `x` has passed or lies too far ahead.
    pub fn kek(&self, x: Epoch, cluster: &ClusterSecret) -> Result<Kek, KekError> {
        self.kek_under(x, cluster.expose())
    }

    pub(crate) fn kek_under(&self, x: Epoch, cluster: &[u8; SECRET_LEN]) -> Result<Kek, KekError> {
        let at = self.epoch;
        let steps = x.as_u64().checked_sub(at.as_u64());
        let steps = steps.ok_or(KekError::Passed { asked: x, at })?;
        if steps > MAX_AHEAD {
            return Err(KekError::TooFar { asked: x, at });
        }
        let ikm = walked(&self.secret, steps);
        let number = x.as_u64().to_be_bytes();
        let info: [&[u8]; 3] = [b"stek/1/kek", self.seed.as_bytes(), &number];
        Ok(Kek(erasing_stack(|| {
            Secret::written_by(|key| expand(Some(cluster), ikm.expose(), &info, key))
        })))
    }

    /// Which lineage it is of.
    pub fn seed_id(&self) -> SeedId {
        self.seed
    }

    /// Where it is.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// S_e itself, to be stored or handed to a manager that joins. Whoever calls this keeps it from
    /// going anywhere else: a copy kept for later undoes every destruction from this epoch on.
    pub fn expose_secret(&self) -> &[u8; SECRET_LEN] {
        self.secret.expose()
    }

    /// A second state, which then advances on its own.
    #[must_use = "a state that nobody needs is better not made"]
    pub fn duplicate(&self) -> Self {
        Self { seed: self.seed, epoch: self.epoch, secret: self.secret.duplicate() }
    }
}

impl fmt::Debug for RatchetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RatchetState({}, epoch {}, ..)", self.seed, self.epoch.as_u64())
    }
}

/// The key-encryption key of one epoch. Wraps and unwraps ticket keys; made for one operation and
/// then dropped.
#[derive(Debug)]
pub struct Kek(Secret);

impl Kek {
    pub(crate) fn expose(&self) -> &[u8; SECRET_LEN] {
        self.0.expose()
    }
}

/// A new identity for a seed: a random UUID (RFC 9562, 5.4).
///
/// # Errors
/// [`RandomError`] if the source fails.
pub fn new_seed_id(random: &dyn RandomSource) -> Result<SeedId, RandomError> {
    new_uuid(random).map(SeedId::from_bytes)
}

/// A new identity for a manager's copy of the ratchet, likewise.
///
/// # Errors
/// [`RandomError`] if the source fails.
pub fn new_replica_id(random: &dyn RandomSource) -> Result<ReplicaId, RandomError> {
    new_uuid(random).map(ReplicaId::from_bytes)
}

fn new_uuid(random: &dyn RandomSource) -> Result<[u8; 16], RandomError> {
    let mut bytes = [0; 16];
    random.fill(&mut bytes)?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid().into_bytes())
}

/// The secret `steps` epochs later; `from` stays as it is.
fn walked(from: &Secret, steps: u64) -> Secret {
    let mut here = from.duplicate();
    erasing_stack(|| {
        for _ in 0..steps {
            here = Secret::written_by(|next| mac(here.expose(), &[b"stek/1/ratchet"], next));
        }
    });
    here
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SystemRandom;
    use crate::testing::{
        DESTRUCTION, EPOCH, Failing, Pattern, SEED, STATE, assert_redacted, cluster, epoch, hex,
        other_cluster, state, unhex,
    };

    fn kek_text(state: &RatchetState, x: u64) -> String {
        hex(state.kek(epoch(x), &cluster()).unwrap().expose())
    }

    fn at(epoch_number: u64) -> RatchetState {
        let mut state = state();
        state.advance_to(epoch(epoch_number)).unwrap();
        state
    }

    /// The expected values were computed with another implementation, Python's hashlib and hmac.
    #[test]
    fn steps_and_keys_match_the_vectors() {
        let vectors = [
            (EPOCH, STATE),
            (EPOCH + 1, "943ab420df9d4acb8d7c35592f877945d093718f17aa4ff3606e2fa58319e10d"),
            (EPOCH + 2, "2c4e185b76136fc0a87bbd934c8dc03f6f5e81add78abfa1b70c87ee2294bc58"),
            (DESTRUCTION, "2afe2affbdcbdf5d55555d0314fc1ff5bebc3774d94614d9f94eea0269c3a8af"),
        ];
        for (number, expected) in vectors {
            assert_eq!(hex(at(number).expose_secret()), expected, "epoch {number}");
        }
        assert_eq!(
            kek_text(&state(), EPOCH),
            "f00cee71197887330e7a7e97c11312f015258cba1fdbce84fbbc588f7a66b471"
        );
        assert_eq!(
            kek_text(&state(), DESTRUCTION),
            "adbb35f3a9046956efffd057a4bc6588eaa8c1aba8fb7ea4382299f2fa9934f1"
        );
    }

    #[test]
    fn every_state_up_to_an_epoch_gives_its_one_key() {
        let expected = kek_text(&state(), DESTRUCTION);
        for number in EPOCH..=DESTRUCTION {
            assert_eq!(kek_text(&at(number), DESTRUCTION), expected, "from {number}");
        }
        let passed = at(DESTRUCTION + 1).kek(epoch(DESTRUCTION), &cluster()).unwrap_err();
        let (asked, now) = (epoch(DESTRUCTION), epoch(DESTRUCTION + 1));
        assert_eq!(passed, KekError::Passed { asked, at: now });
        assert_eq!(passed.to_string(), "epoch 497240 has passed, the ratchet is at 497241");
    }

    #[test]
    fn keys_differ_by_epoch_seed_and_cluster_secret() {
        let key = kek_text(&state(), DESTRUCTION);
        assert_ne!(key, kek_text(&state(), DESTRUCTION - 1));
        let other = other_cluster();
        let under_other = state().kek(epoch(DESTRUCTION), &other).unwrap();
        assert_ne!(key, hex(under_other.expose()));
        let seed = SeedId::from_bytes([1; 16]);
        let other = RatchetState::try_new(seed, epoch(EPOCH), &mut unhex(STATE)).unwrap();
        assert_ne!(key, kek_text(&other, DESTRUCTION));
    }

    #[test]
    fn it_goes_forward_only_and_not_too_far() {
        let mut state = state();
        let before = hex(state.expose_secret());
        let back = state.advance_to(epoch(EPOCH - 1)).unwrap_err();
        assert_eq!(back, AdvanceError::Back { at: epoch(EPOCH), to: epoch(EPOCH - 1) });
        for far in [EPOCH + MAX_ADVANCE + 1, u64::MAX] {
            let error = state.advance_to(epoch(far)).unwrap_err();
            assert_eq!(error, AdvanceError::TooFar { at: epoch(EPOCH), to: epoch(far) });
        }
        assert_eq!((hex(state.expose_secret()), state.epoch()), (before.clone(), epoch(EPOCH)));
        state.advance_to(epoch(EPOCH)).unwrap();
        assert_eq!(hex(state.expose_secret()), before);
        state.advance_to(epoch(EPOCH + MAX_ADVANCE)).unwrap();
        assert_eq!(state.epoch(), epoch(EPOCH + MAX_ADVANCE));
    }

    #[test]
    fn keys_lie_a_year_ahead_at_most() {
        assert!(state().kek(epoch(EPOCH + MAX_AHEAD), &cluster()).is_ok());
        for far in [EPOCH + MAX_AHEAD + 1, u64::MAX] {
            let error = state().kek(epoch(far), &cluster()).unwrap_err();
            assert_eq!(error, KekError::TooFar { asked: epoch(far), at: epoch(EPOCH) });
        }
    }

    #[test]
    fn a_duplicate_stays_where_it_is() {
        let mut state = state();
        let kept = state.duplicate();
        state.advance_to(epoch(EPOCH + 1)).unwrap();
        assert_eq!((hex(kept.expose_secret()).as_str(), kept.epoch()), (STATE, epoch(EPOCH)));
    }

    #[test]
    fn new_ratchets_differ_and_need_a_working_source() {
        let new = |random: &dyn RandomSource| RatchetState::generate(SEED, epoch(EPOCH), random);
        let one = new(&SystemRandom).unwrap();
        assert_ne!(one.expose_secret(), new(&SystemRandom).unwrap().expose_secret());
        assert!(matches!(new(&Failing), Err(DrawError::Random(_))));
        assert!(matches!(new(&Pattern(|_| 9)), Err(DrawError::Broken(WeakKey::Constant))));
        assert_ne!(new_seed_id(&SystemRandom).unwrap(), new_seed_id(&SystemRandom).unwrap());
        assert!(new_seed_id(&Failing).is_err());
    }

    #[test]
    fn taking_erases_the_source_also_when_it_refuses() {
        let mut good = unhex(STATE);
        assert!(RatchetState::try_new(SEED, epoch(EPOCH), &mut good).is_ok());
        let mut weak = [5; 32];
        assert!(RatchetState::try_new(SEED, epoch(EPOCH), &mut weak).is_err());
        assert_eq!((good, weak), ([0; 32], [0; 32]));
    }

    #[test]
    fn debug_shows_no_secret() {
        let state = state();
        let kek = state.kek(epoch(DESTRUCTION), &cluster()).unwrap();
        let secrets = [state.expose_secret().as_slice(), kek.expose()];
        assert_redacted(&state, &secrets);
        assert_redacted(&kek, &secrets);
    }
}
