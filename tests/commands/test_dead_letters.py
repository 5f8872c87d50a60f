"""``cli.py errors``, as an operator types it."""

import json
import uuid
from datetime import datetime

import pytest
from sqlalchemy import text

from api.dead_letter_schemas import AttemptDetail, FailedJob, FailedJobDetail
from models import TranscriptionJob

#: Columns of a terminal that nobody made smaller.
COLUMNS = 100


@pytest.fixture
def row(sessions):
    def read(job_id):
        with sessions() as session:
            return session.get_one(TranscriptionJob, job_id)

    return read


@pytest.fixture
def change(sessions):
    """Change a job, or all, in ways that no command can."""

    def sql(assignments, job_id=None):
        with sessions.begin() as session:
            session.execute(
                text(
                    f"UPDATE transcription_jobs SET {assignments}"
                    " WHERE CAST(:id AS uuid) IS NULL OR id = :id"
                ),
                {"id": job_id},
            )

    return sql


def ids_in(printed):
    """The ids in the first column of a table."""
    return [line.split()[0] for line in printed.splitlines()[1:]]


# Looking


def test_failed_jobs_are_listed_the_latest_first(run, make_job):
    first, second = make_job(failed=True), make_job(failed=True)
    make_job()

    assert ids_in(run("errors", "list")) == [str(second), str(first)]


def test_the_list_fits_a_terminal(run, make_job, change):
    make_job(failed=True)
    change(
        "failure_reason = 'attempts_exhausted', error_code = 'storage_unavailable', attempt = 2,"
        " model_name = 'large-v3-turbo', completed_at = now() - interval '400 days'"
    )
    printed = run("errors", "list")

    assert "400 d  storage_unavailable x2  large-v3-turbo  alice" in printed
    assert max(map(len, printed.splitlines())) <= COLUMNS


@pytest.mark.parametrize(
    ("reason", "code", "shown"),
    [
        ("model_unavailable", "model_unavailable", "model_unavailable"),
        ("attempts_exhausted", "out_of_memory", "out_of_memory x1"),
        ("deadline", "deadline", "deadline x1"),
        ("poison", "worker_lost", "poison"),
    ],
)
def test_the_list_says_why(run, make_job, change, reason, code, shown):
    make_job(failed=True)
    change(f"failure_reason = '{reason}', error_code = '{code}'")

    assert f"  {shown}  tiny" in run("errors", "list")


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--code", "engine_error"], True),
        (["--code", "poison"], False),
        (["--model", "tiny"], True),
        (["--model", "turbo"], False),
        (["--engine", "openai-whisper"], True),
        (["--worker", "worker:1"], True),
        (["--worker", "worker"], True),
        (["--worker", "work"], False),
        (["--key", "alice"], True),
        (["--key", "bob"], False),
        (["--since", "2h"], True),
        (["--since", "30m"], False),
        (["--until", "30m"], True),
        (["--until", "2h"], False),
        (["--since", "2020-01-01T00:00:00Z", "--until", "2020-01-01T00:00:00+01:00"], False),
        (["--quarantined"], False),
    ],
)
def test_options_choose(run, make_job, change, options, found):
    job_id = make_job(failed=True)
    change("completed_at = now() - interval '1 hour'")

    assert ids_in(run("errors", "list", *options)) == [str(job_id)] * found


@pytest.mark.parametrize("time", ["yesterday", "2026-11-22", "2026-11-22T10:00:00", "2w", "m"])
def test_a_time_that_is_none_is_refused(fail, time):
    status, complaint = fail("errors", "list", "--since", time)

    assert status == 2
    assert "2026-11-22T16:03:29Z" in complaint.replace("│", "").replace("\n", " ")


def test_faults_of_the_input_and_what_was_dealt_with_are_listed_on_request(run, make_job, change):
    bad, done = make_job(failed=True), make_job(failed=True)
    change("failure_reason = 'not_audio'", bad)
    run("errors", "resolve", str(done))

    assert ids_in(run("errors", "list")) == []
    assert ids_in(run("errors", "list", "--permanent")) == [str(bad)]
    assert ids_in(run("errors", "list", "--resolved")) == [str(done)]


def test_programs_are_told_what_the_api_tells_by_the_same_names(run, make_job):
    job_id = make_job(failed=True)
    (listed,) = json.loads(run("errors", "list", "--json"))
    shown = json.loads(run("errors", "show", str(job_id), "--json"))

    FailedJob.model_validate(listed)
    assert listed.keys() == FailedJob.model_fields.keys()
    assert shown.keys() == FailedJobDetail.model_fields.keys() - {"job"}
    assert shown["attempts"][0].keys() == AttemptDetail.model_fields.keys()
    assert datetime.fromisoformat(shown["failed_at"]).tzinfo


def test_one_is_shown_with_its_attempts(run, make_job, sessions):
    job_id = make_job(failed=True)
    with sessions.begin() as session:
        session.execute(
            text("UPDATE error_logs SET traceback = 'Traceback: x', context = '{\"step\": \"y\"}'")
        )
    shown = run("errors", "show", str(job_id))

    for told in ("speech.mp3", "attempt 1 on worker:1", "engine_error: No.", "Traceback: x"):
        assert told in shown
    assert "  step: y\n" in shown


# Sending round again


def test_one_is_sent_round_again_with_something_else(run, make_job, row):
    job_id = make_job(failed=True)
    options = ("--with-model", "turbo", "--with-engine", "faster-whisper")
    printed = run("errors", "retry", str(job_id), *options, "--with-priority", "high")

    job = row(job_id)
    assert printed == f"{job_id} waits again, in high.\n"
    assert (job.status, job.model_name, job.engine_name, job.priority) == (
        "pending",
        "large-v3-turbo",
        "faster-whisper",
        "high",
    )


def test_many_are_sent_round_again(run, make_job, change, row):
    ids = [make_job(failed=True) for _ in range(3)]
    change("error_code = 'out_of_memory'", ids[0])
    change("error_code = 'out_of_memory'", ids[1])
    printed = run("errors", "retry", "--code", "out_of_memory", "--with-model", "tiny")

    assert printed == "2 retried, 0 skipped.\n"
    assert [row(job_id).status for job_id in ids] == ["pending", "pending", "failed"]


def test_all_are_sent_round_again_sweep_by_sweep(run, make_job, monkeypatch, row):
    ids = [make_job(failed=True) for _ in range(5)]
    monkeypatch.setattr("commands.dead_letters.SWEEP_JOBS", 2)

    assert run("errors", "retry", "--all") == "5 retried, 0 skipped.\n"
    assert {row(job_id).status for job_id in ids} == {"pending"}


def test_what_cannot_be_sent_round_is_named_with_the_reason(run, make_job, change):
    gone, german = make_job(failed=True), make_job(failed=True)
    change("upload_deleted_at = now()", gone)
    change("language = 'de'", german)
    printed = run("errors", "retry", "--all", "--with-model", "tiny.en")
    told = json.loads(run("errors", "retry", "--all", "--with-model", "tiny.en", "--json"))

    assert printed.splitlines() == [
        "0 retried, 2 skipped.",
        f"{german}  unknown_language",
        f"{gone}  upload_missing",
    ]
    assert (told["retried"], told["dry_run"]) == (0, False)
    assert told["skipped"][1] == {"job_id": str(gone), "code": "upload_missing"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["retry", "--all"], "1 would be retried, 0 skipped."),
        (["resolve", "--all"], "1 would be resolved, 0 skipped."),
        (["retry", "ID"], "ID would wait again, in normal."),
        (["resolve", "ID"], "ID would be resolved."),
    ],
)
def test_a_dry_run_changes_nothing(run, make_job, row, arguments, said):
    job_id = make_job(failed=True)
    typed = [str(job_id) if word == "ID" else word for word in arguments]
    printed = run("errors", *typed, "--dry-run")

    assert printed.strip() == said.replace("ID", str(job_id))
    assert (row(job_id).status, row(job_id).resolved_at) == ("failed", None)


@pytest.mark.parametrize("verb", ["retry", "resolve"])
def test_all_of_them_have_to_be_meant(fail, make_job, row, verb):
    job_id = make_job(failed=True)
    status, complaint = fail("errors", verb)

    assert (status, complaint) == (
        1,
        "error: Say which jobs: ids, options that choose, or --all.\n",
    )
    assert (row(job_id).status, row(job_id).resolved_at) == ("failed", None)


@pytest.mark.parametrize("verb", ["retry", "resolve"])
def test_ids_and_options_that_choose_do_not_go_together(fail, make_job, verb):
    job_id = str(make_job(failed=True))

    assert fail("errors", verb, job_id, "--code", "poison")[0] == 1
    assert fail("errors", verb, job_id, "--all")[0] == 1


@pytest.mark.parametrize(
    ("assignments", "options", "said"),
    [
        ("upload_deleted_at = now()", [], "no longer kept"),
        ("language = 'de'", ["--with-model", "tiny.en"], "unknown_language"),
        ("language = NULL", ["--with-model", "gpt"], "no model named"),
        ("language = NULL", ["--with-engine", "other"], "--with-engine should be one of"),
        ("quarantined_at = now()", [], "in quarantine"),
    ],
)
def test_what_cannot_be_sent_round_is_refused(
    fail, make_job, change, row, assignments, options, said
):
    job_id = make_job(failed=True)
    change(assignments)
    status, complaint = fail("errors", "retry", str(job_id), *options)

    assert (status, row(job_id).status) == (1, "failed")
    assert said in complaint


# Noting


def test_one_is_resolved_with_a_note(run, make_job, row):
    job_id = make_job(failed=True)
    run("errors", "resolve", str(job_id), "--note", "client told")

    assert (row(job_id).resolved_by, row(job_id).resolution_notes) == ("cli", "client told")


def test_many_are_resolved(run, make_job):
    for _ in range(2):
        make_job(failed=True)

    assert run("errors", "resolve", "--since", "1h") == "2 resolved, 0 skipped.\n"
    assert ids_in(run("errors", "list")) == []


def test_one_is_set_aside_and_taken_back(run, make_job):
    job_id = make_job(failed=True)
    run("errors", "quarantine", str(job_id), "--note", "for the lab")
    aside = ids_in(run("errors", "list", "--quarantined"))
    shown = run("errors", "show", str(job_id))
    passed_by = run("errors", "retry", "--all")
    run("errors", "release", str(job_id))

    assert aside == [str(job_id)]
    assert "by cli for the lab" in shown
    assert passed_by == "0 retried, 0 skipped.\n"
    assert ids_in(run("errors", "list")) == [str(job_id)]


VERBS = ["show", "retry", "resolve", "quarantine", "release"]


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_not_there_is_refused(fail, verb):
    assert fail("errors", verb, str(uuid.uuid4())) == (1, "error: There is no such job.\n")


@pytest.mark.parametrize("verb", VERBS)
def test_what_did_not_fail_is_refused(fail, make_job, verb):
    status, complaint = fail("errors", verb, str(make_job()))

    assert (status, "has not failed" in complaint) == (1, True)
