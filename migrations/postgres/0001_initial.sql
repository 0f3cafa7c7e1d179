-- Keysets, their ticket keys, who may use them, and the trail of every change. Instants are whole
-- seconds; a key's state is derived from them and the time, and never stored.

CREATE TABLE schema_info (
    only_row boolean PRIMARY KEY DEFAULT true CONSTRAINT schema_info_one_row CHECK (only_row),
    version bigint NOT NULL,
    readable_from bigint NOT NULL,
    CONSTRAINT schema_info_order CHECK (1 <= readable_from AND readable_from <= version)
);
COMMENT ON TABLE schema_info IS 'Which programs can use this schema; one row.';
COMMENT ON COLUMN schema_info.only_row IS 'Always true: keeps the table at one row.';
COMMENT ON COLUMN schema_info.version IS 'The version of this schema.';
COMMENT ON COLUMN schema_info.readable_from IS
    'The oldest version that a program may have been made for and still use this schema.';
INSERT INTO schema_info (version, readable_from) VALUES (1, 1);

CREATE TABLE cluster (
    only_row boolean PRIMARY KEY DEFAULT true CONSTRAINT cluster_one_row CHECK (only_row),
    incarnation uuid NOT NULL,
    revision bigint NOT NULL DEFAULT 0,
    access_revision bigint NOT NULL DEFAULT 0,
    audit_sequence bigint NOT NULL DEFAULT 0,
    audit_head bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    CONSTRAINT cluster_revisions CHECK (0 <= access_revision AND access_revision <= revision),
    CONSTRAINT cluster_audit_sequence CHECK (0 <= audit_sequence),
    CONSTRAINT cluster_audit_head_length CHECK (octet_length(audit_head) = 32)
);
COMMENT ON TABLE cluster IS
    'One row that every commit takes last, so that revisions become visible in their order.';
COMMENT ON COLUMN cluster.only_row IS 'Always true: keeps the table at one row.';
COMMENT ON COLUMN cluster.incarnation IS
    'UUIDv7 of this lineage of the database, made by the program that first migrated it.';
COMMENT ON COLUMN cluster.revision IS 'The newest revision; each commit raises it by one.';
COMMENT ON COLUMN cluster.access_revision IS 'The newest revision that changed tokens or grants.';
COMMENT ON COLUMN cluster.audit_sequence IS 'How many links the audit chain has.';
COMMENT ON COLUMN cluster.audit_head IS 'The newest link of the audit chain; zeros before the first.';

CREATE TABLE keysets (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    rotation_period_seconds bigint NOT NULL,
    ticket_lifetime_seconds bigint NOT NULL,
    poll_interval_seconds bigint NOT NULL,
    clock_skew_seconds bigint NOT NULL,
    lead_seconds bigint NOT NULL,
    session_lifetime_seconds bigint NOT NULL,
    activation_quorum text NOT NULL,
    activation_deadline_seconds bigint NOT NULL,
    had_keys boolean NOT NULL DEFAULT false,
    revision bigint NOT NULL DEFAULT 0,
    content_digest bytea NOT NULL,
    next_due timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    deleted_at timestamptz,
    deleted_revision bigint,
    CONSTRAINT keysets_name_form CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
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
    CONSTRAINT keysets_revision CHECK (0 <= revision),
    CONSTRAINT keysets_content_digest_length CHECK (octet_length(content_digest) = 8),
    CONSTRAINT keysets_whole_seconds
        CHECK (next_due = date_trunc('second', next_due)
               AND created_at = date_trunc('second', created_at)
               AND deleted_at = date_trunc('second', deleted_at)),
    CONSTRAINT keysets_deleted_together
        CHECK ((deleted_at IS NULL) = (deleted_revision IS NULL)
               AND (deleted_revision IS NULL OR deleted_revision = revision))
);
CREATE UNIQUE INDEX keysets_name_unique ON keysets (name) WHERE deleted_at IS NULL;
CREATE INDEX keysets_due ON keysets (next_due, id) WHERE deleted_at IS NULL;
CREATE INDEX keysets_revision_order ON keysets (revision);
COMMENT ON TABLE keysets IS
    'Keysets and their policies; a deleted one stays as a tombstone until it is purged.';
COMMENT ON COLUMN keysets.id IS 'Order in which commits lock keysets; never leaves the database.';
COMMENT ON COLUMN keysets.name IS 'Its name, ordered by bytes; unique among those not deleted.';
COMMENT ON COLUMN keysets.rotation_period_seconds IS 'How long one key seals.';
COMMENT ON COLUMN keysets.ticket_lifetime_seconds IS 'How long a ticket opens after it was issued.';
COMMENT ON COLUMN keysets.poll_interval_seconds IS 'How often a terminator asks.';
COMMENT ON COLUMN keysets.clock_skew_seconds IS 'How far apart two clocks of the fleet may be.';
COMMENT ON COLUMN keysets.lead_seconds IS 'How long before activation a key is published.';
COMMENT ON COLUMN keysets.session_lifetime_seconds IS
    'The longest time since a full handshake that a chain of resumptions may last.';
COMMENT ON COLUMN keysets.activation_quorum IS
    'Whom the activation of a key waits for: all instances that are known to lack it, or nobody.';
COMMENT ON COLUMN keysets.activation_deadline_seconds IS
    'How much later than planned a key may activate because instances lack it.';
COMMENT ON COLUMN keysets.had_keys IS 'Whether it ever had a key, even if all are forgotten.';
COMMENT ON COLUMN keysets.revision IS
    'The revision of its published content; 0 only within the transaction that creates it.';
COMMENT ON COLUMN keysets.content_digest IS 'The digest of that content, as it was published.';
COMMENT ON COLUMN keysets.next_due IS 'When the planner must look at it next.';
COMMENT ON COLUMN keysets.created_at IS 'When it was created.';
COMMENT ON COLUMN keysets.deleted_at IS 'When it was deleted, if it was.';
COMMENT ON COLUMN keysets.deleted_revision IS 'The revision that deleted it.';

CREATE TABLE ticket_keys (
    id uuid PRIMARY KEY,
    keyset_id bigint NOT NULL
        CONSTRAINT ticket_keys_keyset REFERENCES keysets (id) ON DELETE CASCADE,
    format integer NOT NULL,
    kcv bytea NOT NULL,
    published_at timestamptz NOT NULL,
    activate_at timestamptz NOT NULL,
    retire_at timestamptz NOT NULL,
    destroy_at timestamptz NOT NULL,
    destroy_by timestamptz NOT NULL,
    postponed_seconds bigint NOT NULL,
    seed_id uuid NOT NULL,
    epoch bigint NOT NULL,
    wrap_nonce bytea,
    wrap_ciphertext bytea,
    ended_at timestamptz,
    end_cause text,
    proven_at timestamptz,
    CONSTRAINT ticket_keys_format CHECK (format BETWEEN 1 AND 65535),
    CONSTRAINT ticket_keys_kcv_length CHECK (octet_length(kcv) = 8),
    CONSTRAINT ticket_keys_kcv_unique UNIQUE (keyset_id, kcv),
    CONSTRAINT ticket_keys_schedule_order
        CHECK (published_at <= activate_at AND activate_at < retire_at
               AND retire_at < destroy_at AND destroy_at <= destroy_by),
    CONSTRAINT ticket_keys_postponed CHECK (0 <= postponed_seconds),
    CONSTRAINT ticket_keys_whole_seconds
        CHECK (published_at = date_trunc('second', published_at)
               AND activate_at = date_trunc('second', activate_at)
               AND retire_at = date_trunc('second', retire_at)
               AND destroy_at = date_trunc('second', destroy_at)
               AND destroy_by = date_trunc('second', destroy_by)
               AND ended_at = date_trunc('second', ended_at)
               AND proven_at = date_trunc('second', proven_at)),
    CONSTRAINT ticket_keys_epoch CHECK (0 <= epoch),
    CONSTRAINT ticket_keys_wrap_nonce_length CHECK (octet_length(wrap_nonce) = 12),
    CONSTRAINT ticket_keys_wrap_ciphertext_length CHECK (octet_length(wrap_ciphertext) = 48),
    CONSTRAINT ticket_keys_erased_if_ended
        CHECK ((ended_at IS NULL) = (wrap_nonce IS NOT NULL)
               AND (ended_at IS NULL) = (wrap_ciphertext IS NOT NULL)),
    CONSTRAINT ticket_keys_ended_together CHECK ((ended_at IS NULL) = (end_cause IS NULL)),
    CONSTRAINT ticket_keys_end_cause CHECK (end_cause IN ('expired', 'revoked')),
    CONSTRAINT ticket_keys_proven_if_ended CHECK (proven_at IS NULL OR ended_at IS NOT NULL),
    CONSTRAINT ticket_keys_encrypt_periods_disjoint
        EXCLUDE USING gist (
            int8range(keyset_id, keyset_id, '[]') WITH =,
            tstzrange(activate_at, retire_at) WITH &&
        ) WHERE (ended_at IS NULL) DEFERRABLE INITIALLY DEFERRED
);
CREATE INDEX ticket_keys_live ON ticket_keys (keyset_id) WHERE ended_at IS NULL;
CREATE INDEX ticket_keys_ended ON ticket_keys (keyset_id, ended_at DESC, id DESC)
    WHERE ended_at IS NOT NULL;
CREATE INDEX ticket_keys_forgettable ON ticket_keys (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX ticket_keys_unproven ON ticket_keys (epoch)
    WHERE ended_at IS NOT NULL AND proven_at IS NULL;
CREATE INDEX ticket_keys_wrapped ON ticket_keys (seed_id) WHERE ended_at IS NULL;
COMMENT ON TABLE ticket_keys IS 'Ticket keys: live ones encrypted, ended ones without material.';
COMMENT ON COLUMN ticket_keys.id IS 'Its identity, a UUIDv7.';
COMMENT ON COLUMN ticket_keys.keyset_id IS 'The keyset it belongs to.';
COMMENT ON COLUMN ticket_keys.format IS 'How tickets under it look.';
COMMENT ON COLUMN ticket_keys.kcv IS 'Its key check value; safe to show.';
COMMENT ON COLUMN ticket_keys.published_at IS 'When it was given out; it opens from then on.';
COMMENT ON COLUMN ticket_keys.activate_at IS 'When it begins to seal.';
COMMENT ON COLUMN ticket_keys.retire_at IS 'When it ceases to seal.';
COMMENT ON COLUMN ticket_keys.destroy_at IS 'When it ceases to open and is erased.';
COMMENT ON COLUMN ticket_keys.destroy_by IS 'The last instant to which destroy_at may be moved.';
COMMENT ON COLUMN ticket_keys.postponed_seconds IS
    'By how much destroy_at has been postponed since it was minted.';
COMMENT ON COLUMN ticket_keys.seed_id IS
    'The seed of the ratchet it is wrapped under. No reference: it outlives the row of a seed.';
COMMENT ON COLUMN ticket_keys.epoch IS 'The last epoch of the ratchet in which it can be unwrapped.';
COMMENT ON COLUMN ticket_keys.wrap_nonce IS 'Nonce of the wrapping; null exactly if it has ended.';
COMMENT ON COLUMN ticket_keys.wrap_ciphertext IS
    'The encrypted key with its tag; null exactly if it has ended.';
COMMENT ON COLUMN ticket_keys.ended_at IS 'When it ended, if it has.';
COMMENT ON COLUMN ticket_keys.end_cause IS 'Why it ended: expired or revoked.';
COMMENT ON COLUMN ticket_keys.proven_at IS
    'When every known manager had passed its epoch, or erased its seed.';

CREATE TABLE tokens (
    id uuid PRIMARY KEY,
    principal text NOT NULL,
    hash bytea NOT NULL CONSTRAINT tokens_hash_unique UNIQUE,
    expires_at timestamptz NOT NULL,
    seal bytea NOT NULL,
    CONSTRAINT tokens_principal_form CHECK (principal ~ '^[!-~]+$' AND length(principal) <= 512),
    CONSTRAINT tokens_hash_length CHECK (octet_length(hash) = 32),
    CONSTRAINT tokens_whole_seconds CHECK (expires_at = date_trunc('second', expires_at)),
    CONSTRAINT tokens_seal_length CHECK (octet_length(seal) = 32)
);
COMMENT ON TABLE tokens IS 'Bearer tokens, of which only a hash is kept.';
COMMENT ON COLUMN tokens.id IS 'Its identity, for listing and revoking.';
COMMENT ON COLUMN tokens.principal IS 'Who its bearer is.';
COMMENT ON COLUMN tokens.hash IS 'SHA-256 of its 32 bytes.';
COMMENT ON COLUMN tokens.expires_at IS 'From when on it is refused.';
COMMENT ON COLUMN tokens.seal IS
    'MAC over the other columns under a key outside the database: writing a row grants nothing.';

CREATE TABLE grants (
    principal text COLLATE "C" NOT NULL,
    keysets text COLLATE "C" NOT NULL,
    role text COLLATE "C" NOT NULL,
    seal bytea NOT NULL,
    PRIMARY KEY (principal, keysets, role),
    CONSTRAINT grants_principal_form CHECK (principal ~ '^[!-~]+$' AND length(principal) <= 512),
    CONSTRAINT grants_keysets_form
        CHECK (keysets = '*' OR keysets ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    CONSTRAINT grants_role CHECK (role ~ '^[a-z-]{1,32}$'),
    CONSTRAINT grants_seal_length CHECK (octet_length(seal) = 32)
);
COMMENT ON TABLE grants IS 'Who may act in which role on which keysets; nothing else is allowed.';
COMMENT ON COLUMN grants.principal IS 'Who.';
COMMENT ON COLUMN grants.keysets IS 'On which keyset, or * for all. No reference: it may come later.';
COMMENT ON COLUMN grants.role IS 'In which role.';
COMMENT ON COLUMN grants.seal IS
    'MAC over the other columns under a key outside the database: writing a row grants nothing.';

CREATE TABLE ratchet_seeds (
    seed_id uuid PRIMARY KEY,
    check_value bytea NOT NULL,
    claimed_at timestamptz NOT NULL,
    phase text NOT NULL DEFAULT 'live',
    CONSTRAINT ratchet_seeds_check_value_length CHECK (octet_length(check_value) = 8),
    CONSTRAINT ratchet_seeds_phase CHECK (phase IN ('offered', 'live', 'retiring', 'ended')),
    CONSTRAINT ratchet_seeds_whole_seconds CHECK (claimed_at = date_trunc('second', claimed_at))
);
CREATE UNIQUE INDEX ratchet_seeds_one_live ON ratchet_seeds (phase) WHERE phase = 'live';
CREATE UNIQUE INDEX ratchet_seeds_one_reseed ON ratchet_seeds ((true))
    WHERE phase IN ('offered', 'retiring');
COMMENT ON TABLE ratchet_seeds IS
    'Seeds of the ratchet by identity, never by value; at most one of them is live, and at most one '
    'is on its way to being so or to its end.';
COMMENT ON COLUMN ratchet_seeds.seed_id IS 'Its identity.';
COMMENT ON COLUMN ratchet_seeds.check_value IS
    'Derived from seed and cluster secret; tells a wrong state or secret from the right one.';
COMMENT ON COLUMN ratchet_seeds.claimed_at IS 'When it was claimed for this cluster.';
COMMENT ON COLUMN ratchet_seeds.phase IS
    'offered: managers fetch it; live: keys are wrapped under it; retiring: its keys are being '
    're-wrapped; ended: managers erase it.';

CREATE TABLE ratchet_replicas (
    replica_id uuid PRIMARY KEY,
    seed_id uuid NOT NULL
        CONSTRAINT ratchet_replicas_seed REFERENCES ratchet_seeds (seed_id) ON DELETE CASCADE,
    next_seed_id uuid
        CONSTRAINT ratchet_replicas_next_seed REFERENCES ratchet_seeds (seed_id) ON DELETE SET NULL,
    epoch bigint NOT NULL,
    seen_at timestamptz NOT NULL,
    CONSTRAINT ratchet_replicas_epoch CHECK (0 <= epoch),
    CONSTRAINT ratchet_replicas_whole_seconds CHECK (seen_at = date_trunc('second', seen_at))
);
COMMENT ON TABLE ratchet_replicas IS 'Which managers hold a state of the ratchet, and how far it is.';
COMMENT ON COLUMN ratchet_replicas.replica_id IS 'The identity of the manager''s state file.';
COMMENT ON COLUMN ratchet_replicas.seed_id IS 'The seed whose state it holds.';
COMMENT ON COLUMN ratchet_replicas.next_seed_id IS
    'The seed whose state it holds beside that one while seeds change.';
COMMENT ON COLUMN ratchet_replicas.epoch IS 'The epoch its states have reached.';
COMMENT ON COLUMN ratchet_replicas.seen_at IS 'When it last said so.';

CREATE TABLE audit (
    sequence bigint PRIMARY KEY,
    revision bigint NOT NULL,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    keyset text,
    key_id uuid,
    reason text NOT NULL,
    link bytea NOT NULL,
    CONSTRAINT audit_sequence CHECK (1 <= sequence),
    CONSTRAINT audit_revision CHECK (1 <= revision),
    CONSTRAINT audit_whole_seconds CHECK (at = date_trunc('second', at)),
    CONSTRAINT audit_text_length CHECK (octet_length(actor) <= 512 AND octet_length(reason) <= 512),
    CONSTRAINT audit_link_length CHECK (octet_length(link) = 32)
);
COMMENT ON TABLE audit IS 'What was done, as links of a chain; written with the change itself.';
COMMENT ON COLUMN audit.sequence IS 'Its place in the chain, from 1, without gaps.';
COMMENT ON COLUMN audit.revision IS 'The revision of the transaction that wrote it.';
COMMENT ON COLUMN audit.at IS 'When it was decided.';
COMMENT ON COLUMN audit.actor IS 'Who did it.';
COMMENT ON COLUMN audit.action IS 'What was done.';
COMMENT ON COLUMN audit.keyset IS 'To which keyset, by the name it had.';
COMMENT ON COLUMN audit.key_id IS 'To which key.';
COMMENT ON COLUMN audit.reason IS 'Why.';
COMMENT ON COLUMN audit.link IS
    'MAC over the link before and all other columns under a key outside the database.';

CREATE TABLE audit_checkpoint (
    only_row boolean PRIMARY KEY DEFAULT true CONSTRAINT audit_checkpoint_one_row CHECK (only_row),
    sequence bigint NOT NULL,
    link bytea NOT NULL,
    seal bytea NOT NULL,
    CONSTRAINT audit_checkpoint_sequence CHECK (1 <= sequence),
    CONSTRAINT audit_checkpoint_link_length CHECK (octet_length(link) = 32),
    CONSTRAINT audit_checkpoint_seal_length CHECK (octet_length(seal) = 32)
);
COMMENT ON TABLE audit_checkpoint IS
    'Up to where the audit trail was removed because of its age; one row, if it ever was.';
COMMENT ON COLUMN audit_checkpoint.only_row IS 'Always true: keeps the table at one row.';
COMMENT ON COLUMN audit_checkpoint.sequence IS 'The last line that was removed.';
COMMENT ON COLUMN audit_checkpoint.link IS 'Its link, from which the rest of the chain is verified.';
COMMENT ON COLUMN audit_checkpoint.seal IS
    'MAC over the other columns under a key outside the database.';

CREATE TABLE audit_hand_overs (
    sequence bigint PRIMARY KEY,
    link bytea NOT NULL,
    "before" bytea NOT NULL,
    seal bytea NOT NULL,
    CONSTRAINT audit_hand_overs_sequence CHECK (1 <= sequence),
    CONSTRAINT audit_hand_overs_link_length CHECK (octet_length(link) = 32),
    CONSTRAINT audit_hand_overs_before_length CHECK (octet_length("before") = 32),
    CONSTRAINT audit_hand_overs_seal_length CHECK (octet_length(seal) = 32)
);
COMMENT ON TABLE audit_hand_overs IS
    'Where the audit trail went over from one cluster secret to the next.';
COMMENT ON COLUMN audit_hand_overs.sequence IS
    'The line up to which there may be links under the secret before.';
COMMENT ON COLUMN audit_hand_overs.link IS
    'Its link, from which the next secret alone verifies the rest of the chain.';
COMMENT ON COLUMN audit_hand_overs."before" IS 'Tells which secret was the one before.';
COMMENT ON COLUMN audit_hand_overs.seal IS
    'MAC over the other columns under a key outside the database.';
