-- Keysets, their ticket keys, who may use them, and the trail of every change. Instants are whole
-- seconds since the Unix epoch; a key's state is derived from them and the time, and never stored.
-- That encrypt periods do not overlap is checked by each commit: SQLite has no such constraint that
-- could wait for the end of a transaction.

-- Which programs can use this schema; one row.
CREATE TABLE schema_info (
    -- Always 1: keeps the table at one row.
    only_row INTEGER PRIMARY KEY CONSTRAINT schema_info_one_row CHECK (only_row = 1),
    -- The version of this schema.
    version INTEGER NOT NULL,
    -- The oldest version that a program may have been made for and still use this schema.
    readable_from INTEGER NOT NULL,
    CONSTRAINT schema_info_order CHECK (1 <= readable_from AND readable_from <= version)
) STRICT;
INSERT INTO schema_info (only_row, version, readable_from) VALUES (1, 1, 1);

-- One row that every commit takes last.
CREATE TABLE cluster (
    -- Always 1: keeps the table at one row.
    only_row INTEGER PRIMARY KEY CONSTRAINT cluster_one_row CHECK (only_row = 1),
    -- UUIDv7 of this lineage of the database, made by the program that first migrated it.
    incarnation BLOB NOT NULL,
    -- The newest revision; each commit raises it by one.
    revision INTEGER NOT NULL DEFAULT 0,
    -- The newest revision that changed tokens or grants.
    access_revision INTEGER NOT NULL DEFAULT 0,
    -- How many links the audit chain has.
    audit_sequence INTEGER NOT NULL DEFAULT 0,
    -- The newest link of the audit chain; zeros before the first.
    audit_head BLOB NOT NULL DEFAULT (zeroblob(32)),
    CONSTRAINT cluster_incarnation_length CHECK (length(incarnation) = 16),
    CONSTRAINT cluster_revisions CHECK (0 <= access_revision AND access_revision <= revision),
    CONSTRAINT cluster_audit_sequence CHECK (0 <= audit_sequence),
    CONSTRAINT cluster_audit_head_length CHECK (length(audit_head) = 32)
) STRICT;

-- Keysets and their policies; a deleted one stays as a tombstone until it is purged.
CREATE TABLE keysets (
    -- Never leaves the database.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- Its name; unique among those that are not deleted.
    name TEXT NOT NULL,
    -- How long one key seals.
    rotation_period_seconds INTEGER NOT NULL,
    -- How long a ticket opens after it was issued.
    ticket_lifetime_seconds INTEGER NOT NULL,
    -- How often a terminator asks.
    poll_interval_seconds INTEGER NOT NULL,
    -- How far apart two clocks of the fleet may be.
    clock_skew_seconds INTEGER NOT NULL,
    -- How long before activation a key is published.
    lead_seconds INTEGER NOT NULL,
    -- The longest time since a full handshake that a chain of resumptions may last.
    session_lifetime_seconds INTEGER NOT NULL,
    -- Whom the activation of a key waits for: all instances that are known to lack it, or nobody.
    activation_quorum TEXT NOT NULL,
    -- How much later than planned a key may activate because instances lack it.
    activation_deadline_seconds INTEGER NOT NULL,
    -- Whether it ever had a key, even if all are forgotten.
    had_keys INTEGER NOT NULL DEFAULT 0,
    -- The revision of its published content; 0 only within the transaction that creates it.
    revision INTEGER NOT NULL DEFAULT 0,
    -- The digest of that content, as it was published.
    content_digest BLOB NOT NULL,
    -- When the planner must look at it next.
    next_due INTEGER NOT NULL,
    -- When it was created.
    created_at INTEGER NOT NULL,
    -- When it was deleted, if it was.
    deleted_at INTEGER,
    -- The revision that deleted it.
    deleted_revision INTEGER,
    CONSTRAINT keysets_name_form
        CHECK (length(name) BETWEEN 1 AND 63 AND name NOT GLOB '*[^a-z0-9._-]*'
               AND name GLOB '[a-z0-9]*'),
    CONSTRAINT keysets_rotation_period_limits
        CHECK (rotation_period_seconds BETWEEN 10 AND 86400),
    CONSTRAINT keysets_ticket_lifetime_limits
        CHECK (ticket_lifetime_seconds BETWEEN 10 AND 604800),
    CONSTRAINT keysets_poll_interval_limits CHECK (poll_interval_seconds BETWEEN 1 AND 300),
    CONSTRAINT keysets_clock_skew_limits CHECK (clock_skew_seconds BETWEEN 1 AND 600),
    CONSTRAINT keysets_lead_limits
        CHECK (lead_seconds BETWEEN 4 * poll_interval_seconds + 2 * clock_skew_seconds
                                AND 3 * rotation_period_seconds),
    CONSTRAINT keysets_session_lifetime_limits
        CHECK (session_lifetime_seconds BETWEEN ticket_lifetime_seconds AND 604800),
    CONSTRAINT keysets_activation_quorum CHECK (activation_quorum IN ('all', 'off')),
    CONSTRAINT keysets_activation_deadline_limits
        CHECK (activation_deadline_seconds
               BETWEEN poll_interval_seconds + clock_skew_seconds + 2 AND lead_seconds),
    CONSTRAINT keysets_planned_keys
        CHECK (lead_seconds + ticket_lifetime_seconds + clock_skew_seconds
               <= 200 * rotation_period_seconds),
    CONSTRAINT keysets_had_keys CHECK (had_keys IN (0, 1)),
    CONSTRAINT keysets_revision CHECK (0 <= revision),
    CONSTRAINT keysets_content_digest_length CHECK (length(content_digest) = 8),
    CONSTRAINT keysets_deleted_together
        CHECK ((deleted_at IS NULL) = (deleted_revision IS NULL)
               AND (deleted_revision IS NULL OR deleted_revision = revision))
) STRICT;
CREATE UNIQUE INDEX keysets_name_unique ON keysets (name) WHERE deleted_at IS NULL;
CREATE INDEX keysets_due ON keysets (next_due, id) WHERE deleted_at IS NULL;
CREATE INDEX keysets_revision_order ON keysets (revision);

-- Ticket keys: live ones encrypted, ended ones without material.
CREATE TABLE ticket_keys (
    -- Its identity, a UUIDv7.
    id BLOB PRIMARY KEY NOT NULL,
    -- The keyset it belongs to.
    keyset_id INTEGER NOT NULL
        CONSTRAINT ticket_keys_keyset REFERENCES keysets (id) ON DELETE CASCADE,
    -- How tickets under it look.
    format INTEGER NOT NULL,
    -- Its key check value; safe to show.
    kcv BLOB NOT NULL,
    -- When it was given out; it opens from then on.
    published_at INTEGER NOT NULL,
    -- When it begins to seal.
    activate_at INTEGER NOT NULL,
    -- When it ceases to seal.
    retire_at INTEGER NOT NULL,
    -- When it ceases to open and is erased.
    destroy_at INTEGER NOT NULL,
    -- The last instant to which destroy_at may be moved.
    destroy_by INTEGER NOT NULL,
    -- By how much destroy_at has been postponed since it was minted.
    postponed_seconds INTEGER NOT NULL,
    -- The seed of the ratchet it is wrapped under. No reference: it outlives the row of a seed.
    seed_id BLOB NOT NULL,
    -- The last epoch of the ratchet in which it can be unwrapped.
    epoch INTEGER NOT NULL,
    -- Nonce of the wrapping; null exactly if it has ended.
    wrap_nonce BLOB,
    -- The encrypted key with its tag; null exactly if it has ended.
    wrap_ciphertext BLOB,
    -- When it ended, if it has.
    ended_at INTEGER,
    -- Why it ended: expired or revoked.
    end_cause TEXT,
    -- When every known manager had passed its epoch, or erased its seed.
    proven_at INTEGER,
    CONSTRAINT ticket_keys_id_length CHECK (length(id) = 16),
    CONSTRAINT ticket_keys_format CHECK (format BETWEEN 1 AND 65535),
    CONSTRAINT ticket_keys_kcv_length CHECK (length(kcv) = 8),
    CONSTRAINT ticket_keys_kcv_unique UNIQUE (keyset_id, kcv),
    CONSTRAINT ticket_keys_schedule_order
        CHECK (published_at <= activate_at AND activate_at < retire_at
               AND retire_at < destroy_at AND destroy_at <= destroy_by),
    CONSTRAINT ticket_keys_postponed CHECK (0 <= postponed_seconds),
    CONSTRAINT ticket_keys_seed_id_length CHECK (length(seed_id) = 16),
    CONSTRAINT ticket_keys_epoch CHECK (0 <= epoch),
    CONSTRAINT ticket_keys_wrap_nonce_length CHECK (length(wrap_nonce) = 12),
    CONSTRAINT ticket_keys_wrap_ciphertext_length CHECK (length(wrap_ciphertext) = 48),
    CONSTRAINT ticket_keys_erased_if_ended
        CHECK ((ended_at IS NULL) = (wrap_nonce IS NOT NULL)
               AND (ended_at IS NULL) = (wrap_ciphertext IS NOT NULL)),
    CONSTRAINT ticket_keys_ended_together CHECK ((ended_at IS NULL) = (end_cause IS NULL)),
    CONSTRAINT ticket_keys_end_cause CHECK (end_cause IN ('expired', 'revoked')),
    CONSTRAINT ticket_keys_proven_if_ended CHECK (proven_at IS NULL OR ended_at IS NOT NULL)
) STRICT;
CREATE INDEX ticket_keys_live ON ticket_keys (keyset_id) WHERE ended_at IS NULL;
CREATE INDEX ticket_keys_ended ON ticket_keys (keyset_id, ended_at DESC, id DESC)
    WHERE ended_at IS NOT NULL;
CREATE INDEX ticket_keys_forgettable ON ticket_keys (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX ticket_keys_unproven ON ticket_keys (epoch)
    WHERE ended_at IS NOT NULL AND proven_at IS NULL;
CREATE INDEX ticket_keys_wrapped ON ticket_keys (seed_id) WHERE ended_at IS NULL;

-- Bearer tokens, of which only a hash is kept.
CREATE TABLE tokens (
    -- Its identity, for listing and revoking.
    id BLOB PRIMARY KEY NOT NULL,
    -- Who its bearer is.
    principal TEXT NOT NULL,
    -- SHA-256 of its 32 bytes.
    hash BLOB NOT NULL CONSTRAINT tokens_hash_unique UNIQUE,
    -- From when on it is refused.
    expires_at INTEGER NOT NULL,
    -- MAC over the other columns under a key outside the database: writing a row grants nothing.
    seal BLOB NOT NULL,
    CONSTRAINT tokens_id_length CHECK (length(id) = 16),
    CONSTRAINT tokens_principal_form
        CHECK (length(principal) BETWEEN 1 AND 512 AND principal NOT GLOB '*[^!-~]*'),
    CONSTRAINT tokens_hash_length CHECK (length(hash) = 32),
    CONSTRAINT tokens_seal_length CHECK (length(seal) = 32)
) STRICT;

-- Who may act in which role on which keysets; nothing else is allowed.
CREATE TABLE grants (
    -- Who.
    principal TEXT NOT NULL,
    -- On which keyset, or * for all. No reference: it may come later.
    keysets TEXT NOT NULL,
    -- In which role.
    role TEXT NOT NULL,
    -- MAC over the other columns under a key outside the database: writing a row grants nothing.
    seal BLOB NOT NULL,
    PRIMARY KEY (principal, keysets, role),
    CONSTRAINT grants_principal_form
        CHECK (length(principal) BETWEEN 1 AND 512 AND principal NOT GLOB '*[^!-~]*'),
    CONSTRAINT grants_keysets_form
        CHECK (keysets = '*' OR (length(keysets) BETWEEN 1 AND 63
               AND keysets NOT GLOB '*[^a-z0-9._-]*' AND keysets GLOB '[a-z0-9]*')),
    CONSTRAINT grants_role CHECK (length(role) BETWEEN 1 AND 32 AND role NOT GLOB '*[^a-z-]*'),
    CONSTRAINT grants_seal_length CHECK (length(seal) = 32)
) STRICT;

-- Seeds of the ratchet by identity, never by value; at most one of them is live, and at most one is on
-- its way to being so or to its end.
CREATE TABLE ratchet_seeds (
    -- Its identity.
    seed_id BLOB PRIMARY KEY NOT NULL,
    -- Derived from seed and cluster secret; tells a wrong state or secret from the right one.
    check_value BLOB NOT NULL,
    -- When it was claimed for this cluster.
    claimed_at INTEGER NOT NULL,
    -- offered: managers fetch it; live: keys are wrapped under it; retiring: its keys are being
    -- re-wrapped; ended: managers erase it.
    phase TEXT NOT NULL DEFAULT 'live',
    CONSTRAINT ratchet_seeds_id_length CHECK (length(seed_id) = 16),
    CONSTRAINT ratchet_seeds_check_value_length CHECK (length(check_value) = 8),
    CONSTRAINT ratchet_seeds_phase CHECK (phase IN ('offered', 'live', 'retiring', 'ended'))
) STRICT;
CREATE UNIQUE INDEX ratchet_seeds_one_live ON ratchet_seeds (phase) WHERE phase = 'live';
CREATE UNIQUE INDEX ratchet_seeds_one_reseed ON ratchet_seeds ((1))
    WHERE phase IN ('offered', 'retiring');

-- Which managers hold a state of the ratchet, and how far it is.
CREATE TABLE ratchet_replicas (
    -- The identity of the manager's state file.
    replica_id BLOB PRIMARY KEY NOT NULL,
    -- The seed whose state it holds.
    seed_id BLOB NOT NULL
        CONSTRAINT ratchet_replicas_seed REFERENCES ratchet_seeds (seed_id) ON DELETE CASCADE,
    -- The seed whose state it holds beside that one while seeds change.
    next_seed_id BLOB
        CONSTRAINT ratchet_replicas_next_seed REFERENCES ratchet_seeds (seed_id) ON DELETE SET NULL,
    -- The epoch its states have reached.
    epoch INTEGER NOT NULL,
    -- When it last said so.
    seen_at INTEGER NOT NULL,
    CONSTRAINT ratchet_replicas_id_length CHECK (length(replica_id) = 16),
    CONSTRAINT ratchet_replicas_epoch CHECK (0 <= epoch)
) STRICT;

-- What was done, as links of a chain; written with the change itself.
CREATE TABLE audit (
    -- Its place in the chain, from 1, without gaps.
    sequence INTEGER PRIMARY KEY,
    -- The revision of the transaction that wrote it.
    revision INTEGER NOT NULL,
    -- When it was decided.
    at INTEGER NOT NULL,
    -- Who did it.
    actor TEXT NOT NULL,
    -- What was done.
    action TEXT NOT NULL,
    -- To which keyset, by the name it had.
    keyset TEXT,
    -- To which key.
    key_id BLOB,
    -- Why.
    reason TEXT NOT NULL,
    -- MAC over the link before and all other columns under a key outside the database.
    link BLOB NOT NULL,
    CONSTRAINT audit_sequence CHECK (1 <= sequence),
    CONSTRAINT audit_revision CHECK (1 <= revision),
    CONSTRAINT audit_text_length
        CHECK (length(CAST(actor AS BLOB)) <= 512 AND length(CAST(reason AS BLOB)) <= 512),
    CONSTRAINT audit_key_id_length CHECK (length(key_id) = 16),
    CONSTRAINT audit_link_length CHECK (length(link) = 32)
) STRICT;

-- Up to where the audit trail was removed because of its age; one row, if it ever was.
CREATE TABLE audit_checkpoint (
    -- Always 1: keeps the table at one row.
    only_row INTEGER PRIMARY KEY CONSTRAINT audit_checkpoint_one_row CHECK (only_row = 1),
    -- The last line that was removed.
    sequence INTEGER NOT NULL,
    -- Its link, from which the rest of the chain is verified.
    link BLOB NOT NULL,
    -- MAC over the other columns under a key outside the database.
    seal BLOB NOT NULL,
    CONSTRAINT audit_checkpoint_sequence CHECK (1 <= sequence),
    CONSTRAINT audit_checkpoint_link_length CHECK (length(link) = 32),
    CONSTRAINT audit_checkpoint_seal_length CHECK (length(seal) = 32)
) STRICT;

-- Where the audit trail went over from one cluster secret to the next.
CREATE TABLE audit_hand_overs (
    -- The line up to which there may be links under the secret before.
    sequence INTEGER PRIMARY KEY NOT NULL,
    -- Its link, from which the next secret alone verifies the rest of the chain.
    link BLOB NOT NULL,
    -- Tells which secret was the one before.
    "before" BLOB NOT NULL,
    -- MAC over the other columns under a key outside the database.
    seal BLOB NOT NULL,
    CONSTRAINT audit_hand_overs_sequence CHECK (1 <= sequence),
    CONSTRAINT audit_hand_overs_link_length CHECK (length(link) = 32),
    CONSTRAINT audit_hand_overs_before_length CHECK (length("before") = 32),
    CONSTRAINT audit_hand_overs_seal_length CHECK (length(seal) = 32)
) STRICT;
