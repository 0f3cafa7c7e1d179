-- The passwords of docker-compose.yml for the roles of deploy/postgres/roles.sql; a script for psql.
\set owner `cat /secrets/postgres/stekd_owner`
\set manager `cat /secrets/postgres/stekd_manager`
ALTER ROLE stekd_owner PASSWORD :'owner';
ALTER ROLE stekd_manager PASSWORD :'manager';
