//! Refuses key material that no working random source makes. Asked wherever a key enters: at
//! mint, at unwrap, at receipt and at installation. It cannot prove that a key is random.

use crate::secret::{KEY_LEN, KeyMaterial};

/// The fewest different byte values that 32 random bytes are taken to have. A working source
/// draws fewer with a probability of 2.8 × 10⁻²¹ (the sum over k ≤ 13 of S(32, k) · 256!/(256−k)!
/// / 256³², S the Stirling numbers of the second kind).
pub const MIN_DISTINCT_BYTES: usize = 14;

/// Why material was refused. Says nothing of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WeakKey {
    /// All bytes are equal, as of memory never written.
    #[error("key material is one byte repeated")]
    Constant,
    /// Each byte is the one before plus a constant, as of a counter or a test pattern.
    #[error("key material steps by a constant")]
    Stepping,
    /// Fewer than [`MIN_DISTINCT_BYTES`] different byte values.
    #[error("key material has fewer than {MIN_DISTINCT_BYTES} different bytes")]
    FewDistinct,
}

/// Refuses constant, stepping and poor material.
///
/// # Errors
/// [`WeakKey`], the first that applies in the order of its variants.
pub fn check_material(material: &KeyMaterial) -> Result<(), WeakKey> {
    let bytes = material.expose_secret();
    let step = bytes[1].wrapping_sub(bytes[0]);
    let steps = (1..KEY_LEN).all(|i| bytes[i].wrapping_sub(bytes[i - 1]) == step);
    if steps {
        return Err(if step == 0 { WeakKey::Constant } else { WeakKey::Stepping });
    }
    let mut seen = [false; 256];
    for byte in bytes {
        seen[usize::from(*byte)] = true;
    }
    if seen.iter().filter(|seen| **seen).count() < MIN_DISTINCT_BYTES {
        return Err(WeakKey::FewDistinct);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mut bytes: [u8; KEY_LEN]) -> Result<(), WeakKey> {
        check_material(&KeyMaterial::take_from(&mut bytes))
    }

    #[test]
    fn weak_material_is_refused() {
        for byte in [0, 1, 0x55, 0xff] {
            assert_eq!(check([byte; KEY_LEN]), Err(WeakKey::Constant));
        }
        for step in [1u8, 3, 128, 255] {
            let bytes = std::array::from_fn(|i| step.wrapping_mul(u8::try_from(i).unwrap()));
            assert_eq!(check(bytes), Err(WeakKey::Stepping), "step {step}");
        }
        let thirteen =
            std::array::from_fn(|i| [1, 200, 7, 90, 5, 66, 31, 8, 9, 10, 77, 12, 13][i % 13]);
        assert_eq!(check(thirteen), Err(WeakKey::FewDistinct));
    }

    #[test]
    fn fourteen_different_bytes_pass() {
        let bytes =
            std::array::from_fn(|i| [1, 200, 7, 90, 5, 66, 31, 8, 9, 10, 77, 12, 13, 14][i % 14]);
        assert_eq!(check(bytes), Ok(()));
    }
}
