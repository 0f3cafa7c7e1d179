//! What documents look like that no type of ours mirrors, as JSON Schema: those with keys, which are
//! written and read by hand, and requests. Descriptions only; golden files and tests hold them
//! against what is written and read. Answers of the admin API describe themselves.
#![allow(dead_code, reason = "the shape of these types is what they are for")]

use schemars::JsonSchema;

/// A string of some form.
macro_rules! text {
    ($($(#[$meta:meta])* $name:ident;)*) => {$(
        #[derive(JsonSchema)]
        #[schemars(inline)]
        $(#[$meta])*
        pub struct $name(String);
    )*};
}

text! {
    /// 1 to 63 of `a-z 0-9 - . _`, beginning with a letter or digit.
    #[schemars(extend("pattern" = r"^[a-z0-9][a-z0-9._-]{0,62}$"), example = &"main")]
    KeysetName;
    /// A keyset's name, or `*` for all.
    #[schemars(extend("pattern" = r"^(\*|[a-z0-9][a-z0-9._-]{0,62})$"), example = &"*", example = &"main")]
    KeysetSelector;
    /// 1 to 512 visible ASCII characters, without `*`.
    #[schemars(extend("pattern" = r"^[!-)+-~]{1,512}$"), example = &"token:edge-7")]
    Principal;
    /// A principal, or a pattern with `*` for a whole segment of a URI's path or label of a DNS name.
    #[schemars(extend("pattern" = r"^[!-~]{1,512}$"), example = &"spiffe://example.org/edge/*")]
    PrincipalPattern;
    /// 1 to 128 visible ASCII characters.
    #[schemars(extend("pattern" = r"^[!-~]{1,128}$"), example = &"edge-7")]
    InstanceName;
    /// A UUID.
    #[schemars(extend("format" = "uuid"))]
    Uuid;
    /// 16 hexadecimal digits.
    #[schemars(extend("pattern" = "^[0-9a-f]{16}$"))]
    Digest;
    /// 64 hexadecimal digits.
    #[schemars(extend("pattern" = "^[0-9a-f]{64}$"))]
    Hash;
    /// An RFC 3339 instant in UTC and whole seconds, between 1970 and 9999.
    #[schemars(
        extend("pattern" = r"^(19[7-9][0-9]|[2-9][0-9]{3})-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"),
        extend("format" = "date-time")
    )]
    Instant;
    /// A ticket key: base64 of 32 bytes, with padding. Never log, store or cache it.
    #[schemars(
        extend("pattern" = r"^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$"),
        extend("contentEncoding" = "base64", "x-secret" = true)
    )]
    Secret;
    /// 32 random bytes in base64, drawn for this request.
    #[schemars(extend("pattern" = r"^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$"), extend("contentEncoding" = "base64"))]
    Challenge;
    /// What is installed or there: `"<incarnation>.<revision>.<digest>"`, the quotes included.
    #[schemars(extend("pattern" = r#"^"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.(0|[1-9][0-9]*)\.[0-9a-f]{16}"$"#))]
    EntityTag;
    /// Fleet time at the instant of sending, Unix milliseconds.
    #[schemars(extend("pattern" = "^[0-9]{1,15}$"))]
    StekTime;
    /// How long before sending the database was last read, milliseconds.
    #[schemars(extend("pattern" = "^[0-9]{1,15}$"))]
    ReadAge;
    /// One or more entity tags, or `*`. The first says what is installed. What cannot be read counts
    /// as absent.
    #[schemars(example = &"\"01a0c450-6c00-7707-8707-070707070707.42.98bcf05dd730e4be\"")]
    IfNoneMatch;
    /// `wait=N` (RFC 7240): up to N seconds, and no more than 55. What cannot be read is ignored.
    #[schemars(example = &"wait=5")]
    Prefer;
    /// Why, for the audit trail: 1 to 256 bytes without control characters, and not only white space.
    #[schemars(extend("pattern" = r"^[!-~]([ -~]{0,254}[!-~])?$"), example = &"a core dump left the house")]
    Reason;
}

/// Whom the activation of a key waits for.
#[derive(JsonSchema)]
#[schemars(inline, rename_all = "lowercase")]
pub enum Quorum {
    /// All instances that have polled twice since the key was published and still lack it.
    All,
    /// Nobody.
    Off,
}

/// What a principal may do with a keyset.
#[derive(JsonSchema)]
#[schemars(inline, rename_all = "lowercase")]
enum Role {
    Terminator,
    Distribution,
    Operator,
    Auditor,
    Manager,
}

/// How far a wall clock is ahead of fleet time, in milliseconds.
#[derive(JsonSchema)]
#[schemars(inline)]
pub struct ClockOffset(#[schemars(range(min = -86400000, max = 86400000))] i32);

/// The version of a document, 1.
#[derive(JsonSchema)]
#[schemars(inline)]
struct Version(#[schemars(range(min = 1, max = 1))] u64);

/// The content of one keyset at one revision, with its secrets.
#[derive(JsonSchema)]
pub struct Bundle {
    version: Version,
    keyset: KeysetName,
    /// The lineage of the database; a later one has a greater identity.
    incarnation: Uuid,
    /// Only rises within an incarnation.
    revision: u64,
    /// Tells two contents under one revision apart.
    digest: Digest,
    policy: BundlePolicy,
    /// The live keys by activation.
    #[schemars(length(max = 256))]
    keys: Vec<BundleKey>,
    /// The keys that ended not long ago.
    #[schemars(length(max = 256))]
    ended: Vec<BundleEndedKey>,
}

/// What a terminator goes by.
#[derive(JsonSchema)]
struct BundlePolicy {
    /// How long one key seals.
    #[schemars(range(min = 10, max = 86400))]
    rotation_period_seconds: u64,
    /// How long a ticket opens.
    #[schemars(range(min = 10, max = 604800))]
    ticket_lifetime_seconds: u64,
    /// How often to ask, and the longest back-off.
    #[schemars(range(min = 1, max = 300))]
    poll_interval_seconds: u64,
    /// How far apart clocks may be.
    #[schemars(range(min = 1, max = 600))]
    clock_skew_seconds: u64,
    /// How long before activation a key is published.
    lead_seconds: u64,
    /// The longest time since a full handshake that a chain of resumptions may last.
    #[schemars(range(max = 604800))]
    session_lifetime_seconds: u64,
}

/// A ticket key with its schedule.
#[derive(JsonSchema)]
struct BundleKey {
    id: Uuid,
    /// How tickets under it look; 1.
    format: u16,
    /// Its check value.
    kcv: Digest,
    published_at: Instant,
    activate_at: Instant,
    retire_at: Instant,
    destroy_at: Instant,
    destroy_by: Instant,
    secret: Secret,
}

/// A key that ended.
#[derive(JsonSchema)]
struct BundleEndedKey {
    id: Uuid,
    kcv: Digest,
    cause: Cause,
    ended_at: Instant,
}

/// Why a key ended.
#[derive(JsonSchema)]
#[schemars(inline, rename_all = "lowercase")]
enum Cause {
    Expired,
    Revoked,
}

/// The bundles of all keysets that a follower may have, with tokens and grants; or what of it is
/// later than `since`.
#[derive(JsonSchema)]
pub struct Feed {
    version: Version,
    incarnation: Uuid,
    /// The newest of any keyset and of tokens and grants.
    revision: u64,
    /// Over the tokens and grants that the follower may see.
    access_digest: Digest,
    /// The revision that a difference starts from; null in a snapshot.
    since: Option<u64>,
    /// By name.
    keysets: Vec<Bundle>,
    tombstones: Vec<Tombstone>,
    /// When the manager last read tokens and grants.
    access_read_at: Instant,
    /// Null if the follower has them.
    access: Option<FeedAccess>,
}

/// A deleted keyset.
#[derive(JsonSchema)]
struct Tombstone {
    keyset: KeysetName,
    /// The revision that deleted it.
    revision: u64,
}

/// Tokens and grants, all that the follower may see.
#[derive(JsonSchema)]
struct FeedAccess {
    tokens: Vec<FeedToken>,
    grants: Vec<FeedGrant>,
}

/// A token without its secret.
#[derive(JsonSchema)]
struct FeedToken {
    id: Uuid,
    principal: Principal,
    /// SHA-256 of the token's 32 bytes.
    hash: Hash,
    expires_at: Instant,
}

/// Who may act in which role on which keysets.
#[derive(JsonSchema)]
struct FeedGrant {
    principal: PrincipalPattern,
    keysets: KeysetSelector,
    role: Role,
}

/// A replica's report of who holds which revision.
#[derive(JsonSchema)]
pub struct CheckIns {
    version: Version,
    #[schemars(length(max = 256))]
    replicas: Vec<CheckInReplica>,
}

/// What one replica counted.
#[derive(JsonSchema)]
struct CheckInReplica {
    /// Whose credential it used; null for the sender.
    principal: Option<Principal>,
    replica: InstanceName,
    /// How long before sending it counted, in milliseconds.
    age_ms: u64,
    incarnation: Uuid,
    /// Those that are polled there, each once.
    #[schemars(length(max = 20000))]
    keysets: Vec<CheckInKeyset>,
}

/// Who holds what of one keyset.
#[derive(JsonSchema)]
struct CheckInKeyset {
    keyset: KeysetName,
    /// The newest revision that the replica has to give.
    newest: u64,
    /// Newest first.
    #[schemars(length(max = 64))]
    holdings: Vec<CheckInHolding>,
    /// Those that hold least first.
    #[schemars(length(max = 100))]
    laggards: Vec<CheckInLaggard>,
    /// Instances that lag and are not counted.
    uncounted: u32,
}

/// How many hold a revision.
#[derive(JsonSchema)]
struct CheckInHolding {
    /// 0: nothing.
    revision: u64,
    instances: u32,
    /// The latest instant since which one of them has polled twice.
    twice_since: Option<Instant>,
}

/// An instance that lags.
#[derive(JsonSchema)]
struct CheckInLaggard {
    principal: Principal,
    instance: InstanceName,
    revision: u64,
    last_seen: Instant,
    #[schemars(range(min = -86400000, max = 86400000))]
    clock_offset_ms: Option<i32>,
}

/// Asks for a new keyset.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct CreateKeyset {
    name: KeysetName,
    /// What is left out takes its default.
    policy: Option<PolicyFields>,
}

/// Asks for another policy of a keyset.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ChangePolicy {
    /// What is left out keeps its value.
    policy: PolicyFields,
}

/// Fields of a policy. Relations between them hold too: the lead is at least four poll intervals and
/// two clock skews, and at most three rotation periods; the session lifetime at least the ticket
/// lifetime; and no more than 200 keys may be live.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, example = serde_json::json!({"rotation_period_seconds": 3600}))]
struct PolicyFields {
    /// How long one key seals.
    #[schemars(range(min = 10, max = 86400))]
    rotation_period_seconds: Option<u64>,
    /// How long a ticket opens after it was issued.
    #[schemars(range(min = 10, max = 604800))]
    ticket_lifetime_seconds: Option<u64>,
    /// How often a terminator asks.
    #[schemars(range(min = 1, max = 300))]
    poll_interval_seconds: Option<u64>,
    /// How far apart clocks may be.
    #[schemars(range(min = 1, max = 600))]
    clock_skew_seconds: Option<u64>,
    /// How long before activation a key is published.
    #[schemars(range(max = 259200))]
    lead_seconds: Option<u64>,
    /// The longest time since a full handshake that a chain of resumptions may last.
    #[schemars(range(max = 604800))]
    session_lifetime_seconds: Option<u64>,
    activation_quorum: Option<Quorum>,
    /// How much later than planned a key may activate because instances lack it.
    #[schemars(range(max = 259200))]
    activation_deadline_seconds: Option<u64>,
}

/// Asks for keys of a keyset to be forbidden at once.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct RevokeKeys {
    reason: Reason,
    /// This key alone; every key if left out.
    key: Option<Uuid>,
    /// Whether to answer with the cost and change nothing.
    dry_run: Option<bool>,
}

/// Asks for a new token. Whoever asks draws the secret; only its hash travels.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct CreateToken {
    /// The principal that its bearer will be.
    principal: Principal,
    /// SHA-256 of the token's 32 bytes.
    hash: Hash,
    /// In the future, at most 3650 days ahead.
    expires_at: Instant,
    #[schemars(length(max = 100))]
    grants: Vec<TokenGrant>,
}

/// What the bearer of a new token may do.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct TokenGrant {
    keysets: KeysetSelector,
    role: Role,
}

/// A grant: who may act in which role on which keysets.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Grant {
    principal: PrincipalPattern,
    keysets: KeysetSelector,
    role: Role,
}

/// Asks a manager for the state of a ratchet.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Join {
    /// Which copy of the ratchet the state is for.
    replica: Uuid,
    /// Of which seed.
    seed: Uuid,
    challenge: Challenge,
}

#[cfg(test)]
mod tests;
