"""The pages on which a person labels: on loopback, behind a token, without score, model or address of what is shown."""

import hmac
import http.server
import re
import secrets
import urllib.parse
from http import HTTPStatus

from humpback.report.markup import Html
from humpback.review.labels import Labels, self_agreement
from humpback.review.page import POLICY, render

_MOST = 10_000  # bytes of a form
_HOSTS = ("127.0.0.1", "localhost", "[::1]")


class Server(http.server.ThreadingHTTPServer):
    """Serves the items of one person, in their order, until it is ended; `address` is where."""

    def __init__(self, port: int, labels: Labels):
        self.labels, self.token = labels, secrets.token_urlsafe(24)
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def address(self) -> str:
        """What to open."""
        return f"http://127.0.0.1:{self.server_address[1]}/{self.token}/"

    def page(self, back: str = "") -> Html:
        """The next item without a label, or the one of `back`."""
        done, names = self.labels.read(), list(self.labels.shown)
        name = back if back in self.labels.shown else next((name for name in names if name not in done), "")
        before = names[names.index(name) - 1] if name and names.index(name) else "" if name else names[-1]
        progress, kind = f"{len(done):,} of {len(names):,} labelled", self.labels.sample.kind
        if name:
            return render(progress, kind, self.labels.shown[name], before)
        same, twice = self_agreement(done)
        told = f" Of {twice:,} that came twice, {same:,} were labelled the same." if twice else ""
        return render("All are labelled", kind, None, before, f"{progress}.{told}")


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    timeout = 60

    def do_GET(self) -> None:
        """The next item."""
        if (path := self._path()) is not None:
            back = urllib.parse.parse_qs(path).get("back", [""])[0]
            self._send(HTTPStatus.OK, str(self.server.page(back)))

    def do_POST(self) -> None:
        """A label, which is on disk before the answer goes out."""
        if self._path() is None:
            return
        size = self.headers.get("Content-Length", "")
        if self.headers.get("Origin") != f"http://{self.headers.get('Host')}" or not re.fullmatch("[0-9]{1,9}", size):
            self._send(HTTPStatus.FORBIDDEN, "not from this page")
            return
        if int(size) > _MOST:
            self._send(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "no label is so long")
            return
        form = urllib.parse.parse_qs(self.rfile.read(int(size)).decode("utf-8", "replace"))
        name, label = (form.get(field, [""])[0] for field in ("item", "label"))
        try:
            self.server.labels.add(name, label)
        except ValueError:
            self._send(HTTPStatus.BAD_REQUEST, "no such item or label")
            return
        self.send_response(HTTPStatus.SEE_OTHER)
        self.send_header("Location", f"/{self.server.token}/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _path(self) -> str | None:
        """The query of a request with the token, to this machine by name; any other one is answered here."""
        path, _, query = self.path.partition("?")
        host = self.headers.get("Host", "").rpartition(":")[0]
        if host in _HOSTS and hmac.compare_digest(path.encode(), f"/{self.server.token}/".encode()):
            return query
        self._send(HTTPStatus.FORBIDDEN, "open the address that `humpback review` printed")
        return None

    def _send(self, status: HTTPStatus, text: str) -> None:
        data = text.encode("utf-8", "replace")
        self.send_response(status)
        headers = {"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(data)), "Cache-Control": "no-store",
                   "Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin", "X-Content-Type-Options": "nosniff"}  # fmt: skip
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing: the token is part of every address."""

