"""Being served under a path, behind a proxy that keeps it or takes it off."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


def route_path(scope: Scope) -> str:
    """The path as our routes have it, without the one that we are served under."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) or "/"


class RootPathMiddleware:
    """Completes a request's path, as ASGI has it: ``path`` begins with ``root_path``.

    Of requests that come past the proxy, such as a container's health check, it is ours alone.
    """

    def __init__(self, app: ASGIApp, *, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            is_whole = path == self._root_path or path.startswith(f"{self._root_path}/")
            scope["root_path"] = self._root_path
            scope["path"] = path if is_whole else self._root_path + path
        await self._app(scope, receive, send)
