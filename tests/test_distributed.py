"""The rendezvous: who is missing or differs is named, to everybody. Barriers and lost peers are in launch/test_local_pod.py."""

import concurrent.futures
import http.server
import os
import pathlib
import re
import socket
import socketserver
import subprocess
import sys
import threading
import time

import pytest
from jax._src import cloud_tpu_init

from humpback import distributed, metadata
from humpback.distributed import Place
from humpback.errors import UserError
from launch import local_pod

ROOT = pathlib.Path(__file__).parents[1]
FACTS = {"jax": "1.0", "--seed": "1"}


def gather(*visitors, count, timeout, before=None):
    """Process 0 and visitors (index, facts[, count]) meet in threads; returns what each of them was told, "" for go."""
    port = local_pod.free_ports()

    def one(index, facts, count=count):
        try:
            distributed.meet(Place(index, count, "127.0.0.1", port), facts, timeout)
        except UserError as error:
            return str(error)
        return ""

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        first = pool.submit(one, 0, FACTS)
        if before:
            before(port)
        others = [pool.submit(one, *visitor) for visitor in visitors]
        return [future.result() for future in (first, *others)]


def test_all_there_and_alike():
    assert gather((2, FACTS), (1, dict(FACTS)), count=3, timeout=20) == [""] * 3


@pytest.mark.parametrize(
    ("visitors", "count", "expected"),
    [
        ([(1, FACTS)], 4, ["processes 2, 3 of 4 did not come within 1 s"]),
        ([(1, {**FACTS, "jax": "0.9"})], 2, ["process 1 (host ", ") has jax 0.9, process 0 (host ", ") has jax 1.0."]),
        ([(1, {"jax": "1.0"})], 2, [") has --seed (none), process 0 (host "]),
        ([(1, FACTS), (2, {**FACTS, "--seed": "2"})], 3, ["process 2 (host ", "has --seed 2, process 0"]),
        ([(1, FACTS), (1, FACTS)], 3, ["process 2 of 3 did not come", "process id 1 is claimed 2 times, by hosts "]),
        ([(1, FACTS, 5)], 2, ["was told that there are 5 processes, process 0 that there are 2"]),
        ([(3, FACTS)], 2, ["process 1 of 2 did not come", "process 3 (host ", "is out of range: there are 2 processes"]),
        ([(0, FACTS)], 2, []),  # a second process 0 on the same host
    ],
)
def test_what_is_wrong_is_told_to_everybody(visitors, count, expected):
    told = gather(*visitors, count=count, timeout=1 if not expected or "did not come" in expected[0] else 20)
    if not expected:
        assert any("did not come" in text for text in told) and any("cannot listen on port" in text for text in told)
        return
    assert len(set(told)) == 1, told
    for text in expected:
        assert text in told[0]


def test_of_much_trouble_only_the_beginning_is_told():
    cards = [{"index": i, "count": 500, "host": f"h{i}", "facts": {"jax": "1" if i == 0 else "2"}} for i in range(400)]
    text, passing = distributed.judge(cards, 60)
    assert "400, 401" in text and "and 90 more of 500" in text and "and 395 more like these" in text and len(text) < 1000
    assert not passing


def test_strangers_and_those_who_come_again_do_no_harm(caplog):
    def knock(port):
        """A port scanner that says nothing, something else that talks, and a process that was ended and comes again."""
        own = b'{"humpback": {"index": 1, "count": 2, "host": "h", "facts": {}}}\n'
        for text in (b"", b"GET / HTTP/1.1\r\n\r\n", b'{"humpback": 3}\n', b"x" * 3_000_000, own):
            deadline = time.monotonic() + 10
            while True:
                try:
                    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
                    break
                except ConnectionRefusedError:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
            silent.append(connection)
            try:
                connection.sendall(text)
            except ConnectionError:  # refused in the middle of the endless line
                continue
            if text is own:
                connection.close()
                time.sleep(0.2)

    silent: list[socket.socket] = []
    # The process that went is not the one that comes, which has the right facts; process 2 makes everybody wait for both.
    assert gather((1, FACTS), (2, FACTS), count=3, timeout=10, before=knock) == [""] * 3
    assert not caplog.records  # asyncio tells of what nobody caught
    for connection in silent:
        connection.close()


def test_process_0_that_never_comes_is_named():
    port = local_pod.free_ports()
    with pytest.raises(UserError, match=f"process 1 of 2 could not reach process 0 at 127.0.0.1 port {port} within 0.5 s"):
        distributed.meet(Place(1, 2, "127.0.0.1", port), FACTS, 0.5)


def test_process_0_that_does_not_answer_is_named():
    class Silent(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(1)

    with socketserver.TCPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        with pytest.raises(UserError, match=f"could not reach process 0 at 127.0.0.1 port {port} within 0.5 s"):
            distributed.meet(Place(1, 2, "127.0.0.1", port), FACTS, 0.5)
        server.shutdown()


JAX = {"JAX_COORDINATOR_ADDRESS": "head:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
TPU = {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}
SLICES = {**TPU, "MEGASCALE_COORDINATOR_ADDRESS": "c:8080", "MEGASCALE_NUM_SLICES": "3", "MEGASCALE_SLICE_ID": "2"}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, None),
        (JAX, Place(3, 4, "head", 1235)),
        ({**JAX, "HUMPBACK_RENDEZVOUS_PORT": "99"}, Place(3, 4, "head", 99)),
        ({**JAX, "JAX_COORDINATOR_ADDRESS": "[::1]:7"}, Place(3, 4, "::1", 8)),
        ({**JAX, **TPU}, Place(3, 4, "head", 1235)),
        ({**JAX, "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, None),
        (TPU, Place(1, 2, "a", 8490)),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"TPU_PROCESS_ADDRESSES": "local", "TPU_WORKER_HOSTNAMES": "a,b"}, None),  # Kaggle's
        ({"TPU_PROCESS_ADDRESSES": "a:8476,b:8476", "TPU_WORKER_ID": "1"}, Place(1, 2, "a", 8490)),
        (SLICES, Place(5, 6, "c", 8490)),
        ({**SLICES, "TPU_WORKER_HOSTNAMES": "a", "TPU_WORKER_ID": "0"}, Place(2, 3, "c", 8490)),
    ],
)
def test_place_in_the_environment(environment, place):
    assert distributed.find_place(environment) == place


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({**JAX, "JAX_PROCESS_ID": "4"}, "process id 4 is out of range"),
        ({**JAX, "JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID=-1"),
        ({"JAX_COORDINATOR_ADDRESS": "head:1234"}, "JAX_NUM_PROCESSES=nothing"),
        ({**JAX, "JAX_COORDINATOR_ADDRESS": "head"}, "it must be HOST:PORT"),
        ({**JAX, "JAX_COORDINATOR_ADDRESS": "head:65535"}, "would be 65536"),
        ({**TPU, "TPU_WORKER_ID": "2"}, "TPU_WORKER_ID=2 is out of range"),
        ({**SLICES, "TPU_WORKER_HOSTNAMES": ""}, "TPU_WORKER_HOSTNAMES must name the hosts"),
        ({**SLICES, "MEGASCALE_SLICE_ID": "3"}, "process id 7 is out of range"),
    ],
)
def test_contradictions_in_the_environment(environment, message):
    with pytest.raises(UserError, match=message):
        distributed.find_place(environment)


ALONE = None
TWO = {"agent-worker-number": "1", "worker-network-endpoints": "unknown:unknown:worker-7,unknown:unknown:worker-8"}
SLICE = "MEGASCALE_COORDINATOR_ADDRESS: 'first-2'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
HTML = "<html><head><title>Sign in</title></head></html>"


class Metadata(http.server.BaseHTTPRequestHandler):
    """Answers with the server's `attributes`: a number is a status, `silence` seconds without a word, `drip` a byte at a time."""

    def do_GET(self):
        self.server.asked.append(self.path)
        answer = self.server.attributes.get(self.path.rpartition("/")[2], self.server.attributes.get("*", 404))
        if answer == "silence":
            self.server.over.wait(30)
            return
        self.send_response(answer if isinstance(answer, int) else 200)
        if answer is not HTML:
            self.send_header("Metadata-Flavor", "Google")
        self.end_headers()
        if answer == "drip":
            while not self.server.over.wait(0.2):
                self.wfile.write(b"1")
        self.wfile.write(answer.encode() if isinstance(answer, str) else b"nothing")

    def log_message(self, *_):
        pass


@pytest.fixture
def tpu_vm(monkeypatch):
    """A machine with TPU chips; the function gives its metadata server what it says, None for no server, and returns what was asked."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    server.over, server.asked, server.attributes, server.daemon_threads = threading.Event(), [], {}, True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    monkeypatch.setattr(cloud_tpu_init, "running_in_cloud_tpu_vm", True)

    def answer(attributes):
        monkeypatch.setattr(metadata, "_known", [])
        port = server.server_port if attributes is not None else local_pod.free_ports()
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{port}")
        server.attributes = attributes or {}
        server.asked.clear()
        return server.asked

    yield answer
    server.over.set()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({**TWO, "tpu-env": f"ACCELERATOR_TYPE: 'v5litepod-8'\n{SLICE}"}, Place(3, 4, "first-2", 8490)),
        ({**TWO, "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-8'\n"}, Place(1, 2, "worker-7", 8490)),
        ({"agent-worker-number": "0", "worker-network-endpoints": "a,b"}, Place(0, 2, "a", 8490)),
        (None, ALONE),  # connection refused
        ({"*": 404}, ALONE),
        ({"*": 403}, ALONE),
        ({"*": HTML}, ALONE),  # a gateway's page to everything
        ({"agent-worker-number": "0"}, ALONE),
        ({"agent-worker-number": "0", "worker-network-endpoints": "unknown:unknown:10.1"}, ALONE),
        ({"agent-worker-number": "0", "worker-network-endpoints": ""}, ALONE),
        ({"agent-worker-number": "", "worker-network-endpoints": ""}, ALONE),
        ({"agent-worker-number": "0", "worker-network-endpoints": "", "tpu-env": SLICE}, Place(1, 2, "first-2", 8490)),
        ({"agent-worker-number": "", "worker-network-endpoints": "a,b"}, "agent-worker-number '', worker-network-endpoints 'a,b'"),
        ({"agent-worker-number": "2", "worker-network-endpoints": "a,b"}, "which of several machines this is"),
        ({"agent-worker-number": "1"}, "which of several machines this is"),
        ({"agent-worker-number": "x", "worker-network-endpoints": "a"}, "which of several machines this is"),
        ({"agent-worker-number": "0", "worker-network-endpoints": "a:1,b:2"}, "which of several machines this is"),
        ({"*": "silence"}, "gave no answer within 4 s; try again"),
        ({"*": "drip"}, "gave no answer within 4 s"),
        ({"*": 500}, "gave no answer within 4 s"),
        ({"agent-worker-number": "0", "*": "silence"}, "gave no answer within 4 s"),
    ],
)
def test_a_tpu_vm_asks_its_metadata_server_for_four_seconds_at_most(attributes, expected, tpu_vm, monkeypatch):
    """As gcloud makes them: the environment names nobody, the server does. It is asked once a process, whatever it says."""
    slow = isinstance(expected, str) and "4 s" in expected
    if slow:
        monkeypatch.setattr(metadata, "SECONDS", 0.4)  # the true limit is that of the test below
        expected = expected.replace("4 s", "0.4 s")
    asked, before = tpu_vm(attributes), time.monotonic()
    for _ in range(3):
        if isinstance(expected, str):
            with pytest.raises(UserError, match=re.escape(expected)) as error:
                distributed.find_place({})
            assert "TPU_SKIP_MDS_QUERY=1" in str(error.value)
        else:
            assert distributed.find_place({}) == expected
    assert not slow or time.monotonic() - before < 4
    assert len(asked) == len(set(asked)) <= 3 or attributes == {"*": 500}
    assert {name.rpartition("/")[2] for name in asked} <= {"agent-worker-number", "worker-network-endpoints", "tpu-env"}


def test_the_metadata_server_is_asked_only_where_it_may_know_something(tpu_vm, monkeypatch):
    assert metadata.SECONDS == 4
    asked = tpu_vm(TWO)
    for told in ({"JAX_PLATFORMS": "cpu"}, {"TPU_PROCESS_ADDRESSES": "local"}, {"TPU_WORKER_HOSTNAMES": "localhost"}):
        assert distributed.find_place(told) is None
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    assert distributed.find_place({}) is None
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY")
    monkeypatch.setattr(cloud_tpu_init, "running_in_cloud_tpu_vm", False)
    assert distributed.find_place({}) is None and asked == []


# JAX itself would ask on, with half a minute of attempts at each name.
JOIN = """
import sys, time
from jax._src import cloud_tpu_init
import jax
from humpback import distributed
cloud_tpu_init.running_in_cloud_tpu_vm = True
distributed.meet = lambda *_: None
distributed.describe = lambda _: {}
jax.distributed.initialize = lambda *told, **how: print(told, how)
distributed.start()
"""


def test_jax_is_told_all_and_asks_nothing(tpu_vm, monkeypatch):
    asked = tpu_vm(TWO)
    environment = {name: value for name, value in os.environ.items() if name not in ("JAX_PLATFORMS", "TPU_SKIP_MDS_QUERY")}
    script = JOIN.replace("import jax\n", "import jax, os\nos.environ.pop('TPU_SKIP_MDS_QUERY', None)\n")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert "('worker-7:8482', 2, 1) {'heartbeat_timeout_seconds': 30, 'cluster_detection_method': 'deactivate'}" in done.stdout, done.stderr
    assert len(asked) == 3


def test_true_processes_name_who_is_missing_and_what_differs(tmp_path):
    """Of 4 processes 2 and 3 do not come; the second of those who do has another jax and another flag."""
    other = tmp_path / "jax-0.1.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: jax\nVersion: 0.1\n")
    processes = []
    for index, environment in enumerate(local_pod.environments(4, 1)):
        if index < 2:
            environment |= {"HUMPBACK_RENDEZVOUS_SECONDS": "3"} | ({"PYTHONPATH": str(tmp_path)} if index else {})
            command = [sys.executable, "-m", "tests.distributed_worker", "work", "--task=meet", f"--seed={index + 1}"]
            processes.append(subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True))
    told = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], told
    assert told[0] == told[1]
    assert "humpback: processes 2, 3 of 4 did not come within 3 s" in told[0]
    assert ") has jax 0.1, --seed 2, process 0 (host " in told[0] and "Traceback" not in told[0]


def test_a_process_that_does_not_come_is_no_mistake_of_the_command():
    """The others end with the code of a lost peer, so that all are started again."""
    environment = {**os.environ, **next(iter(local_pod.environments(2, 1))), "HUMPBACK_RENDEZVOUS_SECONDS": "1"}
    command = [sys.executable, "-m", "tests.distributed_worker", "work", "--task=meet"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == distributed.PEER_LOST and "process 1 of 2 did not come within 1 s" in done.stderr


def test_sigterm_in_any_command_ends_with_its_own_code(tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.distributed_worker", "work", "--task=reduce", f"--folder={tmp_path}"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "0").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    assert "exit code 75" in process.communicate(timeout=60)[1] and process.returncode == 75
