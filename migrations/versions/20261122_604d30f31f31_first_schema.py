"""first schema

Revision ID: 604d30f31f31
Revises: 
Create Date: 2026-11-22 15:57:58.505343
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = '604d30f31f31'
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


#: Audit events are only added. The seal is put on once, and what an event of `audit_pruned` names
#: may be deleted after 30 days. Nobody's search_path decides what is looked at.
AUDIT_GUARD = """
CREATE FUNCTION audit_events_guard() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    unsealed record;
    pruned_to bigint;
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.position IS NULL AND NEW.position IS NOT NULL THEN
        unsealed := NEW;
        unsealed.position := NULL;
        unsealed.sha256 := NULL;
        IF unsealed IS NOT DISTINCT FROM OLD THEN
            RETURN NEW;
        END IF;
    END IF;
    IF TG_OP = 'DELETE' AND OLD.at < now() - interval '30 days' THEN
        EXECUTE format(
            'SELECT max(CAST(detail ->> %L AS bigint)) FROM %I.%I WHERE action = %L',
            'position', TG_TABLE_SCHEMA, TG_TABLE_NAME, 'audit_pruned'
        ) INTO pruned_to;
        IF OLD.position <= pruned_to THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'audit events are only added, never changed or deleted'
          USING ERRCODE = 'insufficient_privilege';
END
$$
"""
#: What the service's role has done for it where it may only add, with the rights of who owns the
#: table. Bodies in this form are bound to the table that is there when they are made.
AUDIT_FUNCTIONS = (
    """
CREATE FUNCTION seal_audit_events(ids uuid[], positions bigint[], digests bytea[]) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH sealed AS (
        UPDATE audit_events
           SET position = seals.position,
               sha256 = seals.digest
          FROM unnest(ids, positions, digests) AS seals (id, position, digest)
         WHERE audit_events.id = seals.id
     RETURNING 1
    )
    SELECT count(*) FROM sealed;
END
""",
    """
CREATE FUNCTION prune_audit_events(last_position bigint) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH pruned AS (
        DELETE FROM audit_events WHERE position <= last_position RETURNING 1
    )
    SELECT count(*) FROM pruned;
END
""",
    "REVOKE ALL ON FUNCTION seal_audit_events(uuid[], bigint[], bytea[]) FROM PUBLIC",
    "REVOKE ALL ON FUNCTION prune_audit_events(bigint) FROM PUBLIC",
)
AUDIT_TRIGGERS = (
    "CREATE TRIGGER audit_events_guard BEFORE UPDATE OR DELETE ON audit_events"
    " FOR EACH ROW EXECUTE FUNCTION audit_events_guard()",
    "CREATE TRIGGER audit_events_guard_all BEFORE TRUNCATE ON audit_events"
    " FOR EACH STATEMENT EXECUTE FUNCTION audit_events_guard()",
)
#: Whoever follows a job hears of it on this channel; what became of it stands in its row.
JOB_CHANGED = """
CREATE FUNCTION job_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'transcription_windows' THEN
        PERFORM pg_notify('job_changed', NEW.job_id::text);
    ELSE
        PERFORM pg_notify('job_changed', OLD.id::text);
    END IF;
    RETURN NULL;
END
$$
"""
#: Whoever wants to be told of a job's end is, from the transaction that ends it.
JOB_ENDED = """
CREATE FUNCTION job_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO webhook_deliveries (webhook_id, url, event, job_id, data)
    SELECT id, CASE WHEN url IS NULL THEN NEW.callback_url END, 'job.' || NEW.status, NEW.id,
           jsonb_build_object(
               'job_id', NEW.id,
               'status', NEW.status,
               'failure_reason', NEW.failure_reason,
               'error_code', CASE WHEN NEW.status = 'failed' THEN NEW.error_code END,
               'audio_seconds', NEW.audio_seconds,
               'created_at', NEW.created_at,
               'completed_at', NEW.completed_at)
      FROM webhooks
     WHERE owner_id = NEW.owner_id
       AND disabled_at IS NULL
       AND 'job.' || NEW.status = ANY(events)
       AND (url IS NOT NULL OR NEW.callback_url IS NOT NULL);
    RETURN NULL;
END
$$
"""
#: The same of a batch: see ``jobs.batches.end``.
BATCH_ENDED = """
CREATE FUNCTION batch_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO webhook_deliveries (webhook_id, url, event, data)
    SELECT id, CASE WHEN url IS NULL THEN NEW.callback_url END, 'batch.ended',
           jsonb_build_object(
               'batch_id', NEW.id,
               'jobs', (SELECT jsonb_build_object(
                                   'completed', count(*) FILTER (WHERE status = 'completed'),
                                   'failed', count(*) FILTER (WHERE status = 'failed'),
                                   'cancelled', count(*) FILTER (WHERE status = 'cancelled'))
                          FROM transcription_jobs
                         WHERE batch_id = NEW.id),
               'created_at', NEW.created_at,
               'ended_at', NEW.ended_at)
      FROM webhooks
     WHERE owner_id = NEW.owner_id
       AND disabled_at IS NULL
       AND 'batch.ended' = ANY(events)
       AND (url IS NOT NULL OR NEW.callback_url IS NOT NULL);
    RETURN NULL;
END
$$
"""
#: What happens to jobs, counted in the transaction in which it does, whoever makes it. How long a
#: job had been due when it was begun is told by the place of that time among these bounds: as
#: ``metrics.catalogue`` has them.
JOB_COUNTED = """
CREATE FUNCTION job_counted() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    waited double precision;
    outcome text;
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO tallies (name, labels, value)
        VALUES ('jobs_submitted', jsonb_build_object('priority', NEW.priority), 1);
        RETURN NULL;
    END IF;
    IF TG_OP = 'DELETE' THEN
        INSERT INTO tallies (name, labels, value)
        VALUES ('jobs_ended', '{"status": "cancelled", "reason": "deleted"}', 1);
        RETURN NULL;
    END IF;
    IF NEW.status = 'processing' THEN
        waited := GREATEST(0, EXTRACT(EPOCH FROM now() - OLD.not_before));
        INSERT INTO tallies (name, labels, value)
        VALUES ('wait_seconds_bucket',
                jsonb_build_object(
                    'lane', OLD.lane,
                    'bucket', width_bucket(
                        waited, ARRAY[1, 5, 15, 60, 300, 900, 3600, 14400]::double precision[])),
                1),
               ('wait_seconds_sum', jsonb_build_object('lane', OLD.lane), waited);
    END IF;
    IF OLD.status = 'processing' THEN
        outcome := CASE WHEN NEW.crash_count + NEW.solo_crash_count
                             > OLD.crash_count + OLD.solo_crash_count THEN 'crashed'
                        WHEN NEW.status <> 'pending' THEN NEW.status
                        WHEN NEW.put_off_count > OLD.put_off_count THEN 'put_off'
                        WHEN NEW.preempt_count > OLD.preempt_count THEN 'stepped_aside'
                        WHEN NEW.attempt = OLD.attempt THEN 'retried'
                        ELSE 'handed_back' END;
        INSERT INTO tallies (name, labels, value)
        VALUES ('attempts',
                jsonb_build_object(
                    'outcome', outcome,
                    'code', CASE WHEN outcome IN ('crashed', 'failed', 'put_off', 'retried')
                                 THEN COALESCE(NEW.error_code, '') ELSE '' END),
                1);
    END IF;
    IF NEW.status IN ('completed', 'failed', 'cancelled') THEN
        INSERT INTO tallies (name, labels, value)
        VALUES ('jobs_ended',
                jsonb_build_object('status', NEW.status,
                                   'reason', COALESCE(NEW.failure_reason, '')),
                1);
    ELSIF OLD.status = 'failed' THEN
        INSERT INTO tallies (name, value) VALUES ('jobs_redriven', 1);
    END IF;
    RETURN NULL;
END
$$
"""
#: The same of webhooks' deliveries.
DELIVERY_COUNTED = """
CREATE FUNCTION delivery_counted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tallies (name, labels, value)
    VALUES ('webhook_deliveries', jsonb_build_object('status', NEW.status), 1);
    RETURN NULL;
END
$$
"""
COUNTING_TRIGGERS = (
    "CREATE TRIGGER job_counted AFTER UPDATE OF status ON transcription_jobs FOR EACH ROW"
    " WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION job_counted()",
    "CREATE TRIGGER job_added_counted AFTER INSERT ON transcription_jobs FOR EACH ROW"
    " WHEN (NEW.status = 'pending') EXECUTE FUNCTION job_counted()",
    "CREATE TRIGGER job_deleted_counted AFTER DELETE ON transcription_jobs FOR EACH ROW"
    " WHEN (OLD.completed_at IS NULL) EXECUTE FUNCTION job_counted()",
    "CREATE TRIGGER delivery_counted AFTER UPDATE OF status ON webhook_deliveries FOR EACH ROW"
    " WHEN (OLD.status = 'pending' AND NEW.status <> 'pending')"
    " EXECUTE FUNCTION delivery_counted()",
)
JOB_TRIGGERS = (
    "CREATE TRIGGER batch_ended AFTER UPDATE OF ended_at ON batches FOR EACH ROW"
    " WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL) EXECUTE FUNCTION batch_ended()",
    "CREATE TRIGGER job_changed AFTER UPDATE OF status, cancel_requested_at ON transcription_jobs"
    " FOR EACH ROW WHEN ((OLD.status, OLD.cancel_requested_at)"
    " IS DISTINCT FROM (NEW.status, NEW.cancel_requested_at)) EXECUTE FUNCTION job_changed()",
    "CREATE TRIGGER job_ended AFTER UPDATE OF status ON transcription_jobs FOR EACH ROW"
    " WHEN (OLD.status IS DISTINCT FROM NEW.status"
    " AND NEW.status IN ('completed', 'failed', 'cancelled')) EXECUTE FUNCTION job_ended()",
    "CREATE TRIGGER job_deleted AFTER DELETE ON transcription_jobs FOR EACH ROW"
    " WHEN (OLD.completed_at IS NULL) EXECUTE FUNCTION job_changed()",
    "CREATE TRIGGER window_kept AFTER INSERT ON transcription_windows"
    " FOR EACH ROW EXECUTE FUNCTION job_changed()",
)


def upgrade() -> None:
    # ### commands auto generated by Alembic - please adjust! ###
    op.create_table('audit_events',
    sa.Column('id', sa.UUID(), nullable=False),
    sa.Column('at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('action', sa.Text(), nullable=False),
    sa.Column('outcome', sa.Text(), server_default=sa.text("'done'"), nullable=False),
    sa.Column('actor', sa.Text(), nullable=True),
    sa.Column('key_id', sa.UUID(), nullable=True),
    sa.Column('owner_id', sa.UUID(), nullable=True),
    sa.Column('address', sa.Text(), nullable=True),
    sa.Column('request_id', sa.Text(), nullable=True),
    sa.Column('route', sa.Text(), nullable=True),
    sa.Column('job_id', sa.UUID(), nullable=True),
    sa.Column('target_key_id', sa.UUID(), nullable=True),
    sa.Column('target_owner_id', sa.UUID(), nullable=True),
    sa.Column('count', sa.Integer(), server_default=sa.text('1'), nullable=False),
    sa.Column('detail', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    sa.Column('position', sa.BigInteger(), nullable=True),
    sa.Column('sha256', sa.LargeBinary(), nullable=True),
    sa.CheckConstraint("action IN ('key_used', 'job_submitted', 'jobs_listed', 'job_read', 'transcript_read', 'audio_read', 'job_changed', 'job_cancelled', 'job_deleted', 'upload_deleted', 'denied', 'key_created', 'key_changed', 'key_rotated', 'key_revoked', 'key_removed', 'signed_in', 'signed_out', 'queue_paused', 'queue_resumed', 'error_read', 'error_retried', 'error_resolved', 'error_quarantined', 'error_released', 'jobs_imported', 'backup_taken', 'backup_restored', 'webhook_created', 'webhook_changed', 'webhook_rotated', 'webhook_deleted', 'webhook_disabled', 'webhook_sent', 'batch_created', 'batch_closed', 'batch_cancelled', 'batch_deleted', 'upload_begun', 'upload_discarded', 'audit_pruned')", name=op.f('ck_audit_events_action')),
    sa.CheckConstraint('(position IS NULL) = (sha256 IS NULL)', name=op.f('ck_audit_events_seal_is_whole')),
    sa.CheckConstraint('count > 0', name=op.f('ck_audit_events_count_positive')),
    sa.CheckConstraint("action <> 'audit_pruned' OR COALESCE(detail ->> 'position' ~ '^[1-9][0-9]{0,17}$' AND detail ->> 'sha256' ~ '^[0-9a-f]{64}$', false)", name=op.f('ck_audit_events_pruned_says_where')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_audit_events')),
    sa.UniqueConstraint('position', name=op.f('uq_audit_events_position'))
    )
    op.create_index(op.f('ix_audit_events_at'), 'audit_events', ['at'], unique=False)
    op.create_index('ix_audit_events_action_age', 'audit_events', ['action', 'at'], unique=False)
    op.create_index('ix_audit_events_job', 'audit_events', ['job_id'], unique=False, postgresql_where=sa.text('job_id IS NOT NULL'))
    op.create_index('ix_audit_events_unsealed', 'audit_events', ['id'], unique=False, postgresql_where=sa.text('position IS NULL'))
    op.create_table('owners',
    sa.Column('id', sa.UUID(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_owners')),
    sa.UniqueConstraint('name', name=op.f('uq_owners_name'))
    )
    op.create_table('paused_queues',
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('paused_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('paused_by', sa.Text(), nullable=True),
    sa.Column('note', sa.Text(), nullable=True),
    sa.Column('resumed_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.CheckConstraint("name IN ('high', 'normal', 'retry')", name=op.f('ck_paused_queues_name')),
    sa.PrimaryKeyConstraint('name', name=op.f('pk_paused_queues'))
    )
    op.create_table('workers',
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('role', sa.Text(), nullable=False),
    sa.Column('version', sa.Text(), nullable=False),
    sa.Column('started_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('seen_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('queues', postgresql.ARRAY(sa.Text()), nullable=False),
    sa.Column('slots', sa.Integer(), nullable=False),
    sa.Column('running', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('draining_since', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('begun', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('idle_since', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('clock_ahead_seconds', sa.DOUBLE_PRECISION(), server_default=sa.text('0'), nullable=False),
    sa.Column('left_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('pool', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    sa.Column('audit_broken', sa.Text(), nullable=True),
    sa.Column('audit_broken_since', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('name', name=op.f('pk_workers'))
    )
    op.create_table('api_keys',
    sa.Column('id', sa.UUID(), nullable=False),
    sa.Column('owner_id', sa.UUID(), nullable=False),
    sa.Column('prefix', sa.Text(), nullable=False),
    sa.Column('key_sha256', sa.LargeBinary(), nullable=False),
    sa.Column('previous_prefix', sa.Text(), nullable=True),
    sa.Column('previous_sha256', sa.LargeBinary(), nullable=True),
    sa.Column('previous_expires_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('previous_used_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('scopes', postgresql.ARRAY(sa.Text()), nullable=False),
    sa.Column('max_requests', sa.Integer(), nullable=True),
    sa.Column('max_audio_seconds_per_hour', sa.DOUBLE_PRECISION(), nullable=True),
    sa.Column('max_jobs_at_once', sa.Integer(), nullable=True),
    sa.Column('max_bytes_stored', sa.BigInteger(), nullable=True),
    sa.Column('weight', sa.REAL(), server_default=sa.text('1'), nullable=False),
    sa.Column('audio_retention_seconds', sa.DOUBLE_PRECISION(), nullable=True),
    sa.Column('transcript_retention_seconds', sa.DOUBLE_PRECISION(), nullable=True),
    sa.Column('may_use_high', sa.Boolean(), server_default=sa.text('true'), nullable=False),
    sa.Column('note', sa.Text(), nullable=True),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('expires_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('revoked_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('last_used_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.CheckConstraint('num_nulls(previous_prefix, previous_sha256, previous_expires_at) IN (0, 3)', name=op.f('ck_api_keys_previous_is_whole')),
    sa.CheckConstraint('LEAST(max_requests, max_audio_seconds_per_hour, max_jobs_at_once, max_bytes_stored) >= 0', name=op.f('ck_api_keys_limits_not_negative')),
    sa.CheckConstraint('LEAST(audio_retention_seconds, transcript_retention_seconds) >= 0', name=op.f('ck_api_keys_retention_not_negative')),
    sa.CheckConstraint('weight BETWEEN 0.01 AND 100', name=op.f('ck_api_keys_weight_in_bounds')),
    sa.ForeignKeyConstraint(['owner_id'], ['owners.id'], name=op.f('fk_api_keys_owner_id_owners')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_api_keys')),
    sa.UniqueConstraint('key_sha256', name=op.f('uq_api_keys_key_sha256')),
    sa.UniqueConstraint('previous_sha256', name=op.f('uq_api_keys_previous_sha256'))
    )
    op.create_index(op.f('ix_api_keys_owner_id'), 'api_keys', ['owner_id'], unique=False)
    op.create_table('webhooks',
    sa.Column('id', sa.UUID(), nullable=False),
    sa.Column('owner_id', sa.UUID(), nullable=False),
    sa.Column('url', sa.Text(), nullable=True),
    sa.Column('events', postgresql.ARRAY(sa.Text()), nullable=False),
    sa.Column('description', sa.Text(), nullable=True),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('generation', sa.Integer(), server_default=sa.text('1'), nullable=False),
    sa.Column('previous_until', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('disabled_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('disabled_reason', sa.Text(), nullable=True),
    sa.Column('delivered_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.CheckConstraint('(disabled_at IS NULL) = (disabled_reason IS NULL)', name=op.f('ck_webhooks_disabled_is_whole')),
    sa.CheckConstraint("disabled_reason IN ('client', 'gone', 'failing')", name=op.f('ck_webhooks_disabled_reason')),
    sa.ForeignKeyConstraint(['owner_id'], ['owners.id'], name=op.f('fk_webhooks_owner_id_owners')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_webhooks'))
    )
    op.create_index('ix_webhooks_owner_age', 'webhooks', ['owner_id', sa.literal_column('created_at DESC'), sa.literal_column('id DESC')], unique=False)
    op.create_index('uq_webhooks_callbacks', 'webhooks', ['owner_id'], unique=True, postgresql_where=sa.text('url IS NULL'))
    op.create_table('webhook_deliveries',
    sa.Column('id', sa.UUID(), server_default=sa.text('gen_random_uuid()'), nullable=False),
    sa.Column('webhook_id', sa.UUID(), nullable=False),
    sa.Column('url', sa.Text(), nullable=True),
    sa.Column('event', sa.Text(), nullable=False),
    sa.Column('job_id', sa.UUID(), nullable=True),
    sa.Column('data', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('status', sa.Text(), server_default=sa.text("'pending'"), nullable=False),
    sa.Column('not_before', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('attempt', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('round', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('tries', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'"), nullable=False),
    sa.Column('ended_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.CheckConstraint("status IN ('pending', 'delivered', 'failed', 'dropped')", name=op.f('ck_webhook_deliveries_status')),
    sa.CheckConstraint("(status = 'pending') = (ended_at IS NULL)", name=op.f('ck_webhook_deliveries_ended_at_when_final')),
    sa.ForeignKeyConstraint(['webhook_id'], ['webhooks.id'], name=op.f('fk_webhook_deliveries_webhook_id_webhooks'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_webhook_deliveries'))
    )
    op.create_index('ix_webhook_deliveries_age', 'webhook_deliveries', ['webhook_id', sa.literal_column('created_at DESC'), sa.literal_column('id DESC')], unique=False)
    op.create_index('ix_webhook_deliveries_due', 'webhook_deliveries', ['webhook_id', 'not_before'], unique=False, postgresql_where=sa.text("status = 'pending'"))
    op.create_index('ix_webhook_deliveries_ended_at', 'webhook_deliveries', ['ended_at'], unique=False)
    op.create_index(op.f('ix_webhook_deliveries_job_id'), 'webhook_deliveries', ['job_id'], unique=False)
    op.create_table('idempotency_keys',
    sa.Column('owner_id', sa.UUID(), nullable=False),
    sa.Column('key_sha256', sa.LargeBinary(), nullable=False),
    sa.Column('fingerprint', sa.LargeBinary(), nullable=False),
    sa.Column('job_id', sa.UUID(), nullable=False),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['owner_id'], ['owners.id'], name=op.f('fk_idempotency_keys_owner_id_owners')),
    sa.PrimaryKeyConstraint('owner_id', 'key_sha256', name=op.f('pk_idempotency_keys'))
    )
    op.create_index(op.f('ix_idempotency_keys_created_at'), 'idempotency_keys', ['created_at'], unique=False)
    op.create_index(op.f('ix_idempotency_keys_job_id'), 'idempotency_keys', ['job_id'], unique=False)
    op.create_table('resumable_uploads',
    sa.Column('id', sa.UUID(), nullable=False),
    sa.Column('owner_id', sa.UUID(), nullable=False),
    sa.Column('api_key_id', sa.UUID(), nullable=True),
    sa.Column('batch_id', sa.UUID(), nullable=True),
    sa.Column('idempotency_key', sa.Text(), nullable=True),
    sa.Column('size_bytes', sa.BigInteger(), nullable=False),
    sa.Column('client_filename', sa.Text(), nullable=False),
    sa.Column('said', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('metadata_sent', sa.Text(), nullable=True),
    sa.Column('checked_from', sa.BigInteger(), nullable=True),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('expires_at', postgresql.TIMESTAMP(timezone=True), nullable=False),
    sa.Column('finished_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('job_id', sa.UUID(), nullable=True),
    sa.CheckConstraint('size_bytes > 0', name=op.f('ck_resumable_uploads_size_positive')),
    sa.CheckConstraint('job_id IS NULL OR finished_at IS NOT NULL', name=op.f('ck_resumable_uploads_finished_with_job')),
    sa.ForeignKeyConstraint(['api_key_id'], ['api_keys.id'], name=op.f('fk_resumable_uploads_api_key_id_api_keys'), ondelete='SET NULL'),
    sa.ForeignKeyConstraint(['owner_id'], ['owners.id'], name=op.f('fk_resumable_uploads_owner_id_owners')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_resumable_uploads'))
    )
    op.create_index(op.f('ix_resumable_uploads_expires_at'), 'resumable_uploads', ['expires_at'], unique=False)
    op.create_index('ix_resumable_uploads_unfinished', 'resumable_uploads', ['owner_id'], unique=False, postgresql_where=sa.text('finished_at IS NULL'))
    op.create_index('ix_resumable_uploads_key', 'resumable_uploads', ['api_key_id'], unique=False, postgresql_where=sa.text('finished_at IS NULL'))
    op.create_table('tallies',
    sa.Column('id', sa.UUID(), server_default=sa.text('gen_random_uuid()'), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('labels', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    sa.Column('value', sa.DOUBLE_PRECISION(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_tallies'))
    )
    op.create_table('request_counts',
    sa.Column('api_key_id', sa.UUID(), nullable=False),
    sa.Column('window_start', postgresql.TIMESTAMP(timezone=True), nullable=False),
    sa.Column('cost', sa.Integer(), nullable=False),
    sa.ForeignKeyConstraint(['api_key_id'], ['api_keys.id'], name=op.f('fk_request_counts_api_key_id_api_keys'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('api_key_id', 'window_start', name=op.f('pk_request_counts'))
    )
    op.create_table('page_sessions',
    sa.Column('token_sha256', sa.LargeBinary(), nullable=False),
    sa.Column('key_id', sa.UUID(), nullable=False),
    sa.Column('key_sha256', sa.LargeBinary(), nullable=False),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('expires_at', postgresql.TIMESTAMP(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['key_id'], ['api_keys.id'], name=op.f('fk_page_sessions_key_id_api_keys'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('token_sha256', name=op.f('pk_page_sessions'))
    )
    op.create_index('ix_page_sessions_key', 'page_sessions', ['key_id', sa.literal_column('expires_at DESC')], unique=False)
    op.create_index(op.f('ix_page_sessions_expires_at'), 'page_sessions', ['expires_at'], unique=False)
    op.create_table('deleted_jobs',
    sa.Column('id', sa.UUID(), nullable=False),
    sa.Column('owner_id', sa.UUID(), nullable=False),
    sa.Column('api_key_id', sa.UUID(), nullable=True),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('submitted_at', postgresql.TIMESTAMP(timezone=True), nullable=False),
    sa.Column('started_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('ended_at', postgresql.TIMESTAMP(timezone=True), nullable=False),
    sa.Column('deleted_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('deleted_by', sa.Text(), nullable=False),
    sa.Column('audio_seconds', sa.DOUBLE_PRECISION(), nullable=True),
    sa.Column('audio_estimated', sa.Boolean(), nullable=False),
    sa.Column('upload_bytes', sa.BigInteger(), nullable=False),
    sa.Column('segment_count', sa.Integer(), nullable=False),
    sa.Column('word_count', sa.Integer(), nullable=False),
    sa.CheckConstraint("status IN ('completed', 'failed', 'cancelled')", name=op.f('ck_deleted_jobs_status')),
    sa.CheckConstraint("deleted_by IN ('client', 'admin', 'retention')", name=op.f('ck_deleted_jobs_deleted_by')),
    sa.ForeignKeyConstraint(['api_key_id'], ['api_keys.id'], name=op.f('fk_deleted_jobs_api_key_id_api_keys'), ondelete='SET NULL'),
    sa.ForeignKeyConstraint(['owner_id'], ['owners.id'], name=op.f('fk_deleted_jobs_owner_id_owners')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_deleted_jobs'))
    )
    op.create_index('ix_deleted_jobs_key_age', 'deleted_jobs', ['api_key_id', 'submitted_at'], unique=False)
    op.create_table('batches',
    sa.Column('id', sa.UUID(), nullable=False),
    sa.Column('owner_id', sa.UUID(), nullable=False),
    sa.Column('api_key_id', sa.UUID(), nullable=True),
    sa.Column('name', sa.Text(), nullable=True),
    sa.Column('profile', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    sa.Column('callback_url', sa.Text(), nullable=True),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('closed_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('ended_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.CheckConstraint('ended_at IS NULL OR closed_at IS NOT NULL', name=op.f('ck_batches_closed_before_ended')),
    sa.ForeignKeyConstraint(['api_key_id'], ['api_keys.id'], name=op.f('fk_batches_api_key_id_api_keys'), ondelete='SET NULL'),
    sa.ForeignKeyConstraint(['owner_id'], ['owners.id'], name=op.f('fk_batches_owner_id_owners')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_batches'))
    )
    op.create_index('ix_batches_owner_age', 'batches', ['owner_id', sa.literal_column('created_at DESC'), sa.literal_column('id DESC')], unique=False)
    op.create_index('ix_batches_age', 'batches', [sa.literal_column('created_at DESC'), sa.literal_column('id DESC')], unique=False)
    op.create_index('ix_batches_unended', 'batches', ['closed_at'], unique=False, postgresql_where=sa.text('closed_at IS NOT NULL AND ended_at IS NULL'))
    op.create_table('transcription_jobs',
    sa.Column('id', sa.UUID(), nullable=False),
    sa.Column('owner_id', sa.UUID(), nullable=False),
    sa.Column('api_key_id', sa.UUID(), nullable=True),
    sa.Column('batch_id', sa.UUID(), nullable=True),
    sa.Column('status', sa.Text(), server_default='pending', nullable=False),
    sa.Column('priority', sa.Text(), server_default='normal', nullable=False),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('started_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('completed_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('engine_name', sa.Text(), nullable=False),
    sa.Column('model_name', sa.Text(), nullable=False),
    sa.Column('language', sa.Text(), nullable=True),
    sa.Column('translate', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('initial_prompt', sa.Text(), nullable=True),
    sa.Column('word_timestamps', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('track', sa.SmallInteger(), nullable=True),
    sa.Column('start_seconds', sa.DOUBLE_PRECISION(), server_default=sa.text('0'), nullable=False),
    sa.Column('end_seconds', sa.DOUBLE_PRECISION(), nullable=True),
    sa.Column('wishes_version', sa.SmallInteger(), server_default=sa.text('1'), nullable=False),
    sa.Column('client_metadata', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    sa.Column('callback_url', sa.Text(), nullable=True),
    sa.Column('client_filename', sa.Text(), nullable=False),
    sa.Column('upload_bytes', sa.BigInteger(), nullable=False),
    sa.Column('upload_sha256', sa.LargeBinary(), nullable=False),
    sa.Column('source_url', sa.Text(), nullable=True),
    sa.Column('source_bytes', sa.BigInteger(), nullable=True),
    sa.Column('upload_awaited', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('upload_deleted_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('audio_seconds', sa.DOUBLE_PRECISION(), nullable=True),
    sa.Column('audio_estimated', sa.Boolean(), server_default=sa.text('true'), nullable=False),
    sa.Column('probed_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('progress', sa.REAL(), server_default=sa.text('0'), nullable=False),
    sa.Column('current_step', sa.Text(), nullable=True),
    sa.Column('cancel_requested_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('not_before', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('attempt', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('max_attempts', sa.Integer(), nullable=False),
    sa.Column('lease_epoch', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('worker_name', sa.Text(), nullable=True),
    sa.Column('heartbeat_seq', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('heartbeat_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('crash_count', sa.SmallInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('solo_crash_count', sa.SmallInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('interrupt_count', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('put_off_count', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('preempt_count', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('room_made_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('isolate', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('failure_reason', sa.Text(), nullable=True),
    sa.Column('error_code', sa.Text(), nullable=True),
    sa.Column('error_message', sa.Text(), nullable=True),
    sa.Column('dead_letter_noted_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('resolved_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('resolved_by', sa.Text(), nullable=True),
    sa.Column('resolution_notes', sa.Text(), nullable=True),
    sa.Column('quarantined_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('quarantined_by', sa.Text(), nullable=True),
    sa.Column('quarantine_notes', sa.Text(), nullable=True),
    sa.Column('released_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('lane', sa.Text(), sa.Computed("CASE WHEN attempt > 0 OR crash_count > 0 THEN 'retry' ELSE priority END", persisted=True), nullable=False),
    sa.Column('dispatch_due_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('dispatch_count', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('model_used', sa.Text(), nullable=True),
    sa.Column('mode', sa.Text(), nullable=True),
    sa.Column('degraded', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('fallbacks', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'"), nullable=False),
    sa.Column('warnings', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'"), nullable=False),
    sa.CheckConstraint("(status = 'failed') = (failure_reason IS NOT NULL)", name=op.f('ck_transcription_jobs_reason_when_failed')),
    sa.CheckConstraint("(status = 'processing') = (worker_name IS NOT NULL)", name=op.f('ck_transcription_jobs_lease_while_processing')),
    sa.CheckConstraint("(status IN ('completed', 'failed', 'cancelled')) = (completed_at IS NOT NULL)", name=op.f('ck_transcription_jobs_completed_at_when_final')),
    sa.CheckConstraint("status = 'failed' OR (resolved_at IS NULL AND quarantined_at IS NULL)", name=op.f('ck_transcription_jobs_dead_letter_when_failed')),
    sa.CheckConstraint("NOT upload_awaited OR (source_url IS NOT NULL AND status IN ('pending', 'failed', 'cancelled'))", name=op.f('ck_transcription_jobs_awaited_before_begun')),
    sa.CheckConstraint("priority IN ('high', 'normal')", name=op.f('ck_transcription_jobs_priority')),
    sa.CheckConstraint("status <> 'cancelled' OR cancel_requested_at IS NOT NULL", name=op.f('ck_transcription_jobs_cancel_was_asked')),
    sa.CheckConstraint("status IN ('pending', 'processing', 'completed', 'failed', 'cancelled')", name=op.f('ck_transcription_jobs_status')),
    sa.CheckConstraint('attempt BETWEEN 0 AND max_attempts', name=op.f('ck_transcription_jobs_attempt_in_bounds')),
    sa.CheckConstraint('progress BETWEEN 0 AND 1', name=op.f('ck_transcription_jobs_progress_in_bounds')),
    sa.CheckConstraint('start_seconds >= 0 AND end_seconds > start_seconds AND track >= 1', name=op.f('ck_transcription_jobs_part')),
    sa.ForeignKeyConstraint(['api_key_id'], ['api_keys.id'], name=op.f('fk_transcription_jobs_api_key_id_api_keys'), ondelete='SET NULL'),
    sa.ForeignKeyConstraint(['batch_id'], ['batches.id'], name=op.f('fk_transcription_jobs_batch_id_batches'), ondelete='SET NULL'),
    sa.ForeignKeyConstraint(['owner_id'], ['owners.id'], name=op.f('fk_transcription_jobs_owner_id_owners')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_transcription_jobs')),
    postgresql_with={'fillfactor': '80'}
    )
    op.create_index('ix_transcription_jobs_batch_age', 'transcription_jobs', ['batch_id', sa.literal_column('created_at DESC'), sa.literal_column('id DESC')], unique=False, postgresql_where=sa.text('batch_id IS NOT NULL'))
    op.create_index('ix_transcription_jobs_batch_open', 'transcription_jobs', ['batch_id'], unique=False, postgresql_where=sa.text("batch_id IS NOT NULL AND status IN ('pending', 'processing')"))
    op.create_index('ix_transcription_jobs_key_age', 'transcription_jobs', ['api_key_id', 'created_at'], unique=False)
    op.create_index('ix_transcription_jobs_stored', 'transcription_jobs', ['id'], unique=False, postgresql_where=sa.text('upload_deleted_at IS NULL'))
    op.create_index('ix_transcription_jobs_key_stored', 'transcription_jobs', ['api_key_id'], unique=False, postgresql_include=['upload_bytes'], postgresql_where=sa.text('upload_deleted_at IS NULL'))
    op.create_index('ix_transcription_jobs_lane', 'transcription_jobs', ['lane', 'not_before', 'id'], unique=False, postgresql_where=sa.text("status = 'pending'"))
    op.create_index('ix_transcription_jobs_key_lane', 'transcription_jobs', ['api_key_id', 'lane', 'not_before', 'id'], unique=False, postgresql_include=['audio_seconds'], postgresql_where=sa.text("status = 'pending'"))
    op.create_index('ix_transcription_jobs_suspects', 'transcription_jobs', ['created_at', 'id'], unique=False, postgresql_where=sa.text("status = 'pending' AND isolate"))
    op.create_index('ix_transcription_jobs_unprobed', 'transcription_jobs', ['not_before'], unique=False, postgresql_where=sa.text("status = 'pending' AND probed_at IS NULL"))
    op.create_index('ix_transcription_jobs_owner_age', 'transcription_jobs', ['owner_id', sa.literal_column('created_at DESC'), sa.literal_column('id DESC')], unique=False)
    op.create_index('ix_transcription_jobs_owner_status_age', 'transcription_jobs', ['owner_id', 'status', sa.literal_column('created_at DESC'), sa.literal_column('id DESC')], unique=False)
    op.create_index('ix_transcription_jobs_processing', 'transcription_jobs', ['id'], unique=False, postgresql_where=sa.text("status = 'processing'"))
    op.create_index('ix_transcription_jobs_status_age', 'transcription_jobs', ['status', sa.literal_column('created_at DESC'), sa.literal_column('id DESC')], unique=False)
    op.create_index('ix_transcription_jobs_age', 'transcription_jobs', [sa.literal_column('created_at DESC'), sa.literal_column('id DESC')], unique=False)
    op.create_index('ix_transcription_jobs_finished_upload', 'transcription_jobs', ['owner_id', 'upload_sha256'], unique=False, postgresql_where=sa.text("status = 'completed'"))
    op.create_index('ix_transcription_jobs_unnoted', 'transcription_jobs', ['completed_at'], unique=False, postgresql_where=sa.text("status = 'failed' AND dead_letter_noted_at IS NULL"))
    op.create_index('ix_transcription_jobs_unresolved', 'transcription_jobs', [sa.literal_column('completed_at DESC'), sa.literal_column('id DESC')], unique=False, postgresql_include=['failure_reason'], postgresql_where=sa.text("status = 'failed' AND resolved_at IS NULL AND quarantined_at IS NULL"))
    op.create_index('ix_transcription_jobs_failed', 'transcription_jobs', [sa.literal_column('completed_at DESC'), sa.literal_column('id DESC')], unique=False, postgresql_where=sa.text("status = 'failed'"))
    op.create_index('ix_transcription_jobs_quarantined', 'transcription_jobs', [sa.literal_column('completed_at DESC'), sa.literal_column('id DESC')], unique=False, postgresql_where=sa.text('quarantined_at IS NOT NULL'))
    op.create_index('ix_transcription_jobs_upload_kept', 'transcription_jobs', ['completed_at'], unique=False, postgresql_where=sa.text('completed_at IS NOT NULL AND upload_deleted_at IS NULL'))
    op.create_table('error_logs',
    sa.Column('id', sa.UUID(), server_default=sa.text('gen_random_uuid()'), nullable=False),
    sa.Column('job_id', sa.UUID(), nullable=False),
    sa.Column('attempt', sa.Integer(), nullable=False),
    sa.Column('lease_epoch', sa.BigInteger(), nullable=False),
    sa.Column('worker_name', sa.Text(), nullable=True),
    sa.Column('error_code', sa.Text(), nullable=False),
    sa.Column('error_message', sa.Text(), nullable=False),
    sa.Column('traceback', sa.Text(), nullable=True),
    sa.Column('context', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('resolved', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('resolved_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('resolved_by', sa.Text(), nullable=True),
    sa.Column('resolution_notes', sa.Text(), nullable=True),
    sa.ForeignKeyConstraint(['job_id'], ['transcription_jobs.id'], name=op.f('fk_error_logs_job_id_transcription_jobs'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_error_logs'))
    )
    op.create_index(op.f('ix_error_logs_job_id'), 'error_logs', ['job_id'], unique=False)
    op.create_index('ix_error_logs_unresolved', 'error_logs', ['created_at'], unique=False, postgresql_where=sa.text('NOT resolved'))
    op.create_table('transcription_results',
    sa.Column('job_id', sa.UUID(), nullable=False),
    sa.Column('lease_epoch', sa.BigInteger(), nullable=False),
    sa.Column('text', sa.Text(), nullable=False),
    sa.Column('language', sa.Text(), nullable=False),
    sa.Column('language_probability', sa.DOUBLE_PRECISION(), nullable=True),
    sa.Column('audio_seconds', sa.DOUBLE_PRECISION(), nullable=False),
    sa.Column('word_count', sa.Integer(), nullable=False),
    sa.Column('confidence', sa.DOUBLE_PRECISION(), nullable=True),
    sa.Column('segments', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('peaks', sa.LargeBinary(), nullable=True),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['job_id'], ['transcription_jobs.id'], name=op.f('fk_transcription_results_job_id_transcription_jobs'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('job_id', name=op.f('pk_transcription_results'))
    )
    op.create_table('transcription_windows',
    sa.Column('job_id', sa.UUID(), nullable=False),
    sa.Column('index', sa.Integer(), nullable=False),
    sa.Column('lease_epoch', sa.BigInteger(), nullable=False),
    sa.Column('start_seconds', sa.DOUBLE_PRECISION(), nullable=False),
    sa.Column('end_seconds', sa.DOUBLE_PRECISION(), nullable=False),
    sa.Column('segments', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('resume', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('model_used', sa.Text(), nullable=False),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['job_id'], ['transcription_jobs.id'], name=op.f('fk_transcription_windows_job_id_transcription_jobs'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('job_id', 'index', name=op.f('pk_transcription_windows'))
    )
    op.create_table('upload_fetches',
    sa.Column('job_id', sa.UUID(), nullable=False),
    sa.Column('due_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('holder', sa.UUID(), nullable=True),
    sa.Column('failures', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('etag', sa.Text(), nullable=True),
    sa.Column('began_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['job_id'], ['transcription_jobs.id'], name=op.f('fk_upload_fetches_job_id_transcription_jobs'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('job_id', name=op.f('pk_upload_fetches'))
    )
    op.create_index(op.f('ix_upload_fetches_due_at'), 'upload_fetches', ['due_at'], unique=False)
    # ### end Alembic commands ###
    op.execute(AUDIT_GUARD)
    op.execute(JOB_CHANGED)
    op.execute(JOB_ENDED)
    op.execute(BATCH_ENDED)
    op.execute(JOB_COUNTED)
    op.execute(DELIVERY_COUNTED)
    for statement in (*AUDIT_TRIGGERS, *AUDIT_FUNCTIONS, *JOB_TRIGGERS, *COUNTING_TRIGGERS):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP FUNCTION prune_audit_events(bigint)")
    op.execute("DROP FUNCTION seal_audit_events(uuid[], bigint[], bytea[])")
    # ### commands auto generated by Alembic - please adjust! ###
    op.drop_index(op.f('ix_upload_fetches_due_at'), table_name='upload_fetches')
    op.drop_table('upload_fetches')
    op.drop_table('transcription_windows')
    op.drop_table('transcription_results')
    op.drop_index('ix_error_logs_unresolved', table_name='error_logs', postgresql_where=sa.text('NOT resolved'))
    op.drop_index(op.f('ix_error_logs_job_id'), table_name='error_logs')
    op.drop_table('error_logs')
    op.drop_index('ix_transcription_jobs_quarantined', table_name='transcription_jobs', postgresql_where=sa.text('quarantined_at IS NOT NULL'))
    op.drop_index('ix_transcription_jobs_failed', table_name='transcription_jobs', postgresql_where=sa.text("status = 'failed'"))
    op.drop_index('ix_transcription_jobs_unresolved', table_name='transcription_jobs', postgresql_where=sa.text("status = 'failed' AND resolved_at IS NULL AND quarantined_at IS NULL"))
    op.drop_index('ix_transcription_jobs_upload_kept', table_name='transcription_jobs', postgresql_where=sa.text('completed_at IS NOT NULL AND upload_deleted_at IS NULL'))
    op.drop_index('ix_transcription_jobs_finished_upload', table_name='transcription_jobs', postgresql_where=sa.text("status = 'completed'"))
    op.drop_index('ix_transcription_jobs_unnoted', table_name='transcription_jobs', postgresql_where=sa.text("status = 'failed' AND dead_letter_noted_at IS NULL"))
    op.drop_index('ix_transcription_jobs_status_age', table_name='transcription_jobs')
    op.drop_index('ix_transcription_jobs_age', table_name='transcription_jobs')
    op.drop_index('ix_transcription_jobs_processing', table_name='transcription_jobs', postgresql_where=sa.text("status = 'processing'"))
    op.drop_index('ix_transcription_jobs_owner_status_age', table_name='transcription_jobs')
    op.drop_index('ix_transcription_jobs_owner_age', table_name='transcription_jobs')
    op.drop_index('ix_transcription_jobs_suspects', table_name='transcription_jobs', postgresql_where=sa.text("status = 'pending' AND isolate"))
    op.drop_index('ix_transcription_jobs_unprobed', table_name='transcription_jobs', postgresql_where=sa.text("status = 'pending' AND probed_at IS NULL"))
    op.drop_index('ix_transcription_jobs_stored', table_name='transcription_jobs', postgresql_where=sa.text('upload_deleted_at IS NULL'))
    op.drop_index('ix_transcription_jobs_key_stored', table_name='transcription_jobs', postgresql_where=sa.text('upload_deleted_at IS NULL'))
    op.drop_index('ix_transcription_jobs_key_lane', table_name='transcription_jobs', postgresql_where=sa.text("status = 'pending'"))
    op.drop_index('ix_transcription_jobs_batch_open', table_name='transcription_jobs', postgresql_where=sa.text("batch_id IS NOT NULL AND status IN ('pending', 'processing')"))
    op.drop_index('ix_transcription_jobs_batch_age', table_name='transcription_jobs', postgresql_where=sa.text('batch_id IS NOT NULL'))
    op.drop_index('ix_transcription_jobs_key_age', table_name='transcription_jobs')
    op.drop_index('ix_transcription_jobs_lane', table_name='transcription_jobs', postgresql_where=sa.text("status = 'pending'"))
    op.drop_table('transcription_jobs')
    op.drop_index('ix_batches_unended', table_name='batches', postgresql_where=sa.text('closed_at IS NOT NULL AND ended_at IS NULL'))
    op.drop_index('ix_batches_age', table_name='batches')
    op.drop_index('ix_batches_owner_age', table_name='batches')
    op.drop_table('batches')
    op.drop_index(op.f('ix_idempotency_keys_job_id'), table_name='idempotency_keys')
    op.drop_index(op.f('ix_idempotency_keys_created_at'), table_name='idempotency_keys')
    op.drop_table('idempotency_keys')
    op.drop_table('webhook_deliveries')
    op.drop_table('webhooks')
    op.drop_index(op.f('ix_page_sessions_expires_at'), table_name='page_sessions')
    op.drop_index('ix_page_sessions_key', table_name='page_sessions')
    op.drop_table('page_sessions')
    op.drop_index('ix_deleted_jobs_key_age', table_name='deleted_jobs')
    op.drop_table('deleted_jobs')
    op.drop_table('request_counts')
    op.drop_table('tallies')
    op.drop_index('ix_resumable_uploads_key', table_name='resumable_uploads', postgresql_where=sa.text('finished_at IS NULL'))
    op.drop_index('ix_resumable_uploads_unfinished', table_name='resumable_uploads', postgresql_where=sa.text('finished_at IS NULL'))
    op.drop_index(op.f('ix_resumable_uploads_expires_at'), table_name='resumable_uploads')
    op.drop_table('resumable_uploads')
    op.drop_index(op.f('ix_api_keys_owner_id'), table_name='api_keys')
    op.drop_table('api_keys')
    op.drop_table('workers')
    op.drop_table('paused_queues')
    op.drop_table('owners')
    op.drop_index('ix_audit_events_unsealed', table_name='audit_events', postgresql_where=sa.text('position IS NULL'))
    op.drop_index('ix_audit_events_job', table_name='audit_events', postgresql_where=sa.text('job_id IS NOT NULL'))
    op.drop_index('ix_audit_events_action_age', table_name='audit_events')
    op.drop_index(op.f('ix_audit_events_at'), table_name='audit_events')
    op.drop_table('audit_events')
    # ### end Alembic commands ###
    op.execute("DROP FUNCTION audit_events_guard()")
    op.execute("DROP FUNCTION job_changed()")
    op.execute("DROP FUNCTION job_ended()")
    op.execute("DROP FUNCTION batch_ended()")
    op.execute("DROP FUNCTION job_counted()")
    op.execute("DROP FUNCTION delivery_counted()")
