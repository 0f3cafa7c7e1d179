//! Who may do what with which keyset: tokens, grants and the rule that nothing is allowed unless
//! granted. Whom a grant means is [`crate::principal`]'s, and how somebody proves who he is, that of
//! the listeners.

use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::id::{ContentDigest, KeyId, decode_hex, parse_hex};
use crate::name::{KeysetName, NameError, PrincipalName};
use crate::principal::{PrincipalPattern, Principals};
use crate::time::Timestamp;

/// What a principal may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Fetch the bundle of a keyset.
    Terminator,
    /// Follow the feed of a keyset and serve it on.
    Distribution,
    /// Create, change, rotate and delete keysets.
    Operator,
    /// Read keysets, schedules and the audit trail, never a secret.
    Auditor,
    /// Join the ratchet, as one key-manager among several.
    Manager,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 5] =
        [Self::Terminator, Self::Distribution, Self::Operator, Self::Auditor, Self::Manager];

    /// The role as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Terminator => "terminator",
            Self::Distribution => "distribution",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
            Self::Manager => "manager",
        }
    }

    /// The role of this name, if there is one.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

/// Which keysets a grant covers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeysetSelector {
    /// Every keyset, also those made later; written `*`.
    All,
    /// One keyset.
    Named(KeysetName),
}

impl KeysetSelector {
    /// Reads `*` or a keyset name.
    ///
    /// # Errors
    /// [`NameError`] if it is neither.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text == "*" { Ok(Self::All) } else { KeysetName::try_new(text).map(Self::Named) }
    }

    /// Whether it covers `keyset`.
    pub fn covers(&self, keyset: &KeysetName) -> bool {
        match self {
            Self::All => true,
            Self::Named(name) => name == keyset,
        }
    }
}

impl fmt::Display for KeysetSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Named(name) => name.fmt(f),
        }
    }
}

/// Lets some principals act in one role on some keysets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant {
    /// Who.
    pub principal: PrincipalPattern,
    /// On which keysets.
    pub keysets: KeysetSelector,
    /// In which role.
    pub role: Role,
}

impl Grant {
    /// The bytes that a seal over the stored row covers: every field, each with its length.
    pub fn canonical(&self) -> Vec<u8> {
        canonical(
            b"stek/grant/1",
            &[
                self.principal.as_str().as_bytes(),
                self.keysets.to_string().as_bytes(),
                self.role.as_str().as_bytes(),
            ],
        )
    }
}

/// The secret of a bearer token: 256 random bits, written `stek_` and 64 hexadecimal digits.
pub struct TokenSecret(Box<[u8; 32]>);

impl TokenSecret {
    /// What every token begins with, so that scanners find a leaked one.
    pub const PREFIX: &'static str = "stek_";

    /// Takes the bytes out of `random` and erases them there.
    pub fn take_from(random: &mut [u8; 32]) -> Self {
        let secret = Self(Box::new(*random));
        random.zeroize();
        secret
    }

    /// Reads the written form; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(Self::PREFIX)?;
        let mut secret = Self(Box::new([0; 32]));
        decode_hex(digits, secret.0.as_mut_slice()).then_some(secret)
    }

    /// The written form, to be shown once to whoever asked for the token.
    pub fn expose_text(&self) -> String {
        let mut text = String::with_capacity(Self::PREFIX.len() + 64);
        text.push_str(Self::PREFIX);
        for byte in self.0.iter() {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
        text
    }

    /// What is stored of it. A plain hash is enough for 256 random bits.
    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.0.as_slice()).into())
    }
}

impl Drop for TokenSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(..)")
    }
}

/// SHA-256 of a token's 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// From the stored bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes to store.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads 64 hexadecimal digits; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        parse_hex(text).ok().map(Self)
    }

    /// The 64 hexadecimal digits.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

/// What is kept of a bearer token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Token {
    /// Its identity, for listing and revoking.
    pub id: KeyId,
    /// The principal that its bearer is.
    pub principal: PrincipalName,
    /// The hash of its secret.
    pub hash: TokenHash,
    /// From when on it is refused.
    pub expires_at: Timestamp,
}

impl Token {
    /// The bytes that a seal over the stored row covers: every field, each with its length.
    pub fn canonical(&self) -> Vec<u8> {
        canonical(
            b"stek/token/1",
            &[
                self.id.as_bytes(),
                self.principal.as_str().as_bytes(),
                self.hash.as_bytes(),
                &self.expires_at.as_unix().to_be_bytes(),
            ],
        )
    }
}

fn canonical(label: &[u8], fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = label.to_vec();
    for field in fields {
        bytes.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(field);
    }
    bytes
}

/// Everything that decides who may do what. It is asked for each request, also of strangers, so what
/// it is asked is looked up: the cost is that of the grants to the one who asks, and to patterns.
#[derive(Debug, Clone, Default)]
pub struct Access {
    tokens: Vec<Token>,
    grants: Vec<Grant>,
    /// Where among the tokens the one with this hash is, and whose it is.
    by_hash: HashMap<TokenHash, (usize, Principals)>,
    /// Where among the grants those to one principal are, by its name.
    by_name: HashMap<Box<str>, Vec<usize>>,
    /// Where among the grants those to patterns are.
    to_patterns: Vec<usize>,
    digest: OnceLock<ContentDigest>,
}

impl PartialEq for Access {
    fn eq(&self, other: &Self) -> bool {
        self.tokens == other.tokens && self.grants == other.grants
    }
}

impl Eq for Access {}

impl Access {
    /// These tokens, which are not revoked, and these grants.
    pub fn new(tokens: Vec<Token>, grants: Vec<Grant>) -> Self {
        let mut by_hash = HashMap::with_capacity(tokens.len());
        for (place, token) in tokens.iter().enumerate() {
            let whose = || (place, token.principal.clone().into());
            by_hash.entry(token.hash).or_insert_with(whose);
        }
        let (mut by_name, mut to_patterns) = (HashMap::<_, Vec<_>>::new(), Vec::new());
        for (place, grant) in grants.iter().enumerate() {
            if grant.principal.is_literal() {
                by_name.entry(grant.principal.as_str().into()).or_default().push(place);
            } else {
                to_patterns.push(place);
            }
        }
        Self { tokens, grants, by_hash, by_name, to_patterns, digest: OnceLock::new() }
    }

    /// The tokens that are not revoked.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// The grants.
    pub fn grants(&self) -> &[Grant] {
        &self.grants
    }

    /// Whose token this is, unless it has expired by `now`; and its identity.
    pub fn authenticate(&self, hash: &TokenHash, now: Timestamp) -> Option<(KeyId, &Principals)> {
        // How long the look-up takes tells of hashes, of which nobody can choose one.
        let (place, whose) = self.by_hash.get(hash)?;
        let token = &self.tokens[*place];
        (now < token.expires_at).then_some((token.id, whose))
    }

    /// The grants that `who` has in `role`.
    pub fn granted<'a>(
        &'a self,
        who: &'a Principals,
        role: Role,
    ) -> impl Iterator<Item = &'a KeysetSelector> {
        let to_name = |name: &PrincipalName| self.by_name.get(name.as_str());
        let exactly = who.names().iter().filter_map(to_name).flatten();
        let grant = |place: &usize| &self.grants[*place];
        let fitting = self.to_patterns.iter().filter(move |at| who.fit(&grant(at).principal));
        let mine = exactly.chain(fitting).map(grant).filter(move |grant| grant.role == role);
        mine.map(|grant| &grant.keysets)
    }

    /// Whether `who` may act as `role` on `keyset`.
    pub fn allows(&self, who: &Principals, role: Role, keyset: &KeysetName) -> bool {
        self.granted(who, role).any(|keysets| keysets.covers(keyset))
    }

    /// Whether `who` may act as `role` on any keyset at all.
    pub fn has_role(&self, who: &Principals, role: Role) -> bool {
        self.granted(who, role).next().is_some()
    }

    /// Whether `who` may act as `role` on every keyset, also on those made later.
    pub fn allows_all(&self, who: &Principals, role: Role) -> bool {
        self.granted(who, role).any(|keysets| *keysets == KeysetSelector::All)
    }

    /// What tells these tokens and grants from others, whatever their order.
    pub fn digest(&self) -> ContentDigest {
        *self.digest.get_or_init(|| self.hash_rows())
    }

    fn hash_rows(&self) -> ContentDigest {
        let mut rows: Vec<_> = self.tokens.iter().map(Token::canonical).collect();
        rows.extend(self.grants.iter().map(Grant::canonical));
        rows.sort_unstable();
        let mut hash = Sha256::new();
        hash.update(b"stek/access/1");
        for row in rows {
            hash.update(u64::try_from(row.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(row);
        }
        let digest: [u8; 32] = hash.finalize().into();
        let mut short = [0; ContentDigest::LEN];
        short.copy_from_slice(&digest[..ContentDigest::LEN]);
        ContentDigest::from_bytes(short)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(name: &str) -> PrincipalName {
        PrincipalName::try_new(name).unwrap()
    }

    fn keyset(name: &str) -> KeysetName {
        KeysetName::try_new(name).unwrap()
    }

    fn grant(who: &str, keysets: &str, role: Role) -> Grant {
        let principal = PrincipalPattern::try_new(who).unwrap();
        Grant { principal, keysets: KeysetSelector::parse(keysets).unwrap(), role }
    }

    #[test]
    fn nothing_is_allowed_unless_granted() {
        let grants = vec![
            grant("token:edge", "main", Role::Terminator),
            grant("token:root", "*", Role::Operator),
        ];
        let access = Access::new(vec![], grants);
        for role in Role::ALL {
            for who in ["token:edge", "token:root", "token:edge2", "token:"] {
                for name in ["main", "other"] {
                    let expected =
                        (who == "token:edge" && name == "main" && role == Role::Terminator)
                            || (who == "token:root" && role == Role::Operator);
                    let allowed = access.allows(&principal(who).into(), role, &keyset(name));
                    assert_eq!(allowed, expected, "{who} {role:?} {name}");
                }
            }
        }
        assert!(access.allows_all(&principal("token:root").into(), Role::Operator));
        assert!(!access.allows_all(&principal("token:edge").into(), Role::Terminator));
    }

    #[test]
    fn a_token_is_its_holder_until_it_expires() {
        let secret = TokenSecret::take_from(&mut [9; 32]);
        let token = Token {
            id: KeyId::from_bytes([1; 16]),
            principal: principal("token:edge"),
            hash: secret.hash(),
            expires_at: Timestamp::from_unix(100),
        };
        let access = Access::new(vec![token], vec![]);
        let who = |secret: &TokenSecret, now| {
            access.authenticate(&secret.hash(), Timestamp::from_unix(now))
        };
        let edge = (KeyId::from_bytes([1; 16]), &principal("token:edge").into());
        assert_eq!(who(&secret, 99), Some(edge));
        assert_eq!(who(&secret, 100), None);
        assert_eq!(who(&TokenSecret::take_from(&mut [8; 32]), 0), None);
    }

    #[test]
    fn tokens_read_what_they_write() {
        let secret =
            TokenSecret::take_from(&mut std::array::from_fn(|i| u8::try_from(i * 8).unwrap()));
        let text = secret.expose_text();
        assert!(text.starts_with("stek_0008"), "{text}");
        assert_eq!(TokenSecret::parse(&text).unwrap().hash(), secret.hash());
        assert_eq!(format!("{secret:?} {:?}", secret.hash()), "TokenSecret(..) TokenHash(..)");
        assert_eq!(TokenHash::parse(&secret.hash().to_hex()), Some(secret.hash()));
        assert_eq!(TokenHash::parse("00"), None);
        for bad in
            ["", "stek_", &text[5..], &text[..68], &format!("{text}0"), &text.replace("08", "0g")]
        {
            assert!(TokenSecret::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn the_digest_sees_rows_and_not_their_order() {
        let one = grant("a", "main", Role::Terminator);
        let two = grant("a", "main", Role::Auditor);
        let access = |grants: &[&Grant]| {
            Access::new(vec![], grants.iter().map(|grant| (*grant).clone()).collect())
        };
        assert_eq!(access(&[&one, &two]).digest(), access(&[&two, &one]).digest());
        assert_ne!(access(&[&one]).digest(), access(&[&two]).digest());
        assert_ne!(access(&[&one]).digest(), access(&[&one, &two]).digest());
    }

    #[test]
    fn grants_to_names_and_to_patterns_add_up() {
        let uri = "spiffe://example.org/edge/7";
        let access = Access::new(
            vec![],
            vec![
                grant(uri, "main", Role::Terminator),
                grant("spiffe://example.org/edge/*", "other", Role::Terminator),
                grant("*.edge.example", "third", Role::Terminator),
                grant("a.edge.example", "main", Role::Auditor),
                grant("token:edge", "fourth", Role::Terminator),
            ],
        );
        let who = Principals::try_new([principal(uri), principal("a.edge.example")]).unwrap();
        let mut granted: Vec<_> =
            access.granted(&who, Role::Terminator).map(ToString::to_string).collect();
        granted.sort();
        assert_eq!(granted, ["main", "other", "third"]);
        assert!(access.has_role(&who, Role::Auditor) && !access.has_role(&who, Role::Operator));
    }

    /// Of a fleet with as many tokens and grants as there may be; a scan of them would take hours.
    #[test]
    fn what_a_question_costs_does_not_grow_with_the_fleet() {
        let token = |n: u64| Token {
            id: KeyId::new(n, &[0; 10]),
            principal: principal(&format!("token:{n}")),
            hash: TokenHash::from_bytes(std::array::from_fn(|i| n.to_be_bytes()[i % 8])),
            expires_at: Timestamp::MAX,
        };
        let grants = |n| grant(&format!("token:{n}"), "main", Role::Terminator);
        let access =
            Access::new((0..20_000).map(token).collect(), (0..20_000).map(grants).collect());
        let (stranger, main) = (TokenHash::from_bytes([9; 32]), keyset("main"));
        let digest = access.digest();
        for n in 0..50_000 {
            assert_eq!(access.authenticate(&stranger, Timestamp::from_unix(0)), None);
            let who = principal(&format!("token:{n}")).into();
            assert_eq!(access.allows(&who, Role::Terminator, &main), n < 20_000);
            assert_eq!(access.digest(), digest);
        }
    }
}
