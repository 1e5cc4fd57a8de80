"""Serves the page of ``digitlab watch`` to browsers on this machine. ``digitlab.cli.watch`` starts it.

It changes nothing. It refuses addresses without the token, which is new for each start, so other users of the machine
see nothing. It also refuses requests that name another host: otherwise the owner of a web page could make the name of
its host point to this machine (DNS rebinding), and the page could read the answers.
"""

import json
import secrets
import socket
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from markupsafe import Markup
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from digitlab.config.place import train_command
from digitlab.core.errors import ConfigError
from digitlab.core.html_page import security_policy, template_environment
from digitlab.watch.laboratory import Laboratory

_HOST = "127.0.0.1"
_HOST_NAMES = (_HOST, "localhost")
_POLL_SECONDS = 0.1  # Ctrl-C ends the server within this time.
# A report comes from a run folder, which may come from somebody else. With this policy, scripts in the report can read
# neither the page nor the token.
_REPORT_POLICY = "sandbox allow-scripts allow-popups allow-downloads"
_TEXT = "text/plain; charset=utf-8"


class WatchApp:
    """The WSGI application that shows ``laboratory`` under ``/TOKEN/``, read only."""

    def __init__(self, laboratory: Laboratory, *, token: str | None = None) -> None:
        self.laboratory = laboratory
        self.token = secrets.token_urlsafe(16) if token is None else token

    def __call__(self, environ: Any, start_response: Any) -> Any:
        response = self._answer(Request(environ))
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cache-Control"] = "no-store"
        response.headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        if urlsplit(f"//{request.environ.get('HTTP_HOST', '')}").hostname not in _HOST_NAMES:
            return _refusal(403, f"This page is only at {_HOST} and localhost: use the printed address.")
        # The path is /TOKEN/ for the page, /TOKEN/state for changes, and /TOKEN/files/PATH for a report.
        token, slash, rest = request.path.lstrip("/").partition("/")
        if not secrets.compare_digest(token.encode(), self.token.encode()):
            return _refusal(403, "The token is missing or wrong. Use the whole address that digitlab watch printed.")
        if request.method not in ("GET", "HEAD"):
            response = _refusal(405, "This page is read only.")
            response.headers["Allow"] = "GET, HEAD"
            return response
        if not rest:
            # Addresses on the page are relative, so they need the slash behind the token.
            return _page() if slash else Response(status=308, headers={"Location": f"/{token}/"})
        if rest == "state":
            return self._state(request)
        prefix, _, name = rest.partition("/")
        return self._report(name) if prefix == "files" else _refusal(404, "There is no such page.")

    def _state(self, request: Request) -> Response:
        """Return as JSON what has changed since the page asked last; the query has the arguments of ``changes``."""
        query = request.args
        answer = self.laboratory.changes(
            run=query.get("run", ""),
            sweep=query.get("sweep", ""),
            **{name: query.get(name, 0, type=int) for name in ("since", "rows", "generation", "losses", "drawn")},
        )
        return Response(json.dumps(answer, allow_nan=False), content_type="application/json")

    def _report(self, name: str) -> Response:
        """Return an HTML file under the root. Its path may not contain links or hidden folders."""
        root = self.laboratory.root
        path = root / name
        try:
            hidden = any(part.startswith(".") for part in Path(name).parts)
            # resolve() follows links. If it changes the path, then the path contains a link or ``..``.
            inside = path.resolve(strict=True) == path and path.is_relative_to(root)
            if hidden or not inside or path.suffix != ".html" or not path.is_file():
                return _refusal(404, "There is no such report.")
            content = path.read_bytes()
        except (OSError, ValueError):
            return _refusal(404, "There is no such report.")
        response = Response(content, content_type="text/html; charset=utf-8")
        response.headers["Content-Security-Policy"] = _REPORT_POLICY
        return response


def _refusal(status: int, text: str) -> Response:
    return Response(f"{text}\n", status=status, content_type=_TEXT)


@cache
def _page_text() -> tuple[str, str]:
    """Return the page and its content security policy, which allows only the page's own script."""
    templates, report_templates = files("digitlab.watch") / "templates", files("digitlab.report") / "templates"
    script = "".join((templates / name).read_text(encoding="utf-8") for name in ("charts.js", "page.js"))
    # The page looks like a report.
    style = (report_templates / "style.css").read_text(encoding="utf-8")
    style += (templates / "watch.css").read_text(encoding="utf-8")
    page = (
        template_environment("digitlab.watch")
        .get_template("page.html")
        .render(script=Markup(script), style=Markup(style), train_command=" ".join(train_command()))
    )
    other_rules = "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return page, f"{security_policy(script)}; {other_rules}"


def _page() -> Response:
    text, policy = _page_text()
    return Response(text, content_type="text/html; charset=utf-8", headers={"Content-Security-Policy": policy})


class _QuietHandler(WSGIRequestHandler):
    """Prints no line for each request: an open page asks every second."""

    protocol_version = "HTTP/1.1"  # With this version, a page keeps its connection.

    def log(self, type: str, message: str, *args: Any) -> None:
        pass


class WatchServer:
    """Serves ``app`` on ``port`` of the address 127.0.0.1, which no other machine can reach.

    With port 0, the system chooses a free one. Raises ``ConfigError`` if the port cannot be used.
    """

    def __init__(self, app: WatchApp, *, port: int) -> None:
        # The socket is made here, because werkzeug would print several lines and end the process if the port is taken.
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((_HOST, port))
                listener.listen()
            except (OSError, OverflowError) as error:
                reason = getattr(error, "strerror", None) or error
                allowed = f"can't be used ({reason}): choose another port, or --port 0 for a free one"
                raise ConfigError("--port", port, allowed) from error
            self._server: BaseWSGIServer = make_server(
                _HOST, port, app, threaded=True, request_handler=_QuietHandler, fd=listener.fileno()
            )
        self.address = f"http://{_HOST}:{self._server.port}/{app.token}/"

    def serve(self) -> None:
        """Answer requests until Ctrl-C, or until ``stop`` is called in another thread."""
        self._server.serve_forever(poll_interval=_POLL_SECONDS)

    def stop(self) -> None:
        self._server.shutdown()
