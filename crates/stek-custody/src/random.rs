//! Where random bytes come from, and the refusal of a source that is plainly broken. What the
//! bytes become is decided by whoever draws them.

use std::io;

use stek_core::health::{WeakKey, check_material};
use stek_core::secret::KeyMaterial;

/// A source of random bytes fit for keys.
pub trait RandomSource {
    /// Fills `buffer` wholly.
    ///
    /// # Errors
    /// [`RandomError`] if it cannot; the caller then uses none of the bytes.
    fn fill(&self, buffer: &mut [u8]) -> Result<(), RandomError>;
}

/// The random source gave nothing.
#[derive(Debug, thiserror::Error)]
#[error("the random source failed")]
pub struct RandomError(#[source] io::Error);

impl RandomError {
    /// With what the source said.
    pub const fn new(cause: io::Error) -> Self {
        Self(cause)
    }
}

/// The operating system's random source. Blocks until it is seeded, early at boot.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl RandomSource for SystemRandom {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), RandomError> {
        getrandom::fill(buffer).map_err(|error| {
            let cause = error.raw_os_error().map(io::Error::from_raw_os_error);
            RandomError(cause.unwrap_or_else(|| io::Error::other(error.to_string())))
        })
    }
}

/// No secret could be drawn.
#[derive(Debug, thiserror::Error)]
pub enum DrawError {
    /// The source gave nothing.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The source gave what no working one does: stop, and look at it.
    #[error("the random source is broken")]
    Broken(#[source] WeakKey),
}

/// Draws 32 bytes and puts them to the health test.
///
/// # Errors
/// [`DrawError`] if the source fails or what it gives is refused by [`check_material`].
pub fn draw(random: &dyn RandomSource) -> Result<KeyMaterial, DrawError> {
    let material = KeyMaterial::try_from_fill(|bytes| random.fill(bytes))?;
    check_material(&material).map_err(DrawError::Broken)?;
    Ok(material)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Failing, Pattern};

    #[test]
    fn the_system_source_passes_and_never_repeats() {
        let draws: Vec<_> = (0..64).map(|_| draw(&SystemRandom).unwrap()).collect();
        for (position, one) in draws.iter().enumerate() {
            assert!(draws[position + 1..].iter().all(|other| !one.is_same_as(other)));
        }
    }

    #[test]
    fn broken_sources_are_refused() {
        let error = |random: &dyn RandomSource| draw(random).unwrap_err();
        assert!(matches!(error(&Failing), DrawError::Random(_)));
        assert!(matches!(error(&Pattern(|_| 0)), DrawError::Broken(WeakKey::Constant)));
        assert!(matches!(error(&Pattern(|i| i)), DrawError::Broken(WeakKey::Stepping)));
        assert!(matches!(error(&Pattern(|i| i % 3)), DrawError::Broken(WeakKey::FewDistinct)));
        assert_eq!(error(&Failing).to_string(), "the random source failed");
    }
}
