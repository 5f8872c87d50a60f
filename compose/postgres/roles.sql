-- The roles, made once, by PostgreSQL's own superuser, when its volume is new:
-- `transcription` owns the database, for migrations, backups and restores; what serves and
-- transcribes is `transcription_service`, which owns nothing. Migrations say what it may do.
\set owner_password `cat /run/secrets/postgres/owner_password`
\set service_password `cat /run/secrets/postgres/service_password`

CREATE ROLE transcription LOGIN PASSWORD :'owner_password';
CREATE ROLE transcription_service LOGIN PASSWORD :'service_password';
-- so that a restore sees whether the service still runs
GRANT transcription_service TO transcription;
ALTER DATABASE transcription OWNER TO transcription;
REVOKE ALL ON DATABASE transcription FROM PUBLIC;
GRANT CONNECT ON DATABASE transcription TO transcription_service;
