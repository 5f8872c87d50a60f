"""The SQL of a job's life: one statement for each transition, so each is atomic by itself.

Every write of a worker says ``lease_epoch = :epoch``: a worker that lost its lease changes
nothing. Statements return what happened; no row means that the state did not allow it.
"""

from typing import Final

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, REAL, UUID
from sqlalchemy.types import BigInteger, LargeBinary, Text

#: What every end of an attempt resets. A job that waits holds no lease.
_NO_LEASE = "worker_name = NULL, current_step = NULL"

#: Whether a lane's jobs may start. A message that is on its way starts none of a paused one either.
NOT_PAUSED = "NOT EXISTS (SELECT FROM paused_queues WHERE name = {lane} AND resumed_at IS NULL)"

#: Whether this worker knows to do what the job asks for; if not, a newer one does.
_KNOWN = "wishes_version <= :wishes_version"

#: Exponential backoff with full jitter: see ``jobs.lifecycle.Backoff``.
_BACKOFF = """
    make_interval(secs => LEAST(:cap, :base * power(2, LEAST({exponent}, 30))) * random())"""

_CLAIMED = """status = 'processing',
       attempt = attempt + 1,
       lease_epoch = lease_epoch + 1,
       heartbeat_seq = heartbeat_seq + 1,
       heartbeat_at = now(),
       worker_name = :worker_name,
       started_at = COALESCE(started_at, now()),
       current_step = 'starting'"""
_CLAIM = """job.id, owner_id, attempt, max_attempts, lease_epoch, crash_count, isolate,
          engine_name, model_name, language, translate, initial_prompt, word_timestamps,
          track, start_seconds, end_seconds, priority, warnings, upload_bytes, upload_sha256"""

#: Take a pending job that is due: a new attempt under a new lease.
CLAIM: Final = text(f"""
UPDATE transcription_jobs AS job
   SET {_CLAIMED}
 WHERE id = :job_id
   AND status = 'pending'
   AND not_before <= now()
   AND NOT upload_awaited
   AND cancel_requested_at IS NULL
   AND {_KNOWN}
   AND {NOT_PAUSED.format(lane="lane")}
RETURNING {_CLAIM}
""")

#: Take the job that is due first, of those that nobody else is taking: of the first lane in which
#: one is, that of the owner who has the fewest running, the oldest.
CLAIM_NEXT: Final = text(f"""
WITH running AS (
    SELECT owner_id, count(*) AS jobs
      FROM transcription_jobs
     WHERE status = 'processing'
     GROUP BY owner_id
), waiting AS (
    SELECT next.id, wanted.place, COALESCE(running.jobs, 0) AS running, next.not_before
      FROM unnest(:lanes) WITH ORDINALITY AS wanted (lane, place)
     CROSS JOIN owners
      LEFT JOIN running ON running.owner_id = owners.id
     CROSS JOIN LATERAL (
        SELECT id, not_before
          FROM transcription_jobs
         WHERE status = 'pending'
           AND owner_id = owners.id
           AND lane = wanted.lane
           AND not_before <= now()
           AND NOT upload_awaited
           AND cancel_requested_at IS NULL
           AND {_KNOWN}
         ORDER BY not_before, id
         LIMIT :candidates) AS next
     WHERE {NOT_PAUSED.format(lane="wanted.lane")}
     ORDER BY place, running, not_before, id
     LIMIT :candidates
), first AS (
    SELECT job.id
      FROM transcription_jobs AS job
      JOIN waiting USING (id)
     WHERE job.status = 'pending'
     ORDER BY waiting.place, waiting.running, waiting.not_before, waiting.id
     LIMIT 1
       FOR UPDATE OF job SKIP LOCKED
)
UPDATE transcription_jobs AS job
   SET {_CLAIMED}
  FROM first
 WHERE job.id = first.id
RETURNING {_CLAIM}
""").bindparams(bindparam("lanes", type_=ARRAY(Text)))

#: Renew all leases of one process. An id that does not come back has lost its lease.
HEARTBEAT: Final = text("""
UPDATE transcription_jobs AS job
   SET heartbeat_seq = heartbeat_seq + 1,
       heartbeat_at = now(),
       progress = GREATEST(job.progress, mine.progress),
       current_step = COALESCE(mine.step, job.current_step)
  FROM unnest(:ids, :epochs, :progress, :steps) AS mine (id, epoch, progress, step)
 WHERE job.id = mine.id
   AND job.lease_epoch = mine.epoch
   AND job.status = 'processing'
RETURNING job.id, job.cancel_requested_at IS NOT NULL AS cancel_requested
""").bindparams(
    bindparam("ids", type_=ARRAY(UUID(as_uuid=True))),
    bindparam("epochs", type_=ARRAY(BigInteger)),
    bindparam("progress", type_=ARRAY(REAL)),
    bindparam("steps", type_=ARRAY(Text)),
)

#: Say what the attempt is at, now: a step's name, or the audio's true length.
REPORT: Final = text("""
UPDATE transcription_jobs
   SET current_step = :step,
       audio_seconds = COALESCE(:audio_seconds, audio_seconds),
       audio_estimated = audio_estimated AND CAST(:audio_seconds AS double precision) IS NULL,
       warnings = COALESCE(:warnings, warnings)
 WHERE id = :job_id
   AND status = 'processing'
   AND lease_epoch = :epoch
RETURNING cancel_requested_at IS NOT NULL AS cancel_requested
""").bindparams(bindparam("warnings", type_=JSONB(none_as_null=True)))

#: Keep a finished window, and the progress that it means.
SAVE_WINDOW: Final = text("""
WITH fenced AS (
    UPDATE transcription_jobs
       SET progress = GREATEST(progress, :progress),
           current_step = 'transcribing',
           put_off_count = 0,
           heartbeat_seq = heartbeat_seq + 1,
           heartbeat_at = now()
     WHERE id = :job_id
       AND status = 'processing'
       AND lease_epoch = :epoch
    RETURNING id, lease_epoch, cancel_requested_at IS NOT NULL AS cancel_requested
), saved AS (
    INSERT INTO transcription_windows
           (job_id, index, lease_epoch, start_seconds, end_seconds, segments, resume, model_used)
    SELECT id, :index, lease_epoch, :start_seconds, :end_seconds, :segments, :resume, :model_used
      FROM fenced
    ON CONFLICT (job_id, index) DO UPDATE
       SET lease_epoch = excluded.lease_epoch,
           start_seconds = excluded.start_seconds,
           end_seconds = excluded.end_seconds,
           segments = excluded.segments,
           resume = excluded.resume,
           model_used = excluded.model_used
)
SELECT cancel_requested FROM fenced
""").bindparams(bindparam("segments", type_=JSONB), bindparam("resume", type_=JSONB))

#: Store the result and finish the job. A cancel that came first wins.
COMPLETE: Final = text(f"""
WITH done AS (
    UPDATE transcription_jobs
       SET status = 'completed',
           completed_at = now(),
           progress = 1,
           audio_seconds = :audio_seconds,
           audio_estimated = false,
           model_used = :model_used,
           mode = :mode,
           degraded = :degraded,
           fallbacks = :fallbacks,
           warnings = :warnings,
           error_code = NULL,
           error_message = NULL,
           {_NO_LEASE}
     WHERE id = :job_id
       AND status = 'processing'
       AND lease_epoch = :epoch
       AND cancel_requested_at IS NULL
    RETURNING id, lease_epoch
)
INSERT INTO transcription_results
       (job_id, lease_epoch, text, language, language_probability, audio_seconds, word_count,
        confidence, segments, peaks)
SELECT id, lease_epoch, :text, :language, :language_probability, :audio_seconds, :word_count,
       :confidence, :segments, :peaks
  FROM done
RETURNING job_id
""").bindparams(
    bindparam("fallbacks", type_=JSONB),
    bindparam("warnings", type_=JSONB),
    bindparam("segments", type_=JSONB),
    bindparam("peaks", type_=LargeBinary),
)

_LOG_ERROR = """
INSERT INTO error_logs
       (job_id, attempt, lease_epoch, worker_name, error_code, error_message, traceback, context)
SELECT id, :attempt, lease_epoch, :worker_name, :code, :message, :traceback, :context
  FROM ended"""

#: A failed attempt that may be tried again: later, or failed when the tries are used up.
RETRY: Final = text(f"""
WITH ended AS (
    UPDATE transcription_jobs
       SET status = CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled'
                         WHEN attempt >= max_attempts THEN 'failed'
                         ELSE 'pending' END,
           failure_reason = CASE WHEN cancel_requested_at IS NULL AND attempt >= max_attempts
                                 THEN :reason END,
           completed_at = CASE WHEN cancel_requested_at IS NOT NULL OR attempt >= max_attempts
                               THEN now() END,
           not_before = now() + delay.pause,
           dispatch_due_at = now() + delay.pause,
           dispatch_count = 0,
           put_off_count = 0,
           error_code = :code,
           error_message = :message,
           fallbacks = fallbacks || :fallbacks,
           {_NO_LEASE}
      FROM (SELECT {_BACKOFF.format(exponent=":attempt - 1")} AS pause) AS delay
     WHERE id = :job_id
       AND status = 'processing'
       AND lease_epoch = :epoch
    RETURNING id, lease_epoch, status
), logged AS ({_LOG_ERROR})
SELECT status FROM ended
""").bindparams(bindparam("context", type_=JSONB), bindparam("fallbacks", type_=JSONB))

#: A failed attempt that no other can mend.
FAIL: Final = text(f"""
WITH ended AS (
    UPDATE transcription_jobs
       SET status = CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled' ELSE 'failed' END,
           failure_reason = CASE WHEN cancel_requested_at IS NULL THEN :code END,
           completed_at = now(),
           error_code = :code,
           error_message = :message,
           {_NO_LEASE}
     WHERE id = :job_id
       AND status = 'processing'
       AND lease_epoch = :epoch
    RETURNING id, lease_epoch, status
), logged AS ({_LOG_ERROR})
SELECT status FROM ended
""").bindparams(bindparam("context", type_=JSONB))

#: A job waits for an upload that is gone: nobody need begin an attempt to find out.
LOSE: Final = text("""
WITH ended AS (
    UPDATE transcription_jobs
       SET status = 'failed',
           failure_reason = :code,
           completed_at = now(),
           error_code = :code,
           error_message = :message
     WHERE id = ANY(:ids)
       AND status = 'pending'
       AND upload_deleted_at IS NULL
    RETURNING id, attempt, lease_epoch
)
INSERT INTO error_logs (job_id, attempt, lease_epoch, error_code, error_message)
SELECT id, attempt, lease_epoch, :code, :message
  FROM ended
RETURNING job_id
""").bindparams(bindparam("ids", type_=ARRAY(UUID(as_uuid=True))))

#: The upload of a job cannot be fetched. What is here of it is nobody's any more.
FAIL_FETCH: Final = text("""
WITH held AS (
    SELECT id
      FROM transcription_jobs
     WHERE id = :job_id
       FOR UPDATE
), mine AS (
    DELETE FROM upload_fetches
     USING held
     WHERE job_id = held.id
       AND holder = :holder
    RETURNING job_id
), ended AS (
    UPDATE transcription_jobs
       SET status = 'failed',
           failure_reason = :reason,
           completed_at = now(),
           error_code = :code,
           error_message = :message,
           upload_bytes = 0
      FROM mine
     WHERE id = mine.job_id
       AND status = 'pending'
       AND upload_awaited
    RETURNING id, attempt, lease_epoch
)
INSERT INTO error_logs (job_id, attempt, lease_epoch, error_code, error_message, context)
SELECT id, attempt, lease_epoch, :code, :message, :context
  FROM ended
RETURNING job_id
""").bindparams(bindparam("holder", type_=UUID(as_uuid=True)), bindparam("context", type_=JSONB))

#: A stopping worker returns the job, and the attempt with it.
HAND_BACK: Final = text(f"""
UPDATE transcription_jobs
   SET status = CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled' ELSE 'pending' END,
       completed_at = CASE WHEN cancel_requested_at IS NOT NULL THEN now() END,
       attempt = GREATEST(attempt - 1, 0),
       interrupt_count = interrupt_count + 1,
       not_before = now(),
       dispatch_due_at = now(),
       dispatch_count = 0,
       {_NO_LEASE}
 WHERE id = :job_id
   AND status = 'processing'
   AND lease_epoch = :epoch
RETURNING status
""")

#: The lane that a job returns to with its attempt given back.
_LANE_BEFORE = "CASE WHEN attempt > 1 OR crash_count > 0 THEN 'retry' ELSE priority END"

#: A job makes room for one urgent job that has waited a while, and keeps its own place. The urgent
#: one is marked, so that no more step aside than there are urgent jobs. Nobody does so for a job
#: that may not start, nor into a queue that is paused: what runs, runs to its end.
STEP_ASIDE: Final = text(f"""
WITH urgent AS (
    SELECT id
      FROM transcription_jobs
     WHERE status = 'pending'
       AND lane = 'high'
       AND {_KNOWN}
       AND {NOT_PAUSED.format(lane="'high'")}
       AND not_before <= now() - make_interval(secs => :patience)
       AND (room_made_at IS NULL
            OR room_made_at NOT BETWEEN now() - make_interval(secs => :again)
                                AND now() + make_interval(secs => :again))
     ORDER BY not_before, id
     LIMIT 1
       FOR UPDATE SKIP LOCKED
), aside AS (
    UPDATE transcription_jobs
       SET status = 'pending',
           attempt = GREATEST(attempt - 1, 0),
           preempt_count = preempt_count + 1,
           dispatch_due_at = now(),
           dispatch_count = 0,
           {_NO_LEASE}
     WHERE id = :job_id
       AND status = 'processing'
       AND lease_epoch = :epoch
       AND cancel_requested_at IS NULL
       AND preempt_count < :most
       AND {NOT_PAUSED.format(lane=_LANE_BEFORE)}
       AND EXISTS (SELECT FROM urgent)
    RETURNING id
), marked AS (
    UPDATE transcription_jobs
       SET room_made_at = now()
     WHERE id = (SELECT id FROM urgent)
       AND EXISTS (SELECT FROM aside)
)
SELECT id FROM aside
""")

#: What the job needs is not there now. That is not its fault: it waits, longer each time.
PUT_OFF: Final = text(f"""
UPDATE transcription_jobs
   SET status = CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled' ELSE 'pending' END,
       completed_at = CASE WHEN cancel_requested_at IS NOT NULL THEN now() END,
       attempt = GREATEST(attempt - 1, 0),
       put_off_count = put_off_count + 1,
       not_before = now() + delay.pause,
       dispatch_due_at = now() + delay.pause,
       dispatch_count = 0,
       error_code = :code,
       error_message = :message,
       {_NO_LEASE}
  FROM (SELECT {_BACKOFF.format(exponent="put_off_count")} AS pause
          FROM transcription_jobs
         WHERE id = :job_id) AS delay
 WHERE id = :job_id
   AND status = 'processing'
   AND lease_epoch = :epoch
RETURNING status
""")

#: The job hung, or the process of its own that it ran in died. The first time makes it a suspect;
#: alone, it is nobody else's fault.
CRASH: Final = text(f"""
WITH ended AS (
    UPDATE transcription_jobs
       SET status = CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled'
                         WHEN verdict.poison THEN 'failed'
                         ELSE 'pending' END,
           failure_reason = CASE WHEN cancel_requested_at IS NULL AND verdict.poison
                                 THEN 'poison' END,
           completed_at = CASE WHEN cancel_requested_at IS NOT NULL OR verdict.poison
                               THEN now() END,
           crash_count = crash_count + (NOT isolate)::int,
           solo_crash_count = solo_crash_count + isolate::int,
           isolate = true,
           attempt = GREATEST(attempt - 1, 0),
           not_before = now() + verdict.pause,
           dispatch_due_at = now() + verdict.pause,
           dispatch_count = 0,
           error_code = :code,
           error_message = :message,
           {_NO_LEASE}
      FROM (SELECT (isolate AND solo_crash_count + 1 >= :max_solo_crashes)
                   OR (NOT isolate AND crash_count + 1 >= :max_crashes) AS poison,
                   {_BACKOFF.format(exponent="crash_count + solo_crash_count")} AS pause
              FROM transcription_jobs
             WHERE id = :job_id) AS verdict
     WHERE id = :job_id
       AND status = 'processing'
       AND lease_epoch = :epoch
    RETURNING id, lease_epoch, status
), logged AS ({_LOG_ERROR})
SELECT status FROM ended
""").bindparams(bindparam("context", type_=JSONB))

#: A suspect has had its turn: the next is due, of those that came while another had theirs. They
#: ask again anyway, each at its own time, and are lucky or not; the first submitted is called.
CALL_SUSPECT: Final = text("""
WITH next AS (
    SELECT id
      FROM transcription_jobs
     WHERE status = 'pending'
       AND isolate
       AND error_code = :code
       AND cancel_requested_at IS NULL
       AND not_before > now()
     ORDER BY created_at, id
     LIMIT 1
       FOR UPDATE SKIP LOCKED
)
UPDATE transcription_jobs AS job
   SET not_before = now(),
       dispatch_due_at = now(),
       dispatch_count = 0
  FROM next
 WHERE job.id = next.id
RETURNING job.id
""")

#: The client's wish: at once while the job waits, at the next window while it is processed.
CANCEL: Final = text("""
UPDATE transcription_jobs
   SET cancel_requested_at = COALESCE(cancel_requested_at, now()),
       status = CASE WHEN status = 'pending' THEN 'cancelled' ELSE status END,
       completed_at = CASE WHEN status = 'pending' THEN now() END,
       upload_bytes = CASE WHEN upload_awaited THEN 0 ELSE upload_bytes END
 WHERE id = :job_id
   AND (CAST(:owner_id AS uuid) IS NULL OR owner_id = :owner_id)
   AND status IN ('pending', 'processing')
RETURNING status
""")

#: The worker saw the wish.
CANCELLED: Final = text(f"""
UPDATE transcription_jobs
   SET status = 'cancelled',
       completed_at = now(),
       {_NO_LEASE}
 WHERE id = :job_id
   AND status = 'processing'
   AND lease_epoch = :epoch
   AND cancel_requested_at IS NOT NULL
RETURNING status
""")

#: Those of these leases whose heartbeat has not moved, and nobody else has locked.
_STILL = """
    SELECT job.id, job.worker_name, job.crash_count + job.solo_crash_count AS crashes
      FROM transcription_jobs AS job
      JOIN unnest(:ids, :epochs, :heartbeats) AS seen (id, epoch, heartbeat)
        ON job.id = seen.id AND job.lease_epoch = seen.epoch AND job.heartbeat_seq = seen.heartbeat
     WHERE job.status = 'processing'
       FOR UPDATE OF job SKIP LOCKED"""
_SEEN = (
    bindparam("ids", type_=ARRAY(UUID(as_uuid=True))),
    bindparam("epochs", type_=ARRAY(BigInteger)),
    bindparam("heartbeats", type_=ARRAY(BigInteger)),
)

#: Write what a heartbeat would, and change nothing: a row that cannot be written is its worker's
#: excuse.
TOUCH: Final = text(f"""
WITH still AS ({_STILL}
)
UPDATE transcription_jobs AS job
   SET heartbeat_seq = heartbeat_seq
  FROM still
 WHERE job.id = still.id
RETURNING job.id
""").bindparams(*_SEEN)

#: End leases whose heartbeat stood still. Whoever beat in the meantime is left alone.
REAP: Final = text(f"""
WITH still AS ({_STILL}
), ended AS (
    UPDATE transcription_jobs AS job
       SET status = CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled'
                         WHEN crash_count + 1 >= :max_crashes THEN 'failed'
                         ELSE 'pending' END,
           failure_reason = CASE WHEN cancel_requested_at IS NULL
                                  AND crash_count + 1 >= :max_crashes THEN 'poison' END,
           completed_at = CASE WHEN cancel_requested_at IS NOT NULL
                                 OR crash_count + 1 >= :max_crashes THEN now() END,
           crash_count = crash_count + 1,
           isolate = true,
           attempt = GREATEST(attempt - 1, 0),
           not_before = now() + delay.pause,
           dispatch_due_at = now() + delay.pause,
           dispatch_count = 0,
           error_code = :code,
           error_message = :message,
           worker_name = NULL,
           current_step = NULL
      FROM still,
           LATERAL (SELECT still.id AS for_id,
                           {_BACKOFF.format(exponent="still.crashes")} AS pause) AS delay
     WHERE job.id = still.id
    RETURNING job.id, job.lease_epoch, job.status, job.attempt, still.worker_name
), logged AS (
    INSERT INTO error_logs
           (job_id, attempt, lease_epoch, worker_name, error_code, error_message)
    SELECT id, attempt + 1, lease_epoch, worker_name, :code, :message
      FROM ended
)
SELECT id, status, worker_name FROM ended
""").bindparams(*_SEEN)

#: Everything was set back to an earlier time: no lease counts any more, nor any that was given
#: since and that nobody remembers. So the epoch rises by more than it can have in that time, and
#: by another amount each time: milliseconds since 1970. What can never be claimed again keeps its
#: own.
VOID: Final = text(f"""
UPDATE transcription_jobs
   SET lease_epoch = lease_epoch + CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS bigint),
       status = CASE WHEN status <> 'processing' THEN status
                     WHEN cancel_requested_at IS NOT NULL THEN 'cancelled'
                     ELSE 'pending' END,
       completed_at = CASE WHEN status = 'processing' AND cancel_requested_at IS NOT NULL
                           THEN now() ELSE completed_at END,
       attempt = GREATEST(attempt - (status = 'processing')::int, 0),
       dispatch_due_at = now(),
       dispatch_count = 0,
       {_NO_LEASE}
 WHERE status IN ('pending', 'processing', 'failed')
RETURNING status
""")

#: An operator sends failed jobs round again; another model or engine starts from the beginning.
#: Locked in one order, so that two operators at once wait for each other and do not lock up.
REDRIVE: Final = text("""
WITH chosen AS (
    SELECT id,
           COALESCE(:model_name <> model_name, false) AS other_model,
           COALESCE(:model_name <> model_name, false)
               OR COALESCE(:engine_name <> engine_name, false) AS anew
      FROM transcription_jobs
     WHERE id = ANY(:ids)
       AND status = 'failed'
       AND upload_deleted_at IS NULL
       AND quarantined_at IS NULL
     ORDER BY id
       FOR UPDATE
), redriven AS (
    UPDATE transcription_jobs AS job
       SET status = 'pending',
           isolate = (failure_reason = 'poison'),
           failure_reason = NULL,
           completed_at = NULL,
           cancel_requested_at = NULL,
           dead_letter_noted_at = NULL,
           resolved_at = NULL,
           resolved_by = NULL,
           resolution_notes = NULL,
           crash_count = 0,
           solo_crash_count = 0,
           put_off_count = 0,
           preempt_count = 0,
           attempt = 0,
           max_attempts = :max_attempts,
           not_before = CASE WHEN upload_awaited THEN :not_yet ELSE now() END,
           dispatch_due_at = now(),
           dispatch_count = 0,
           model_name = COALESCE(:model_name, model_name),
           engine_name = COALESCE(:engine_name, engine_name),
           priority = COALESCE(:priority, priority),
           progress = CASE WHEN anew THEN 0 ELSE progress END,
           fallbacks = CASE WHEN anew THEN '[]' ELSE fallbacks END,
           warnings = CASE WHEN other_model THEN :model_warnings ELSE warnings END
      FROM chosen
     WHERE job.id = chosen.id
    RETURNING job.id, job.lane, job.upload_awaited
), fetched AS (
    INSERT INTO upload_fetches (job_id)
    SELECT id
      FROM redriven
     WHERE upload_awaited
    ON CONFLICT (job_id) DO UPDATE
       SET due_at = now(),
           failures = 0,
           began_at = now()
), dropped AS (
    DELETE FROM transcription_windows
     USING chosen
     WHERE job_id = chosen.id
       AND anew
), resolved AS (
    UPDATE error_logs
       SET resolved = true,
           resolved_at = now(),
           resolved_by = :by,
           resolution_notes = :notes
      FROM chosen
     WHERE job_id = chosen.id
       AND NOT resolved
)
SELECT id, lane FROM redriven
""").bindparams(
    bindparam("ids", type_=ARRAY(UUID(as_uuid=True))),
    bindparam("model_name", type_=Text),
    bindparam("engine_name", type_=Text),
    bindparam("priority", type_=Text),
    bindparam("model_warnings", type_=JSONB),
)

#: The dead letter queue's task took note of a failed job.
NOTE_DEAD_LETTER: Final = text("""
UPDATE transcription_jobs
   SET dead_letter_noted_at = now()
 WHERE id = :job_id
   AND status = 'failed'
   AND dead_letter_noted_at IS NULL
RETURNING id, failure_reason, error_code, model_name, attempt, crash_count
""")

#: Failed jobs that the dead letter queue's task has not seen, because its message was lost.
UNNOTED_DEAD_LETTERS: Final = text("""
SELECT id
  FROM transcription_jobs
 WHERE status = 'failed'
   AND dead_letter_noted_at IS NULL
   AND completed_at NOT BETWEEN now() - make_interval(secs => :older_than)
                        AND now() + make_interval(secs => :older_than)
 ORDER BY completed_at
 LIMIT :limit
""")

#: The length that the upload's header tells, if it tells any, of the part that is asked for. A
#: worker's own is the truth.
PROBED: Final = text("""
UPDATE transcription_jobs
   SET probed_at = now(),
       audio_seconds =
           CASE WHEN audio_estimated AND CAST(:audio_seconds AS double precision) IS NOT NULL
                THEN GREATEST(0, LEAST(:audio_seconds, end_seconds) - start_seconds)
                ELSE audio_seconds END,
       audio_estimated = audio_estimated AND :estimated
 WHERE id = :job_id
""")
