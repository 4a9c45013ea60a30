"""Our side of tests/benchmarks/decode.py: what the stages do with a segment, from its text to the text that the model writes."""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Sequence

import common
import numpy as np
from decode_inputs import WORKLOADS, Inputs

from humpback import config, keys
from humpback.decoding.engine import Engine, Request, Stats
from humpback.decoding.sampling import Sampler
from humpback.model import sharding
from humpback.records import Segment

_GRAIN = 64  # the engines' lengths are multiples of it


@dataclasses.dataclass(frozen=True)
class Turn:
    """One measured job: `logits` by segment id where they were asked for, `stats` of the engine (of this job alone)."""

    seconds: float
    records: int
    tokens: int
    stats: Stats
    logits: dict[str, np.ndarray]


class Ours:
    """Humpback with the settings of config.py; one engine a workload, compiled before anything is measured."""

    def __init__(self, inputs: Inputs, temperature: float, top_p: float):
        self.inputs, self.sampler = inputs, Sampler(temperature, top_p)
        self.settings = config.Decoding()
        self.mesh = sharding.make_mesh(**dataclasses.asdict(config.settled_mesh(config.Mesh())))
        self.stops = frozenset([inputs.model.tokenizer.eos_id])
        self._times = 0

    def job(self, workload: str, segments: Sequence[Segment], dtype: str = "") -> Callable[[], Turn]:
        """The job of a workload over the segments, compiled and run once: a program's first call is slower. dtype: another one than
        the config's."""
        asked = WORKLOADS[workload]
        longest = max(len(self.inputs.encode(workload, segment)) for segment in segments)
        settings = dataclasses.replace(self.settings, compute_dtype=dtype or self.settings.compute_dtype)
        engine = self._engine(longest + asked.new_tokens, self.inputs.head(workload), settings)
        engine.expect([self.inputs.encode(workload, segment) for segment in segments], all_of_them=True)  # as the stages do
        started = time.perf_counter()
        if asked.new_tokens:
            programs = engine.warm_up(self.sampler, len(self.stops))
            run = functools.partial(self._write, workload, engine)
        else:
            programs = engine.warm_up(read=len(self.inputs.score_ids()))
            run = functools.partial(self._read, workload, engine)
        common.say(f"humpback, {workload}: {programs} programs compiled in {time.perf_counter() - started:.1f} s")
        run(segments)
        return lambda: run(segments)

    def decode_job(self, new_tokens: int) -> Callable[[int], Turn]:
        """The job of pure decoding, compiled and run once: so many new tokens for each prompt, `new_tokens` at most, no end before."""
        ids_BT = self.inputs.decode_ids_BT
        engine = self._engine(ids_BT.shape[1] + new_tokens, [], dataclasses.replace(self.settings, slots=len(ids_BT)))
        engine.warm_up(self.sampler)

        def run(new_tokens: int) -> Turn:
            names = [f"{number:016x}" for number in range(len(ids_BT))]
            started, engine.stats = time.perf_counter(), Stats()
            requests = [Request(name, ids, key, new_tokens) for name, ids, key in zip(names, ids_BT, self._keys(names))]
            tokens = sum(len(result.ids) for result in engine.generate(requests, self.sampler, frozenset()))
            seconds = time.perf_counter() - started
            if tokens != len(ids_BT) * new_tokens:
                sys.exit(f"error: humpback wrote {tokens} tokens, not {len(ids_BT) * new_tokens}")
            return Turn(seconds, len(ids_BT), tokens, engine.stats, {})

        run(new_tokens)
        return run

    def _engine(self, need: int, prefix: list[int], settings: config.Decoding) -> Engine:
        model = self.inputs.model
        length = min(-(-need // _GRAIN) * _GRAIN, model.info.config.max_positions)
        return Engine(model.info.config, model.params, self.mesh, dataclasses.replace(settings, length=length), prefix)

    def _keys(self, ids: list[str]) -> np.ndarray:
        self._times += 1  # other draws each time
        return keys.record_keys(0, "benchmark", ids, self._times)

    def _write(self, workload: str, engine: Engine, segments: Sequence[Segment]) -> Turn:
        started, engine.stats = time.perf_counter(), Stats()
        draws = self._keys([segment.id for segment in segments])
        requests = (
            Request(segment.id, self.inputs.encode(workload, segment), key, WORKLOADS[workload].new_tokens)
            for segment, key in zip(segments, draws)
        )
        texts, tokens = {}, 0
        for result in engine.generate(requests, self.sampler, self.stops):
            texts[result.id] = self.inputs.model.tokenizer.decode(result.ids)
            tokens += len(result.log_probs)
        return Turn(time.perf_counter() - started, len(texts), tokens, engine.stats, {})

    def _read(self, workload: str, engine: Engine, segments: Sequence[Segment]) -> Turn:
        started, engine.stats = time.perf_counter(), Stats()
        nothing = np.zeros(2, np.uint32)
        requests = (Request(segment.id, self.inputs.encode(workload, segment), nothing, 0) for segment in segments)
        logits = dict(engine.read(requests, self.inputs.score_ids()))
        return Turn(time.perf_counter() - started, len(logits), 0, engine.stats, logits)
