//! The vectors of the specification, and what must not open.
//!
//! Every expected value is copied from <https://c2sp.org/XAES-256-GCM>, "Test vectors".

use sha3::Shake128;
use sha3::digest::{ExtendableOutput, Update, XofReader};

use super::*;

const NONCE: &[u8; NONCE_LEN] = b"ABCDEFGHIJKLMNOPQRSTUVWX";
const PLAINTEXT: &[u8] = b"XAES-256-GCM";

/// One of the two fixed vectors, in the notation of the specification.
struct Vector {
    k: [u8; KEY_LEN],
    k1: &'static str,
    kx: &'static str,
    aad: &'static [u8],
    /// With the tag at its end.
    ciphertext: &'static str,
}

/// MSB₁(*L*) = 0: doubling does not reduce.
const WITHOUT_REDUCTION: Vector = Vector {
    k: [0x01; KEY_LEN],
    k1: "e531954aca063d5b8d9c47a47d4cc6f0",
    kx: "c8612c9ed53fe43e8e005b828a1631a0bbcb6ab2f46514ec4f439fcfd0fa969b",
    aad: b"",
    ciphertext: "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271",
};

/// MSB₁(*L*) = 1: doubling reduces.
const WITH_REDUCTION: Vector = Vector {
    k: [0x03; KEY_LEN],
    k1: "23810ec50edb99f374409466ed1f4b7b",
    kx: "e9c621d4cdd9b11b00a6427ad7e559aeedd66b3857646677748f8ca796cb3fd8",
    aad: b"c2sp.org/XAES-256-GCM",
    ciphertext: "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
};

/// A sealed message with everything that opening it takes, for the tests to spoil.
#[derive(Clone)]
struct Sealed {
    nonce: [u8; NONCE_LEN],
    aad: Vec<u8>,
    ciphertext: Vec<u8>,
    tag: [u8; TAG_LEN],
}

type Part = fn(&mut Sealed) -> &mut [u8];

impl Vector {
    fn cipher(&self) -> Xaes256Gcm {
        Xaes256Gcm::new(&self.k)
    }

    fn sealed(&self) -> Sealed {
        let bytes = unhex(self.ciphertext);
        let (ciphertext, tag) = bytes.split_last_chunk().unwrap();
        Sealed { nonce: *NONCE, aad: self.aad.to_vec(), ciphertext: ciphertext.to_vec(), tag: *tag }
    }
}

impl Sealed {
    /// The plaintext, if it opens; that a refused message gives none is checked on the way.
    fn open(&self, cipher: &Xaes256Gcm) -> Option<Vec<u8>> {
        let mut plain = vec![0; self.ciphertext.len()];
        let opened = cipher.open(&self.nonce, &self.aad, &self.ciphertext, &self.tag, &mut plain);
        if opened.is_err() {
            assert!(plain.iter().all(|byte| *byte == 0), "a refused message gave plaintext");
        }
        opened.ok().map(|()| plain)
    }
}

#[test]
fn key_derivation_matches_the_specification() {
    for vector in [WITHOUT_REDUCTION, WITH_REDUCTION] {
        let cipher = vector.cipher();
        assert_eq!(hex(&cipher.keyed.k1), vector.k1);

        let mut inner_key = [0; KEY_LEN];
        cipher.derive_inner_key(NONCE, &mut inner_key);
        assert_eq!(hex(&inner_key), vector.kx);
        assert_eq!(hex(&inner_nonce(NONCE)), "4d4e4f505152535455565758");
    }
}

#[test]
fn sealing_and_opening_match_the_specification() {
    for vector in [WITHOUT_REDUCTION, WITH_REDUCTION] {
        let cipher = vector.cipher();
        let mut buffer = PLAINTEXT.to_vec();
        let tag = cipher.seal_in_place(NONCE, vector.aad, &mut buffer);
        assert_eq!(hex(&buffer) + &hex(&tag), vector.ciphertext);

        assert_eq!(vector.sealed().open(&cipher).as_deref(), Some(PLAINTEXT));
    }
}

#[test]
fn accumulated_10_000_randomized_messages_match_the_specification() {
    assert_eq!(
        accumulated_hash(10_000),
        "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"
    );
}

#[test]
#[ignore = "a hundred times the other one, to be run in a release build after a change"]
fn accumulated_1_000_000_randomized_messages_match_the_specification() {
    assert_eq!(
        accumulated_hash(1_000_000),
        "2163ae1445985a30b60585ee67daa55674df06901b890593e824b8a7c885ab15"
    );
}

#[test]
fn every_flipped_bit_is_refused() {
    let cipher = WITH_REDUCTION.cipher();
    let sealed = WITH_REDUCTION.sealed();
    assert!(sealed.open(&cipher).is_some());

    let parts: [(&str, Part); 4] = [
        ("nonce", |sealed| &mut sealed.nonce),
        ("aad", |sealed| &mut sealed.aad),
        ("ciphertext", |sealed| &mut sealed.ciphertext),
        ("tag", |sealed| &mut sealed.tag),
    ];
    for (name, part) in parts {
        let bits = part(&mut sealed.clone()).len() * 8;
        assert_ne!(bits, 0);
        for bit in 0..bits {
            let mut spoiled = sealed.clone();
            part(&mut spoiled)[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(spoiled.open(&cipher), None, "bit {bit} of the {name}");
        }
    }
}

#[test]
fn truncated_and_extended_messages_are_refused() {
    let cipher = WITH_REDUCTION.cipher();
    let sealed = WITH_REDUCTION.sealed();

    for len in 0..sealed.ciphertext.len() {
        let mut head = sealed.clone();
        head.ciphertext.truncate(len);
        assert_eq!(head.open(&cipher), None, "the first {len} bytes of the ciphertext");

        let mut tail = sealed.clone();
        tail.ciphertext.drain(..sealed.ciphertext.len() - len);
        assert_eq!(tail.open(&cipher), None, "the last {len} bytes of the ciphertext");
    }
    for len in 0..sealed.aad.len() {
        let mut spoiled = sealed.clone();
        spoiled.aad.truncate(len);
        assert_eq!(spoiled.open(&cipher), None, "the first {len} bytes of the aad");
    }

    let mut extended = sealed.clone();
    extended.ciphertext.push(0);
    assert_eq!(extended.open(&cipher), None);

    // Where one ends and the other begins is authenticated, too.
    let mut shifted = sealed;
    shifted.aad.push(shifted.ciphertext.remove(0));
    assert_eq!(shifted.open(&cipher), None);
}

#[test]
fn a_message_of_another_key_is_refused() {
    assert_eq!(WITH_REDUCTION.sealed().open(&WITHOUT_REDUCTION.cipher()), None);
    assert_eq!(WITHOUT_REDUCTION.sealed().open(&WITH_REDUCTION.cipher()), None);

    let sealed = WITH_REDUCTION.sealed();
    for bit in 0..KEY_LEN * 8 {
        let mut key = WITH_REDUCTION.k;
        key[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(sealed.open(&Xaes256Gcm::new(&key)), None, "bit {bit} of the key");
    }
}

#[test]
fn a_tag_does_not_serve_for_no_message_at_all() {
    let mut sealed = WITHOUT_REDUCTION.sealed();
    sealed.ciphertext.clear();
    assert_eq!(sealed.open(&WITHOUT_REDUCTION.cipher()), None);

    sealed.tag = [0; TAG_LEN];
    assert_eq!(sealed.open(&WITHOUT_REDUCTION.cipher()), None);
}

#[test]
fn messages_as_long_as_any_ticket_open_again() {
    const LONGEST_TICKET: usize = 16_384;
    let cipher = WITH_REDUCTION.cipher();

    for len in (0..=272).chain([LONGEST_TICKET - 1, LONGEST_TICKET]) {
        let plaintext: Vec<u8> = (0u8..=250).cycle().take(len).collect();
        let mut buffer = plaintext.clone();
        let tag = cipher.seal_in_place(NONCE, b"aad", &mut buffer);
        let sealed = Sealed { nonce: *NONCE, aad: b"aad".to_vec(), ciphertext: buffer, tag };
        assert_eq!(sealed.open(&cipher), Some(plaintext), "{len} bytes");
    }
}

#[test]
fn a_buffer_of_another_length_is_refused() {
    let (cipher, sealed) = (WITH_REDUCTION.cipher(), WITH_REDUCTION.sealed());
    for len in [0, PLAINTEXT.len() - 1, PLAINTEXT.len() + 1] {
        let Sealed { nonce, aad, ciphertext, tag } = &sealed;
        let mut plain = vec![0; len];
        assert_eq!(cipher.open(nonce, aad, ciphertext, tag, &mut plain), Err(OpenError));
    }
}

#[test]
fn debug_omits_the_key() {
    let cipher = WITH_REDUCTION.cipher();
    assert_eq!(format!("{cipher:?}"), "Xaes256Gcm { .. }");
    assert_eq!(format!("{cipher:#?}"), "Xaes256Gcm { .. }");
}

#[test]
fn the_error_says_only_that_authentication_failed() {
    assert_eq!(OpenError.to_string(), "message authentication failed");
    assert_eq!(format!("{OpenError:?}"), "OpenError");
    assert_eq!(size_of::<OpenError>(), 0);
}

#[test]
fn what_holds_a_key_is_erased_on_drop() {
    // Does not compile without the `zeroize` feature of `aes`; what is inside is asked beside it.
    fn assert_erased<T: ZeroizeOnDrop>() {}
    assert_erased::<Xaes256Gcm>();
    assert_erased::<BlockCipher>();
    assert_erased::<Keyed>();
}

#[test]
#[cfg(target_os = "linux")]
fn no_key_is_left_on_the_stack() {
    let [kx_1, kx_2] = [0, 32].map(|at| unhex(&WITH_REDUCTION.kx[at..at + 32]));
    let k1 = unhex(WITH_REDUCTION.k1);

    // Any key will do here, but for one that repeats a byte: memory is full of those.
    let key: Box<[u8; KEY_LEN]> = unhex(WITH_REDUCTION.kx).try_into().unwrap();
    for half in [&kx_1, &kx_2] {
        assert_ne!(copies_left_by(half, || plant(half)), 0, "the search finds nothing");
        assert_eq!(copies_left_by(half, || drop(Xaes256Gcm::new(&key))), 0, "K, by new");
    }

    let cipher = WITH_REDUCTION.cipher();
    let sealed = WITH_REDUCTION.sealed();
    let (mut short, mut long) = (vec![0; 128], vec![0; 4096]);
    for secret in [&k1, &kx_1, &kx_2] {
        let copies = copies_left_by(secret, || drop(WITH_REDUCTION.cipher()));
        assert_eq!(copies, 0, "K1, by new");
        for buffer in [&mut short, &mut long] {
            let copies = copies_left_by(secret, || {
                let _ = cipher.seal_in_place(NONCE, b"", buffer);
            });
            assert_eq!(copies, 0, "K1 or Kx, by seal_in_place");
        }
        let copies = copies_left_by(secret, || assert!(sealed.open(&cipher).is_some()));
        assert_eq!(copies, 0, "K1 or Kx, by open");
    }
}

/// The two implementations of what is inside, each against the other.
#[cfg(feature = "aws-lc")]
mod differential {
    use proptest::prelude::*;

    use super::*;

    fn message() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            prop::collection::vec(any::<u8>(), 4090..4110),
        ]
    }

    proptest! {
        #[test]
        fn both_seal_the_same_bytes_and_open_each_others(
            key: [u8; KEY_LEN],
            nonce: [u8; INNER_NONCE_LEN],
            aad in prop::collection::vec(any::<u8>(), 0..80),
            message in message(),
            flipped: prop::sample::Index,
        ) {
            let (ours, reference) = (Inner::AwsLc, Inner::RustCrypto);
            let (mut one, mut two) = (message.clone(), message.clone());
            let tags = [
                ours.seal(&key, nonce, &aad, &mut one),
                reference.seal(&key, nonce, &aad, &mut two),
            ];
            prop_assert_eq!(tags[0], tags[1]);
            prop_assert_eq!(&one, &two);
            let mut plain = vec![0; message.len()];
            prop_assert!(ours.open(&key, nonce, &aad, &two, &tags[1], &mut plain).is_ok());
            prop_assert_eq!(&plain, &message);
            plain.fill(0);
            prop_assert!(reference.open(&key, nonce, &aad, &one, &tags[0], &mut plain).is_ok());
            prop_assert_eq!(&plain, &message);
            let mut spoiled = [one.as_slice(), &tags[0]].concat();
            let at = flipped.index(spoiled.len());
            spoiled[at] ^= 1;
            let (sealed, tag) = spoiled.split_last_chunk().unwrap();
            prop_assert!(ours.open(&key, nonce, &aad, sealed, tag, &mut plain).is_err());
            prop_assert!(reference.open(&key, nonce, &aad, sealed, tag, &mut plain).is_err());
        }
    }
}

/// How often `secret` lies on the stack that `work` has used, after it has returned.
#[cfg(target_os = "linux")]
#[inline(never)]
fn copies_left_by(secret: &[u8], work: impl FnOnce()) -> usize {
    stack_after(work).windows(secret.len()).filter(|bytes| bytes == &secret).count()
}

/// The stack that `work` has used, after it has returned, the deepest byte first. What it has not
/// written to is zero.
#[cfg(target_os = "linux")]
#[inline(never)]
fn stack_after(work: impl FnOnce()) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    const DEPTH: usize = 128 * 1024;

    // Both come first, since whatever runs after `work` overwrites some of what is looked for.
    let memory = std::fs::File::open("/proc/self/mem").unwrap();
    let mut stack = vec![0; DEPTH];

    let end = std::ptr::from_ref(&memory).addr();
    zeroize_stack::<DEPTH>();
    in_own_frame(work);
    memory.read_exact_at(&mut stack, (end - DEPTH).try_into().unwrap()).unwrap();
    stack
}

#[test]
#[cfg(target_os = "linux")]
fn the_stack_is_erased_as_deep_as_it_is_said() {
    let secret = unhex(WITH_REDUCTION.k1);
    for inner in inners() {
        // What lies between the frames is not much.
        let deep = || match inner.stack_len() {
            0..=2048 => plant_at::<{ 2048 / 16 - 32 }>(&secret),
            2049..=4096 => plant_at::<{ 4096 / 16 - 32 }>(&secret),
            4097..=16_384 => plant_at::<{ 16_384 / 16 - 32 }>(&secret),
            _ => plant_at::<{ 65_536 / 16 - 32 }>(&secret),
        };
        assert_ne!(copies_left_by(&secret, deep), 0, "the search finds nothing");
        let erased = || {
            in_own_frame(deep);
            inner.erase_stack();
        };
        assert_eq!(copies_left_by(&secret, erased), 0, "{inner:?}");
    }
}

/// Those that messages come to here.
#[cfg(target_os = "linux")]
fn inners() -> [Inner; 2] {
    [Inner::for_message(128), Inner::for_message(4096)]
}

#[test]
#[cfg(target_os = "linux")]
fn the_stack_is_used_no_deeper_than_it_is_said() {
    let cipher = WITH_REDUCTION.cipher();
    for len in [128, 512, 4096, 16_384] {
        let inner = Inner::for_message(len);
        let mut buffer = vec![0; len];
        let tag = cipher.seal_in_place(NONCE, b"aad", &mut buffer);
        let (sealed, mut plain) = (buffer.clone(), vec![0; len]);
        let sealing = depth_of(|| {
            cipher.seal_leaving_keys(inner, NONCE, b"aad", &mut buffer);
        });
        let opening = depth_of(|| {
            let opened =
                cipher.open_leaving_keys(inner, NONCE, b"aad", (&sealed, &tag), &mut plain);
            assert!(opened.is_ok());
        });
        for depth in [sealing, opening] {
            assert!((1..=inner.stack_len()).contains(&depth), "{inner:?}, {len} bytes: {depth}");
        }
    }
    let expanding = depth_of(|| drop(BlockCipher::new(&WITH_REDUCTION.k)));
    assert!((1..=block::STACK_LEN).contains(&expanding), "{expanding}");
}

/// How many bytes of stack `work` writes to.
#[cfg(target_os = "linux")]
#[inline(never)]
fn depth_of(work: impl FnOnce()) -> usize {
    stack_after(work).iter().skip_while(|byte| **byte == 0).count()
}

/// Leaves `COPIES` copies of `secret` on the stack, one below the other.
#[cfg(target_os = "linux")]
#[inline(never)]
fn plant_at<const COPIES: usize>(secret: &[u8]) {
    let copy: [u8; BLOCK_LEN] = secret.try_into().unwrap();
    let copies = [copy; COPIES];
    std::hint::black_box(&copies);
}

/// Leaves copies of `secret` on the stack.
#[cfg(target_os = "linux")]
#[inline(never)]
fn plant(secret: &[u8]) {
    let copy: [u8; BLOCK_LEN] = secret.try_into().unwrap();
    std::hint::black_box([copy; 256]);
}

/// The accumulated test of the specification: `messages` times a key, a nonce, a plaintext and
/// additional data from one SHAKE-128 stream, and another SHAKE-128 over all ciphertexts and tags.
fn accumulated_hash(messages: usize) -> String {
    let mut stream = Shake128::default().finalize_xof();
    let mut hash = Shake128::default();

    for _ in 0..messages {
        let mut key = [0; KEY_LEN];
        stream.read(&mut key);
        let mut nonce = [0; NONCE_LEN];
        stream.read(&mut nonce);
        let plaintext = read_opaque(&mut stream);
        let aad = read_opaque(&mut stream);

        let cipher = Xaes256Gcm::new(&key);
        let mut ciphertext = plaintext.clone();
        let tag = cipher.seal_in_place(&nonce, &aad, &mut ciphertext);
        hash.update(&ciphertext);
        hash.update(&tag);

        let sealed = Sealed { nonce, aad, ciphertext, tag };
        assert_eq!(sealed.open(&cipher), Some(plaintext));
    }

    let mut digest = [0; 32];
    hash.finalize_xof().read(&mut digest);
    hex(&digest)
}

/// `opaque <0..255>`: one byte of length, then as many bytes (RFC 8446, section 3.4).
fn read_opaque(stream: &mut impl XofReader) -> Vec<u8> {
    let mut len = [0];
    stream.read(&mut len);
    let mut bytes = vec![0; len[0].into()];
    stream.read(&mut bytes);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Vec<u8> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    assert!(rest.is_empty());
    let byte = |pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.iter().map(|pair| byte(pair)).collect()
}
