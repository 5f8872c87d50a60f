"""The service, as a client sees it: what is asked is asked again until there is an answer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self

import httpx2

from transcription_client import VERSION
from transcription_client.logins import Login
from transcription_client.troubles import JobTrouble, NotAllowed, Trouble, Unreachable, WrongUse

#: How long without any answer, or any room, until it is given up.
PATIENCE_SECONDS: Final = 300.0
#: The same, while it never answered: it is not there, or its address is wrong.
FIRST_PATIENCE_SECONDS: Final = 10.0
FIRST_PAUSE_SECONDS: Final = 1.0
LAST_PAUSE_SECONDS: Final = 30.0
TIMEOUT: Final = httpx2.Timeout(60.0, connect=10.0)
#: Whoever answers so may answer otherwise soon: a full queue, a limit, a proxy without its server.
PASSING: Final = frozenset({423, 429, 502, 503, 504})
#: What has its own word for how it ends.
TROUBLES: Final[Mapping[int, type[Trouble]]] = {
    HTTPStatus.UNAUTHORIZED: NotAllowed,
    HTTPStatus.FORBIDDEN: NotAllowed,
    HTTPStatus.CONFLICT: JobTrouble,
}

Job = dict[str, Any]


class Server:
    """One service and one key.

    Every request may be sent twice: those that make something carry a name of their own.

    Args:
        told: Is told why something takes longer than it should.
        patience_seconds: See ``PATIENCE_SECONDS``.
    """

    def __init__(
        self,
        login: Login,
        *,
        told: Callable[[str], None] = lambda _: None,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.login = login
        self._told = told
        self._pause = pause
        self._clock = clock
        self._patience_seconds = patience_seconds
        self._answered = False
        headers = {"User-Agent": f"transcription-client/{VERSION}"}
        if login.key is not None:
            headers["X-API-Key"] = login.key
        self._http = httpx2.Client(headers=headers, timeout=TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def ask(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Send until there is an answer; ``path`` begins with a slash, or is ``located``.

        Raises:
            Trouble: The answer is an error, or there was none for too long.
        """
        patience = self.patience()
        while True:
            try:
                return self.try_to(method, path, **options)
            except Passing as passing:
                patience.wait(passing)

    def try_to(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Send once.

        Raises:
            Passing: There was no answer, or one that may be another soon.
            Trouble: The answer is an error.
        """
        url = path if "://" in path else self.login.url + path
        try:
            answer = self._http.request(method, url, **options)
        except (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError) as error:
            raise WrongUse(f"{self.login.url}: {error}") from None
        except httpx2.TransportError as error:
            reason = str(error) or type(error).__name__
            raise Passing(f"{self.login.url} does not answer ({reason})", None) from None
        self._answered = True
        if answer.is_success:
            return answer
        said = detail_of(answer)
        if answer.status_code in PASSING:
            raise Passing(said, _seconds(answer.headers.get("Retry-After")))
        raise self._trouble(answer, said)

    def patience(self) -> Patience:
        return Patience(self._told, self._pause, self._clock, self._most)

    def _most(self) -> float:
        return self._patience_seconds if self._answered else FIRST_PATIENCE_SECONDS

    def job(self, job_id: str) -> Job:
        return self._json(self.ask("GET", f"/jobs/{job_id}"))

    def jobs(self, *, status: str | None, search: str | None, limit: int) -> Job:
        """A page of jobs: ``jobs``, ``total`` and ``next_cursor``."""
        wanted = {"status": status, "search": search, "limit": limit}
        said = {name: value for name, value in wanted.items() if value is not None}
        return self._json(self.ask("GET", "/jobs", params=said))

    def submit_address(self, source_url: str, fields: Mapping[str, str], name: str) -> Job:
        """Have the service fetch a recording; ``name`` is the submission's own."""
        form = {**fields, "source_url": source_url}
        headers = {"Idempotency-Key": name}
        return self._json(self.ask("POST", "/transcribe/", data=form, headers=headers))

    def cancel(self, job_id: str) -> Job:
        return self._json(self.ask("POST", f"/jobs/{job_id}/cancel"))

    def rerun(self, job_id: str, fields: Mapping[str, Any], name: str) -> Job:
        headers = {"Idempotency-Key": name}
        return self._json(
            self.ask("POST", f"/jobs/{job_id}/rerun", json=dict(fields), headers=headers)
        )

    def result(self, job_id: str, form: str) -> bytes:
        return self.ask("GET", f"/jobs/{job_id}/result", params={"format": form}).content

    def session(self) -> Job:
        """Who the key is: ``key``, ``scopes``, ``may_use_high`` and so on."""
        return self._json(self.ask("GET", "/session"))

    def located(self, answer: httpx2.Response) -> str:
        """Where ``Location`` points, whole.

        Raises:
            WrongUse: To somewhere else than this server, which alone is told the key.
        """
        target = answer.url.join(answer.headers.get("Location", ""))
        ours = httpx2.URL(self.login.url)
        if (target.scheme, target.host, target.port) != (ours.scheme, ours.host, ours.port):
            raise WrongUse(f"{self.login.url} sends us to {target.host}: ask its operator.")
        return str(target)

    def _json(self, answer: httpx2.Response) -> Job:
        try:
            read = answer.json()
        except ValueError:
            read = None
        if not isinstance(read, dict):
            raise WrongUse(f"{self.login.url} is something else than a transcription service.")
        return read

    def _trouble(self, answer: httpx2.Response, said: str) -> Trouble:
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            if self.login.key is None:
                said = "No key is known."
            said = f"{said} Sign in with `login {self.login.url}`."
        elif answer.is_redirect:
            place = answer.headers.get("Location", "another address")
            said = f"{self.login.url} has moved to {place}: use that address."
        otherwise = Unreachable if answer.is_server_error else WrongUse
        kind = TROUBLES.get(answer.status_code, otherwise)
        return kind(said, answered=answer.status_code)


class Passing(Exception):
    """No answer, or none that is the last word."""

    def __init__(self, reason: str, seconds: float | None) -> None:
        super().__init__(reason)
        self.reason = reason
        #: When to ask again, if the server said so.
        self.seconds = seconds


class Patience:
    """Waits longer and longer, and has an end."""

    def __init__(
        self,
        told: Callable[[str], None],
        pause: Callable[[float], None],
        clock: Callable[[], float],
        most: Callable[[], float],
    ) -> None:
        self._told = told
        self._pause = pause
        self._clock = clock
        self._most = most
        self.renew()

    def renew(self) -> None:
        """Something went well: begin anew."""
        self._since: float | None = None
        self._next = FIRST_PAUSE_SECONDS

    def wait(self, passing: Passing) -> None:
        """Pause until it is time to try again.

        Raises:
            Unreachable: It has been long enough.
        """
        now = self._clock()
        if self._since is None:
            self._since = now
        if now - self._since >= self._most():
            raise Unreachable(f"{passing.reason.rstrip('.')}, for {now - self._since:.0f} s.")
        seconds = min(max(passing.seconds or 0.0, self._next), LAST_PAUSE_SECONDS)
        self._told(f"{passing.reason.rstrip('.')}: trying again in {seconds:.0f} s")
        self._pause(seconds)
        self._next = min(2 * self._next, LAST_PAUSE_SECONDS)


def detail_of(answer: httpx2.Response) -> str:
    """What an answer says is wrong, in a line."""
    try:
        problem = json.loads(answer.text)
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or not isinstance(problem.get("detail"), str):
        return f"The server answered {answer.status_code} {answer.reason_phrase}."
    return str(problem["detail"])


def _seconds(said: str | None) -> float | None:
    """``Retry-After``, where it is a number."""
    return float(said) if said is not None and said.isdigit() else None
