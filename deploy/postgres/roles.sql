-- Three roles for one database of stekd. Run once by an administrator who is connected to that
-- database, before the first `stekd migrate`; running it again changes nothing. Then
--
--     stekd migrate      as stekd_owner, now and at each upgrade
--     grants.sql         as stekd_owner, after each of these
--     stekd manager      as stekd_manager; `stekd token create --offline` too
--
-- No password is set here: give each role one (`\password stekd_manager`), or let it log in by
-- certificate or peer.

DO $$
DECLARE
    wanted name;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['stekd_owner', 'stekd_manager', 'stekd_auditor'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            EXECUTE format(
                'CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT NOREPLICATION',
                wanted
            );
        END IF;
    END LOOP;
    -- Nobody else comes in, and nobody makes temporary tables.
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format(
        'GRANT CONNECT ON DATABASE %I TO stekd_owner, stekd_manager, stekd_auditor',
        current_database()
    );
END
$$;

REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO stekd_owner;
GRANT USAGE ON SCHEMA public TO stekd_manager, stekd_auditor;

COMMENT ON ROLE stekd_owner IS 'Owns the tables of stekd; for stekd migrate alone.';
COMMENT ON ROLE stekd_manager IS 'What a running stekd manager is; owns nothing.';
COMMENT ON ROLE stekd_auditor IS 'Reads what was done and planned; no key, no token, no change.';
