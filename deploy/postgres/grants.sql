-- What the roles of roles.sql may do with the tables that `stekd migrate` made. Run by stekd_owner
-- after each migration. Takes back first, so that it always ends the same, and at once, so that no
-- running manager is without its rights meanwhile.

\set ON_ERROR_STOP on

BEGIN;

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC, stekd_manager, stekd_auditor;

-- A manager reads all but the list of migrations, which is not its business.
GRANT SELECT ON schema_info, cluster, keysets, ticket_keys, tokens, grants, ratchet_seeds,
    ratchet_replicas, audit, audit_checkpoint, audit_hand_overs
    TO stekd_manager;
-- It counts up; the lineage changes when a restored database is accepted.
GRANT UPDATE (incarnation, revision, access_revision, audit_sequence, audit_head) ON cluster
    TO stekd_manager;
GRANT INSERT, UPDATE, DELETE ON keysets TO stekd_manager;
-- Of a key it may move the schedule, wrap the material anew, erase it and note that it is beyond
-- recovery; not what the key is, nor its latest end.
GRANT INSERT, DELETE ON ticket_keys TO stekd_manager;
GRANT UPDATE (activate_at, retire_at, destroy_at, postponed_seconds, seed_id, epoch, wrap_nonce,
        wrap_ciphertext, ended_at, end_cause, proven_at)
    ON ticket_keys TO stekd_manager;
-- Tokens and grants come and go; of one that is there only the seal is exchanged.
GRANT INSERT, DELETE, UPDATE (seal) ON tokens TO stekd_manager;
GRANT INSERT, DELETE, UPDATE (seal) ON grants TO stekd_manager;
-- Seeds go from phase to phase and stay; managers come, report and are forgotten.
GRANT INSERT, UPDATE (check_value, phase) ON ratchet_seeds TO stekd_manager;
GRANT INSERT, DELETE, UPDATE (seed_id, next_seed_id, epoch, seen_at) ON ratchet_replicas
    TO stekd_manager;
-- The trail is added to, and loses its oldest lines; no line is changed. Lines that are missing without
-- a sealed checkpoint are found by `stekd audit verify`.
GRANT INSERT, DELETE ON audit TO stekd_manager;
GRANT INSERT, UPDATE (sequence, link, seal) ON audit_checkpoint TO stekd_manager;
GRANT INSERT, DELETE, UPDATE (seal) ON audit_hand_overs TO stekd_manager;

-- An auditor sees schedules, principals and the trail; no wrapped key and no hash of a token.
GRANT SELECT ON schema_info, cluster, keysets, grants, ratchet_seeds, ratchet_replicas, audit,
    audit_checkpoint, audit_hand_overs
    TO stekd_auditor;
GRANT SELECT (id, keyset_id, format, kcv, published_at, activate_at, retire_at, destroy_at,
        destroy_by, postponed_seconds, seed_id, epoch, ended_at, end_cause, proven_at)
    ON ticket_keys TO stekd_auditor;
GRANT SELECT (id, principal, expires_at) ON tokens TO stekd_auditor;

COMMIT;
