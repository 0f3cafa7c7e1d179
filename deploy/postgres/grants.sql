-- What the roles of roles.sql may do with the tables that `stekd migrate` made. Run by stekd_owner
-- after each migration. Takes back first, so that it always ends the same.

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC, stekd_manager, stekd_auditor;

-- A manager reads all but the list of migrations, which is not its business.
GRANT SELECT ON schema_info, cluster, keysets, ticket_keys, tokens, grants, ratchet_seeds, audit
    TO stekd_manager;
-- It counts up, but never makes a new lineage of the database nor changes the identity of this one.
GRANT UPDATE (revision, access_revision, audit_sequence, audit_head) ON cluster TO stekd_manager;
GRANT INSERT, UPDATE, DELETE ON keysets TO stekd_manager;
-- Of a key it may move the schedule and erase the material; not what the key is, nor its latest end.
GRANT INSERT, DELETE ON ticket_keys TO stekd_manager;
GRANT UPDATE (activate_at, retire_at, destroy_at, wrap_nonce, wrap_ciphertext, ended_at, end_cause)
    ON ticket_keys TO stekd_manager;
GRANT INSERT, DELETE ON tokens, grants TO stekd_manager;
GRANT INSERT ON ratchet_seeds TO stekd_manager;
-- The trail is only added to.
GRANT INSERT ON audit TO stekd_manager;

-- An auditor sees schedules, principals and the trail; no wrapped key and no hash of a token.
GRANT SELECT ON schema_info, cluster, keysets, grants, ratchet_seeds, ratchet_replicas, audit
    TO stekd_auditor;
GRANT SELECT (id, keyset_id, format, kcv, published_at, activate_at, retire_at, destroy_at,
        destroy_by, seed_id, epoch, ended_at, end_cause)
    ON ticket_keys TO stekd_auditor;
GRANT SELECT (id, principal, expires_at) ON tokens TO stekd_auditor;
