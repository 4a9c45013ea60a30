"""SIGTERM and Ctrl-C, in processes of their own: what they end with, and what they let go on."""

import json
import signal
import threading
import time

import pytest

from humpback.errors import INTERRUPTED, PREEMPTED
from humpback.training.stopping import StopRequest
from tests import scripts

start = pytest.fixture(scripts.started)


def test_sigterm_is_remembered_and_the_handler_before_comes_back(start):
    script = start("""
signal.signal(signal.SIGTERM, lambda *_: say("the handler before"))
try:
    with StopRequest() as stop:
        wait(stop)
        raise Stopped("saved at step 7 of 60")
except Stopped as error:
    say(error)
os.kill(os.getpid(), signal.SIGTERM)
""")
    script.wait_for("ready")
    script.process.terminate()
    code, out, err = script.end()
    assert (code, out) == (0, "saved at step 7 of 60\nthe handler before\n")
    assert "humpback: SIGTERM: saving" in err


def test_a_second_sigterm_ends_at_once_even_a_main_thread_that_hangs(start):
    script = start("""
with StopRequest() as stop:
    wait(stop)
    hang()
""")
    script.wait_for("ready")
    script.process.terminate()
    script.wait_for("ready")
    script.process.terminate()
    code, out, err = script.end()
    assert (code, out) == (PREEMPTED, "") == (75, "")
    assert "humpback: SIGTERM: ending at once with exit code 75" in err and "Traceback" not in err


def test_ctrl_c_is_like_sigterm_with_a_code_of_its_own(start):
    """Remembered first; then at once, whatever came before."""
    script = start("""
try:
    with StopRequest() as stop:
        wait(stop)
        raise Stopped("saved", stop.code)
except Stopped as error:
    say(error.code)
with StopRequest() as stop:
    wait(stop)
    hang()
""")
    script.wait_for("ready")
    script.process.send_signal(signal.SIGINT)
    script.wait_for(f"{INTERRUPTED}")
    script.wait_for("ready")
    script.process.terminate()
    script.wait_for("ready")
    script.process.send_signal(signal.SIGINT)
    code, out, err = script.end()
    assert (code, out) == (INTERRUPTED, "") == (130, "") and "Traceback" not in err
    assert [line for line in err.splitlines() if line] == [
        "humpback: Ctrl-C: saving as soon as this step is done; a second one ends at once",
        "humpback: SIGTERM: saving as soon as this step is done; a second one ends at once",
        "humpback: Ctrl-C: ending at once with exit code 130; the same command continues from what was saved",
    ]


def test_where_ctrl_c_is_ignored_it_stays_so(start):
    """As in the background of a shell script."""
    script = start("""
signal.signal(signal.SIGINT, signal.SIG_IGN)
with StopRequest() as stop:
    stop.nothing_to_save = True
    signal.raise_signal(signal.SIGINT)
    time.sleep(0.2)
    say(stop.came)
say(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)
""")
    assert script.end() == (0, "False\nTrue\n", "")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize(
    "body",
    [
        "stop.nothing_to_save = True; say('ready'); time.sleep(60)",
        "wait(stop); stop.nothing_to_save = True; time.sleep(60)",  # it came before
        "stop.run_interruptibly(hang)",
        "wait(stop); stop.run_interruptibly(lambda: time.sleep(60))",
    ],
)
def test_with_nothing_to_save_the_first_one_ends_at_once(start, body, name):
    script = start(f"with StopRequest() as stop:\n    {body}\n")
    script.wait_for("ready")
    asked = time.monotonic()
    script.process.send_signal(signal.Signals[name])
    code, out, err = script.end()
    assert (code, out) == ({"SIGTERM": PREEMPTED, "SIGINT": INTERRUPTED}[name], "") and "ending at once" in err
    assert time.monotonic() - asked < 10


def test_who_saves_nothing_does_not_say_that_it_goes_on(start):
    script = start("""
with StopRequest(resumes=False) as stop:
    stop.nothing_to_save = True
    say("ready")
    time.sleep(60)
""")
    script.wait_for("ready")
    script.process.send_signal(signal.SIGINT)
    assert script.end() == (INTERRUPTED, "", "\nhumpback: Ctrl-C: ending at once with exit code 130\n")


def test_what_a_process_holds_is_given_up_when_it_ends_at_once(start, tmp_path):
    script = start(f"""
from humpback import locks
locks.lock_of({str(tmp_path)!r}).acquire()
with StopRequest() as stop:
    stop.nothing_to_save = True
    say("ready")
    time.sleep(60)
""")
    script.wait_for("ready")
    script.process.terminate()
    assert script.end()[0] == PREEMPTED and json.loads((tmp_path / "lock").read_text()) == {"number": 1, "released": True}


def test_other_signals_are_not_taken_for_it(start):
    script = start("""
signal.signal(signal.SIGUSR1, lambda *_: say("another"))
with StopRequest() as stop:
    stop.nothing_to_save = True
    os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(0.2)
    say(stop.came)
say(signal.set_wakeup_fd(-1))
""")
    assert script.end() == (0, "another\nFalse\n-1\n", "")


def test_after_an_interruptible_call_there_is_something_to_save_again(start):
    script = start("""
def fail():
    raise TimeoutError("of the function's own")

with StopRequest() as stop:
    say(stop.run_interruptibly(lambda: 3))
    try:
        stop.run_interruptibly(fail)
    except TimeoutError as error:
        say(error)
    wait(stop)
    say("saved")
    os._exit(0)
""")
    for text in ("3", "of the function's own", "ready"):
        script.wait_for(text)
    script.process.terminate()
    assert script.end()[:2] == (0, "saved\n")


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("", "Stopped: stopped by SIGTERM; what was done by then is saved, and the same command continues\n"),
        ("raise KeyError('another failure')", "KeyError: 'another failure'\n"),
    ],
)
def test_no_sigterm_is_swallowed_by_the_end_of_the_block(start, end, expected):
    script = start(f"with StopRequest() as stop:\n    wait(stop)\n    {end}\n")
    script.wait_for("ready")
    script.process.terminate()
    code, _, err = script.end()
    assert code == 1 and err.endswith(expected)


def test_a_block_without_a_signal_ends_quietly(start):
    assert start("with StopRequest() as stop:\n    say(stop.came)\n").end() == (0, "False\n", "")


def test_outside_the_main_thread_nothing_changes():
    found = []

    def work() -> None:
        with StopRequest() as stop:
            found.extend([signal.getsignal(signal.SIGTERM), stop.came])
            found.append(stop.run_interruptibly(threading.current_thread))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before, False, thread] and signal.getsignal(signal.SIGTERM) == before


def test_the_notice_of_a_machine_that_is_taken_away_is_a_sigterm(start):
    """By a metadata server that answers FALSE after a while, fails, and then says TRUE."""
    script = start("""
import http.server, threading
from jax._src import cloud_tpu_init
answers = [b"FALSE", None, b"TRUE"]
class Metadata(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.path.startswith("/computeMetadata/v1/instance/preempted?wait_for_change=true")
        answer = answers.pop(0) if asked and self.headers["Metadata-Flavor"] == "Google" else b"1"  # its place is asked, too
        self.send_response(200 if answer else 503)
        self.send_header("Metadata-Flavor", "Google")
        self.end_headers()
        self.wfile.write(answer or b"")
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ |= {"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}", "NO_PROXY": "127.0.0.1"}
os.environ.pop("JAX_PLATFORMS", None)
os.environ.pop("TPU_SKIP_MDS_QUERY", None)
stopping._NOTICE_RETRY_SECONDS = 0.1
stopping.heed_preemption()  # not a TPU machine: nothing
assert len(answers) == 3
cloud_tpu_init.running_in_cloud_tpu_vm = True
with StopRequest() as stop:
    stopping.heed_preemption()
    wait(stop)
""")
    script.wait_for("ready")
    code, _, err = script.end()
    assert "this machine is being taken away" in err and "SIGTERM: saving" in err and code == 1 and "Stopped" in err
