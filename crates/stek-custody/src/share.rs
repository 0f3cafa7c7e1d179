//! The handing over of a ratchet's state to a manager that joins: sealed under the cluster secret
//! for one request, so that neither a log of the exchange nor an older answer gives it away. Who
//! may ask, and over which channel, is decided by the manager.

use std::fmt;

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit};
use stek_core::wrapped::{Epoch, ReplicaId, SeedId};
use zeroize::Zeroizing;

use crate::cluster_secret::{ClusterSecret, Generation};
use crate::ratchet::RatchetState;
use crate::secret::{SECRET_LEN, Secret, erasing_stack, expand};

/// Length of the random bytes of a request.
pub const CHALLENGE_LEN: usize = 32;

/// Length of a sealed state: S_e and the tag.
pub const SEALED_LEN: usize = SECRET_LEN + 16;

/// Who asks for which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinRequest {
    /// The copy of the ratchet that the state is for.
    pub replica: ReplicaId,
    /// The seed that the database names.
    pub seed: SeedId,
    /// Random bytes, drawn for this request.
    pub challenge: [u8; CHALLENGE_LEN],
}

/// The state for one request.
///
/// ```text
/// what   = challenge[32] ‖ replica id[16] ‖ seed id[16] ‖ e u64 BE
/// key    = HKDF-SHA256(ikm = cluster secret, info = "stek/1/join" ‖ what)
/// sealed = AES-256-GCM(key, nonce = zeros, S_e, aad = "stek/join/1" ‖ what)   32 bytes and the tag
/// ```
///
/// A key serves for one plaintext, the state of one seed at one epoch, so the nonce need not vary.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedState {
    /// The epoch that the state has reached.
    pub epoch: Epoch,
    /// S_e, encrypted, and the tag.
    pub ciphertext: [u8; SEALED_LEN],
}

impl fmt::Debug for SealedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedState(epoch {}, ..)", self.epoch.as_u64())
    }
}

/// The answer was not made for this request by a manager with our cluster secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the state was not sealed for this request under our cluster secret")]
pub struct NotForUs;

pub(crate) fn seal(
    state: &RatchetState,
    request: &JoinRequest,
    cluster: &[u8; SECRET_LEN],
) -> SealedState {
    let mut ciphertext = [0; SEALED_LEN];
    let (body, tag) = ciphertext.split_at_mut(SECRET_LEN);
    body.copy_from_slice(state.expose_secret());
    let what = what(request, state.epoch());
    let made = erasing_stack(|| {
        Aes256Gcm::new(key(&what, cluster).expose().into())
            .encrypt_inout_detached(&[0; 12].into(), &aad(&what), (&mut *body).into())
            .expect("32 bytes are below the limit of GCM")
    });
    tag.copy_from_slice(&made);
    SealedState { epoch: state.epoch(), ciphertext }
}

impl SealedState {
    /// The state, if it was sealed for `request` under either of our cluster secrets.
    ///
    /// # Errors
    /// [`NotForUs`], whatever is wrong.
    pub fn open(
        &self,
        request: &JoinRequest,
        cluster: &ClusterSecret,
    ) -> Result<RatchetState, NotForUs> {
        let secrets = [Generation::Current, Generation::Previous].into_iter();
        let mut opened = secrets
            .filter_map(|one| cluster.expose_one(one))
            .filter_map(|secret| self.open_under(request, secret));
        opened.next().ok_or(NotForUs)
    }

    fn open_under(
        &self,
        request: &JoinRequest,
        cluster: &[u8; SECRET_LEN],
    ) -> Option<RatchetState> {
        let (body, tag) = self.ciphertext.split_at(SECRET_LEN);
        let tag = tag.try_into().ok()?;
        let mut secret = Zeroizing::new([0; SECRET_LEN]);
        secret.copy_from_slice(body);
        let what = what(request, self.epoch);
        erasing_stack(|| {
            Aes256Gcm::new(key(&what, cluster).expose().into()).decrypt_inout_detached(
                &[0; 12].into(),
                &aad(&what),
                secret.as_mut_slice().into(),
                tag,
            )
        })
        .ok()?;
        RatchetState::try_new(request.seed, self.epoch, &mut secret).ok()
    }
}

fn what(request: &JoinRequest, epoch: Epoch) -> Vec<u8> {
    let number = epoch.as_u64().to_be_bytes();
    let fields: [&[u8]; 4] =
        [&request.challenge, request.replica.as_bytes(), request.seed.as_bytes(), &number];
    fields.concat()
}

fn key(what: &[u8], cluster: &[u8; SECRET_LEN]) -> Secret {
    Secret::written_by(|key| expand(None, cluster, &[b"stek/1/join", what], key))
}

fn aad(what: &[u8]) -> Vec<u8> {
    [b"stek/join/1", what].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{REPLICA, SEED, cluster, leaks, other_cluster, state};

    fn request() -> JoinRequest {
        JoinRequest { replica: REPLICA, seed: SEED, challenge: std::array::from_fn(|i| i as u8) }
    }

    fn sealed() -> SealedState {
        seal(&state(), &request(), cluster().expose())
    }

    #[test]
    fn the_state_comes_out_for_whom_it_was_sealed() {
        let opened = sealed().open(&request(), &cluster()).unwrap();
        assert_eq!(opened.expose_secret(), state().expose_secret());
        assert_eq!((opened.seed_id(), opened.epoch()), (SEED, state().epoch()));
        assert!(!leaks(&format!("{:?}", sealed()), state().expose_secret()));
        assert!(!sealed().ciphertext.windows(4).any(|part| part == &state().expose_secret()[..4]));
    }

    #[test]
    fn for_any_other_request_secret_or_bit_it_does_not() {
        let asked = request();
        let replica = ReplicaId::from_bytes([1; 16]);
        let others = [
            JoinRequest { replica, ..asked },
            JoinRequest { seed: SeedId::from_bytes([1; 16]), ..asked },
            JoinRequest { challenge: [1; CHALLENGE_LEN], ..asked },
        ];
        for other in others {
            assert_eq!(sealed().open(&other, &cluster()).unwrap_err(), NotForUs, "{other:?}");
        }
        assert!(sealed().open(&asked, &other_cluster()).is_err());
        let epoch = Epoch::new(sealed().epoch.as_u64() + 1);
        assert!(SealedState { epoch, ..sealed() }.open(&asked, &cluster()).is_err());
        for bit in 0..8 * SEALED_LEN {
            let mut flipped = sealed();
            flipped.ciphertext[bit / 8] ^= 1 << (bit % 8);
            assert!(flipped.open(&asked, &cluster()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn the_previous_cluster_secret_opens_too() {
        let secret = |text: &str| ClusterSecret::parse(text).unwrap();
        let text = ClusterSecret::generate_text(&crate::random::SystemRandom).unwrap();
        let both = secret(&text);
        assert!(sealed().open(&request(), &both).is_err());
        let both = both.with_previous(secret(crate::testing::CLUSTER_SECRET));
        assert!(sealed().open(&request(), &both).is_ok());
    }
}
