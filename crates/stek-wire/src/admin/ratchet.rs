//! The documents about the ratchet. A state travels encrypted for one request, so nothing here is a
//! secret.

use base64ct::{Base64, Encoding};
use serde::{Deserialize, Serialize};

use super::request::{json, read};
use crate::cursor::{At, Strings};
use crate::error::DecodeError;

const UUID: &str = "a UUID";
const CHALLENGE: &str = "base64 of 32 bytes";

/// Asks a manager for the state of a ratchet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JoinDocument {
    /// Which copy of the ratchet the state is for, a UUID.
    pub replica: String,
    /// Of which seed, a UUID.
    pub seed: String,
    /// 32 random bytes in base64, drawn for this request.
    pub challenge: String,
}

impl JoinDocument {
    /// The request.
    pub fn new(replica: String, seed: String, challenge: &[u8; 32]) -> Self {
        Self { replica, seed, challenge: Base64::encode_string(challenge) }
    }

    /// Reads the request and what `replica` and `seed` make of its identities.
    ///
    /// # Errors
    /// [`DecodeError`] with the field at fault.
    pub fn decode<R, S>(
        input: &[u8],
        replica: impl FnOnce(&str) -> Option<R>,
        seed: impl FnOnce(&str) -> Option<S>,
    ) -> Result<(R, S, [u8; 32]), DecodeError> {
        let document = read(input)?;
        let at = At::top(&document, Strings::Shown);
        at.only(&["replica", "seed", "challenge"])?;
        Ok((
            at.field("replica")?.parsed(UUID, replica)?,
            at.field("seed")?.parsed(UUID, seed)?,
            at.field("challenge")?.parsed(CHALLENGE, from_base64)?,
        ))
    }

    /// The request as JSON.
    pub fn encode(&self) -> String {
        json(self)
    }
}

/// A state, sealed for one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StateDocument {
    /// The epoch that it has reached, in hours since 1970.
    pub epoch: u64,
    /// Ciphertext and tag in base64.
    pub sealed: String,
}

impl StateDocument {
    /// The longest answer that is read, in bytes.
    pub const MAX_BYTES: usize = 1024;

    /// A state that was sealed.
    pub fn new(epoch: u64, sealed: &[u8; 48]) -> Self {
        Self { epoch, sealed: Base64::encode_string(sealed) }
    }

    /// Ciphertext and tag; `None` if there are not 48 bytes of them.
    pub fn sealed(&self) -> Option<[u8; 48]> {
        from_base64(&self.sealed)
    }
}

/// The ratchet as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RatchetDocument {
    /// The copy of the manager that answers, a UUID.
    pub replica: String,
    /// The seeds that have not ended.
    pub seeds: Vec<SeedDocument>,
    /// The managers that hold states.
    pub replicas: Vec<HolderDocument>,
    /// Whether the previous cluster secret is still needed; absent if none is configured.
    #[serde(default)]
    pub previous_cluster_secret_needed: Option<bool>,
    /// The instant of all this.
    pub now: String,
}

/// A seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SeedDocument {
    /// Its identity, a UUID.
    pub seed: String,
    /// `live`, `offered` or `retiring`.
    pub phase: String,
    /// When it was claimed or offered.
    pub claimed_at: String,
}

/// One manager's copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HolderDocument {
    /// Its identity, a UUID.
    pub replica: String,
    /// The seed that it holds.
    pub seed: String,
    /// The one that it holds beside it while seeds change.
    #[serde(default)]
    pub next_seed: Option<String>,
    /// The epoch that it has reached.
    pub epoch: u64,
    /// By how many epochs that is behind the present one.
    pub behind: u64,
    /// When it last said so.
    pub seen_at: String,
}

fn from_base64<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // A longer text would be refused as well, but for another reason in each case.
    let length = Base64::decode(text, &mut bytes).ok()?.len();
    (length == N).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let asked = JoinDocument::new("r".into(), "s".into(), &[7; 32]);
        let own = |text: &str| Some(text.to_owned());
        let read = JoinDocument::decode(asked.encode().as_bytes(), own, own).unwrap();
        assert_eq!(read, ("r".to_owned(), "s".to_owned(), [7; 32]));
        let short = JoinDocument { challenge: Base64::encode_string(&[7; 31]), ..asked };
        let error = JoinDocument::decode(short.encode().as_bytes(), own, own).unwrap_err();
        assert!(error.to_string().contains("base64 of 32 bytes"), "{error}");
    }

    #[test]
    fn a_state_has_48_bytes() {
        let state = StateDocument::new(1, &[9; 48]);
        assert_eq!(state.sealed(), Some([9; 48]));
        for bytes in [47, 49] {
            let sealed = Base64::encode_string(&vec![9; bytes]);
            assert_eq!(StateDocument { sealed, epoch: 1 }.sealed(), None);
        }
    }
}
