//! Looks for secrets in files, in every form in which somebody may have written them.

use std::fs;
use std::path::{Path, PathBuf};

use base64ct::{Base64, Base64Unpadded, Base64UrlUnpadded, Encoding};

use crate::hex;

/// Byte strings that are looked for, all at once.
pub(crate) struct Sought {
    strings: Vec<Vec<u8>>,
    /// Which of them begin with these two bytes.
    by_beginning: Vec<Vec<usize>>,
}

impl Sought {
    pub(crate) fn new(strings: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let strings: Vec<_> = strings.into_iter().collect();
        let mut by_beginning = vec![Vec::new(); 1 << 16];
        for (number, string) in strings.iter().enumerate() {
            by_beginning[beginning(string)].push(number);
        }
        Self { strings, by_beginning }
    }

    /// These secrets, in every form.
    pub(crate) fn secrets<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self::new(secrets.into_iter().flat_map(forms))
    }

    /// The files at `place`, or in any folder below, that hold one of them.
    pub(crate) fn holders(&self, place: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut places = vec![place.to_owned()];
        while let Some(place) = places.pop() {
            // What belongs to a running server may go while it is looked at.
            if let Ok(entries) = fs::read_dir(&place) {
                places.extend(entries.map_while(Result::ok).map(|entry| entry.path()));
            } else if place.is_file() && self.are_in(&fs::read(&place).unwrap_or_default()) {
                found.push(place);
            }
        }
        found.sort();
        found
    }

    fn are_in(&self, content: &[u8]) -> bool {
        content.windows(2).enumerate().any(|(at, two)| {
            let candidates = &self.by_beginning[beginning(two)];
            candidates.iter().any(|number| content[at..].starts_with(&self.strings[*number]))
        })
    }
}

fn beginning(string: &[u8]) -> usize {
    usize::from(string[0]) << 8 | usize::from(string[1])
}

/// A secret as it is, in hexadecimal, and in base64 of either alphabet wherever it stands.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![secret.to_vec(), hex(secret).into(), hex(secret).to_uppercase().into()];
    for before in 0..3 {
        forms.push(within::<Base64Unpadded>(secret, before).into());
        forms.push(within::<Base64UrlUnpadded>(secret, before).into());
    }
    forms
}

/// What a secret makes alone of the base64 of a longer text, in which it stands behind `before`
/// bytes and any number of whole groups of three.
fn within<E: Encoding>(secret: &[u8], before: usize) -> String {
    let text = [&[0; 2][..before], secret].concat();
    let encoded = E::encode_string(&text);
    encoded[(before * 8).div_ceil(6)..text.len() * 8 / 6].to_owned()
}

/// Leaves a secret in `folder`, once in every form, each in a file of its own amid other bytes;
/// returns the files.
pub(crate) fn plant(secret: &[u8], folder: &Path) -> Vec<PathBuf> {
    let mut texts = vec![
        ("raw".to_owned(), secret.to_vec()),
        ("lower".to_owned(), hex(secret).into()),
        ("upper".to_owned(), hex(secret).to_uppercase().into()),
    ];
    for (before, after) in (0..6).flat_map(|before| (0..3).map(move |after| (before, after))) {
        let text = [&b"before"[..before], secret, &b"end"[..after]].concat();
        let name = |kind| format!("{kind}-{before}-{after}");
        texts.push((name("base64"), Base64::encode_string(&text).into()));
        texts.push((name("base64url"), Base64UrlUnpadded::encode_string(&text).into()));
    }
    let mut files: Vec<_> = texts
        .into_iter()
        .map(|(name, text)| {
            let file = folder.join(format!("planted-{name}"));
            fs::write(&file, [b"key = \"", &text[..], b"\"\n"].concat()).unwrap();
            file
        })
        .collect();
    files.sort();
    files
}

#[test]
fn a_secret_is_found_in_every_form_and_nothing_else_is() {
    // In both alphabets it differs, wherever it stands.
    let secret = [0xfb, 0xef, 0xff, 0x3e].repeat(8);
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("some/where");
    fs::create_dir_all(&folder).unwrap();
    let files = plant(&secret, &folder);
    assert_eq!(files.len(), 3 + 6 * 3 * 2);
    assert_eq!(Sought::secrets([&secret[..]]).holders(dir.path()), files);
    // The first half byte is in no whole letter of one of the forms.
    for at in 1..secret.len() {
        let mut other = secret.clone();
        other[at] ^= 0x10;
        assert_eq!(Sought::secrets([&other[..]]).holders(dir.path()), Vec::<PathBuf>::new());
    }
    // No form stands for another.
    for form in forms(&secret) {
        let held = Sought::new(forms(&secret).into_iter().filter(|other| *other != form));
        assert!(held.holders(dir.path()).len() < files.len());
    }
}
