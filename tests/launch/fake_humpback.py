"""What the workers of tests/launch/test_tpu.py run in place of humpback: counts to --steps in a folder that outlives them.

    fake_humpback.py run --workdir=DIR --steps=N [--exit=CODE]     (or --out=DIR: then the log is copied nowhere)
Worker 0 counts. All end with 0 when it is done, with 75 on SIGTERM, with --exit at once, and after ten minutes, whoever has forgotten them.
"""

import os
import pathlib
import signal
import sys
import time

words = " ".join(sys.argv[2:]).replace("--workdir ", "--workdir=").split()
flags = dict(word[2:].partition("=")[::2] for word in words)
count, steps = pathlib.Path(flags.get("workdir") or flags["out"]) / "count", int(flags.get("steps", 1))
deadline = time.monotonic() + 600
if "exit" in flags:
    print("ValueError: as it was told", file=sys.stderr)
    sys.exit(int(flags["exit"]))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
count.parent.mkdir(parents=True, exist_ok=True)
with open(count.parent / "starts", "a") as starts:
    starts.write(f"{os.environ['TPU_WORKER_ID']}\n")
while (done := int(count.read_text() or 0) if count.exists() else 0) < steps:
    if os.environ["TPU_WORKER_ID"] == "0":
        count.with_suffix(".tmp").write_text(str(done + 1))
        os.replace(count.with_suffix(".tmp"), count)
        print(f"counting: {done:3}%|##| {done + 1}/{steps} [00:01<00:02, 9.87step/s]", file=sys.stderr, flush=True)
    time.sleep(0.05)
    if time.monotonic() > deadline:
        sys.exit("forgotten")
