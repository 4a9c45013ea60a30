"""How long code may take, whatever else this process and this machine do."""

import contextlib
import gc
import time
from collections.abc import Iterator


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fails when the block takes more of a processor, in this thread. The collector does not go through what other tests have left."""
    gc.freeze()
    started = time.thread_time()
    try:
        yield
        taken = time.thread_time() - started
    finally:
        gc.unfreeze()
    assert taken < seconds
