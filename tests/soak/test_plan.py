"""A soak can be repeated: everything comes from its seed."""

from itertools import islice

from soak.plan import FAULTS, MIX, Plan


def test_the_same_seed_gives_the_same_jobs_and_faults() -> None:
    """Two runs of one seed differ in nothing that is up to us."""
    one, other = Plan(7, 200), Plan(7, 200)

    assert one.jobs == other.jobs
    assert list(islice(one.faults(), 60)) == list(islice(other.faults(), 60))


def test_another_seed_gives_others() -> None:
    """The seed decides."""
    assert Plan(7, 200).jobs != Plan(8, 200).jobs


def test_a_short_run_has_jobs_of_every_kind() -> None:
    """Even kinds that are one in a thousand."""
    assert {job.kind for job in Plan(1, 20).jobs} == {*MIX}


def test_one_pass_through_the_faults_has_each_as_often_as_it_should() -> None:
    """No kind is left to luck."""
    kinds = [fault.kind for fault in islice(Plan(1, 20).faults(), sum(FAULTS.values()))]

    assert {kind: kinds.count(kind) for kind in FAULTS} == FAULTS


def test_the_text_of_each_null_job_is_its_own() -> None:
    """A result that belongs to another job would be noticed."""
    texts = [job.script.text for job in Plan(1, 300).jobs if job.script]

    assert len(texts) == len(set(texts))


def test_named_kinds_are_the_only_ones() -> None:
    """For configurations that know fewer, and for tests that want one."""
    plan = Plan(1, 50, kinds=("null",), faults=("worker-duel",))

    assert {job.kind for job in plan.jobs} == {"null"}
    assert {fault.kind for fault in islice(plan.faults(), 5)} == {"worker-duel"}
