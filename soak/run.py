"""One soak: load and faults, then quiet, then a look at everything that is left."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import redis
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

import keys
from database import Sessions, make_sessions
from keys import Grant
from rig.engines import Script
from rig.ledger import Ledger, events
from rig.processes import free_port
from soak import leaks
from soak.clients import Accepted, Clients, Pace, Promises, samples_text
from soak.configurations import CONFIGURATIONS, Configuration
from soak.faults import Injected, Injector
from soak.observer import Observer
from soak.plan import OWNERS, Plan, PlannedJob
from soak.recovery import Bounds, History, Recovery, recoveries
from soak.service import SETTINGS, Life, Place, Supervisor, servers
from soak.verdict import LATE, OVERTAKEN, UNDRAINED, Evidence, Verdict, judge, overtaken

READY_SECONDS: Final = 120.0
#: The load, unless told otherwise.
JOBS_PER_SECOND: Final = 10.0
#: They come in bursts of so many for each slot.
BURST_PER_SLOT: Final = 4
#: The rush before the first fault: more normal jobs than there are slots, and then high ones.
RUSH_PER_SLOT: Final = 6
RUSH_HIGH: Final = 6
RUSH_SECONDS: Final = 120.0
#: A high job waits for a slot's window, and for a busy machine.
GRACE_SECONDS: Final = 1.5
#: After the load, how long a fault may still last.
SETTLE_SECONDS: Final = 150.0
#: Load and faults together may take so many times as long as planned.
OVERTIME: Final = 3.0
#: The last jobs keep every slot busy at once, if there is no slot that a fault has cost.
PROBE_SECONDS: Final = 90.0
TELL_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is asked for."""

    jobs: int
    seed: int
    #: How long the load lasts.
    seconds: float
    workers: int = 4
    configuration: str = "ours"
    #: Kinds of faults; all, if none is named.
    faults: tuple[str, ...] = ()
    #: How long after the last fault everything has to be done.
    drain_seconds: float = 300.0

    @property
    def slots(self) -> int:
        return self.workers * int(SETTINGS["CELERY_CONCURRENCY"])


@dataclass
class Aftermath:
    """What was seen before the processes were gone."""

    rushed: list[Accepted] = field(default_factory=list)
    load_seconds: float = 0.0
    #: From the end of the load and the faults to the end of the last job.
    drain_seconds: float = 0.0
    #: What broke a promise that no row tells of.
    broken: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Outcome:
    """All that a soak found out."""

    options: Options
    verdict: Verdict
    evidence: Evidence
    history: History
    faults: list[Injected]
    recoveries: list[Recovery]
    bounds: Bounds
    lives: list[Life]
    answers: dict[int, int]
    load_seconds: float
    drain_seconds: float


@dataclass
class Soak:
    """Everything that takes part."""

    options: Options
    configuration: Configuration
    place: Place
    supervisor: Supervisor
    observer: Observer
    sessions: Sessions
    client: redis.Redis
    promises: Promises
    injector: Injector
    clients: Clients
    plan: Plan
    say: Callable[[str], None]

    def rush(self) -> list[Accepted]:
        """Keep every slot busy, then send what is urgent, while all is well."""
        count = RUSH_PER_SLOT * self.options.slots
        jobs = _extra("R", count, "normal") + _extra("H", RUSH_HIGH, "high")
        sent = self.clients.send(jobs)
        self.wait_until(lambda: self.observer.unfinished() == 0, RUSH_SECONDS)
        return sent

    def load(self) -> None:
        """Send the plan's jobs, and inject its faults for as long as that takes."""
        began = told = time.monotonic()
        until = began + OVERTIME * self.options.seconds
        faults = self.plan.faults()
        fault = next(faults, None)
        due = began + (fault.pause_seconds if fault else 0.0)
        self.clients.start(self.plan.jobs)
        while self.clients.busy and time.monotonic() < until:
            time.sleep(0.05)
            now = time.monotonic()
            if fault is not None and now >= due:
                self.say(f"{now - began:7.1f} s  fault {fault.number}: {fault.kind}")
                self.injector.inject(fault)
                fault = next(faults, None)
                due = now + (fault.pause_seconds if fault else 0.0)
            if now - told > TELL_SECONDS:
                told = now
                self.say(f"{now - began:7.1f} s  {len(self.promises.accepted)} jobs accepted")

    def drain(self) -> float:
        """Wait until every job has its end; returns the seconds that it took."""
        began = time.monotonic()
        self.wait_until(lambda: self.observer.unfinished() == 0, self.options.drain_seconds)
        return time.monotonic() - began

    def probe_slots(self) -> list[str]:
        """Keep every slot busy at once; returns the slots that do not take part."""
        slots, most = self.options.slots, 0
        self.clients.send(_extra("S", slots, "normal", windows=60))
        until = time.monotonic() + PROBE_SECONDS
        while most < slots and time.monotonic() < until and self.observer.unfinished():
            most = max(most, self.observer.running())
            time.sleep(0.05)
        self.wait_until(lambda: self.observer.unfinished() == 0, PROBE_SECONDS)
        return [f"slot {number}" for number in range(most + 1, slots + 1)]

    def look_for_leaks(self) -> dict[str, list[str]]:
        """See what an idle service holds that it should not; first let the janitor clean up."""
        lives = [life for life in self.supervisor.lives if life.lives]
        leaks.clean_up(self.place, self.observer, self.sessions, lives)
        return {
            "processes leaked": leaks.settled(lambda: leaks.processes(self.place, self.supervisor)),
            "sessions of PostgreSQL leaked": leaks.settled(
                lambda: leaks.sessions(self.observer, self.supervisor)
            ),
            "connections to Redis leaked": leaks.settled(
                lambda: leaks.connections(self.client, self.supervisor)
            ),
            "files leaked": leaks.settled(lambda: leaks.files(self.place, self.observer)),
            "rows leaked": leaks.settled(lambda: leaks.rows(self.observer, self.supervisor)),
        }

    def stop(self) -> list[str]:
        """End everything as an operator does; returns what did not end, or left something."""
        self.supervisor.close()
        stuck = []
        for life in [life for life in self.supervisor.lives if life.lives]:
            try:
                self.supervisor.end(life)
            except subprocess.TimeoutExpired:
                stuck.append(f"{life.name} does not end")
        stuck += leaks.settled(lambda: leaks.processes(self.place, self.supervisor))
        stuck += leaks.settled(lambda: leaks.sessions(self.observer, self.supervisor))
        return stuck + leaks.settled(lambda: leaks.connections(self.client, self.supervisor))

    def evidence(self) -> Evidence:
        return Evidence(
            accepted=self.promises.accepted,
            cancelled=frozenset(self.promises.cancelled),
            perhaps_cancelled=frozenset(self.promises.perhaps_cancelled),
            jobs=self.observer.jobs(),
            results=self.observer.results(),
            events=self.observer.events(),
            ledger=list(events(self.place.ledger)),
            samples=samples_text(),
        )

    def wait_until(self, fact: Callable[[], bool], seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not (found := fact()) and time.monotonic() < until:
            time.sleep(0.2)
        return found


def _extra(letter: str, count: int, priority: str, windows: int = 8) -> list[PlannedJob]:
    """Jobs beside the plan, with numbers that it does not have."""
    return [
        PlannedJob(
            number=-1 - number,
            kind="null",
            script=Script(windows=windows, seconds=0.2, tag=f"{letter}{number}"),
            sample=None,
            owner=0,
            priority=priority,
        )
        for number in range(count)
    ]


def run(options: Options, say: Callable[[str], None]) -> Outcome:
    """Do one soak, and leave nothing running."""
    after = Aftermath()
    with _started(options, say) as soak:
        say("ready; a rush of jobs, while all is well")
        after.rushed = soak.rush()
        began = time.monotonic()
        soak.load()
        after.load_seconds = time.monotonic() - began
        soak.clients.close()
        soak.injector.settle(SETTLE_SECONDS)
        soak.place.start()
        say(f"{after.load_seconds:7.1f} s  no more load, no more faults")
        after.drain_seconds = soak.drain()
        # before anything is asked of the service that gives them more time
        after.broken[UNDRAINED] = soak.observer.open_jobs()
        if soak.configuration.is_ours:
            after.broken["slots leaked (I6)"] = soak.probe_slots()
            after.broken |= soak.look_for_leaks()
        evidence = soak.evidence()
        after.broken["left behind at the end"] = soak.stop()
        return _outcome(soak, evidence, after)


def _outcome(soak: Soak, evidence: Evidence, after: Aftermath) -> Outcome:
    history, bounds = History(evidence.events), Bounds.of(SETTINGS)
    accepted_at = sorted(one.at for one in evidence.accepted)
    found = recoveries(soak.injector.injected, history, bounds, accepted_at)
    late = (f"{one.kind}: {one.seconds:.1f} s" for one in found if one.late)
    verdict = judge(evidence, history)
    sent = {one.job.number for one in evidence.accepted}
    verdict.add("never accepted", (job.number for job in soak.plan.jobs if job.number not in sent))
    verdict.add(OVERTAKEN, overtaken(after.rushed, history, grace_seconds=GRACE_SECONDS))
    verdict.add(LATE, late)
    verdict.add("processes that ended by themselves", _unexplained(soak, evidence))
    for promise, what in after.broken.items():
        verdict.add(promise, what)
    return Outcome(
        options=soak.options,
        verdict=verdict,
        evidence=evidence,
        history=history,
        faults=soak.injector.injected,
        recoveries=found,
        bounds=bounds,
        lives=soak.supervisor.lives,
        answers=dict(soak.promises.answers),
        load_seconds=after.load_seconds,
        drain_seconds=after.drain_seconds,
    )


def _unexplained(soak: Soak, evidence: Evidence) -> Iterator[str]:
    """Processes that ended before they were told to, and not of a poisonous job either."""
    poisoned = {noted["pid"] for noted in evidence.ledger if noted["what"] == "fault"}
    for life in soak.supervisor.lives:
        told = life.fault is not None or life.status in {None, 0}
        if not told and life.process.pid not in poisoned:
            yield f"{life.name}: {life.status}"


@contextmanager
def _started(options: Options, say: Callable[[str], None]) -> Iterator[Soak]:
    configuration = CONFIGURATIONS[options.configuration]
    leaks.adopt_orphans()
    with servers(free_port()) as place:
        configuration.prepare(place.postgres.url)
        engine = create_engine(place.database_url(leaks.OUR_NAME), pool_pre_ping=True)
        client = redis.Redis.from_url(place.valkey.url, socket_timeout=10, health_check_interval=1)
        observer = Observer(engine)
        observer.install(configuration.triggers)
        supervisor = Supervisor(place.folder, place.environment)
        try:
            for role, (count, arguments) in configuration.commands(options.workers).items():
                supervisor.add(role, count, arguments)
            supervisor.await_ready(READY_SECONDS)
            supervisor.start()
            promises = Promises(Ledger(place.folder / "promises.jsonl"))
            yield Soak(
                options=options,
                configuration=configuration,
                place=place,
                supervisor=supervisor,
                observer=observer,
                sessions=make_sessions(engine),
                client=client,
                promises=promises,
                injector=Injector(place, supervisor, observer, client),
                clients=Clients(
                    f"http://127.0.0.1:{place.port}",
                    _keys(engine) if configuration.is_ours else [""] * OWNERS,
                    promises,
                    request=configuration.request,
                    pace=Pace(
                        seconds_between=options.seconds / options.jobs,
                        burst=BURST_PER_SLOT * options.slots,
                    ),
                ),
                plan=Plan(
                    options.seed,
                    options.jobs,
                    kinds=configuration.kinds,
                    faults=options.faults or configuration.faults,
                ),
                say=say,
            )
        finally:
            supervisor.kill()
            client.close()
            engine.dispose()


def _keys(engine: Engine) -> list[str]:
    """A key of each owner."""
    with Session(engine) as session, session.begin():
        return [keys.create(session, Grant(owner=f"owner-{n}"))[0] for n in range(OWNERS)]
