"""A model folder as an object for Python programs: `humpback.load`."""

import collections
import hashlib
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np

from humpback import config as configs
from humpback import keys, prompts, storage
from humpback.config import Decoding
from humpback.decoding import serving
from humpback.decoding.engine import Engine, Request
from humpback.decoding.sampling import Sampler
from humpback.errors import UserError
from humpback.models import folders
from humpback.stages import curate
from humpback.tokens import examples
from humpback.training import evaluate

Pair = tuple[str, str]  # (instruction, response)


class LoadedModel:
    """A model on this process' devices. Each method takes and returns lists in the same order; nothing is cut to fit.

    A text's random draws come from the seed and the text, so neighbours and their order do not change its answer. Programs are compiled
    when they are first needed. Every method raises UserError for a text that is empty or does not fit into `length` tokens.
    """

    def __init__(self, path: storage.PathLike, tensor: int, dtype: str, length: int, base: storage.PathLike | None):
        """See `humpback.load`."""
        info = folders.read_info(path)
        config = configs.Config()
        config.decoding = Decoding(
            length=min(length, info.config.max_positions), compute_dtype=dtype or configs.device_dtype(jax.default_backend()),
            tensor=tensor, processes_per_replica=1,
        )
        self.path, self._base, self._decoding = path, base, configs.finish(config).decoding
        model, self._engine = serving.engine_at(path, self._decoding, tensor, folders.DIRECTIONS, None, base)
        self.info, self._model = model.info, model
        self._engines: dict[tuple[int, ...], Engine] = {(): self._engine}

    def backtranslate(
        self, texts: Iterable[str], *, seed: int = 0, temperature: float = 0.7, top_p: float = 0.9, max_new_tokens: int = 256
    ) -> list[str]:
        """Writes for each text the instruction that it most likely answers (paper, section 2.1). For a backward model."""
        self._check_direction("backtranslate", {"backward"})
        return self._answer(list(texts), prompts.backward_prompt, seed, Sampler(temperature, top_p), max_new_tokens)

    def generate(
        self, instructions: Iterable[str], *, seed: int = 0, temperature: float = 0.7, top_p: float = 0.9, max_new_tokens: int = 256
    ) -> list[str]:
        """Answers each instruction, asked with both tags as the paper does. For a forward model or a base."""
        self._check_direction("generate", {"forward", "base"})
        return self._answer(list(instructions), prompts.forward_prompt, seed, Sampler(temperature, top_p), max_new_tokens)

    def rate(self, pairs: Iterable[Pair]) -> list[float]:
        """Rates each (instruction, response) from 1 to 5: the mean of the five digits under the model's probabilities (mode `expected`).

        For a forward model or a base.
        """
        self._check_direction("rate", {"forward", "base"})

        def prompt(pair: Pair) -> prompts.Prompt:
            return prompts.rating_prompt(*pair, mode="expected")

        encoded = [self._encode(prompt(pair), number, 0, prompts.SCORE_LEAD) for number, pair in enumerate(pairs)]
        engine = self._engine_for(lambda text: prompt((text, text)))
        requests = (Request(str(number), ids, np.zeros(2, np.uint32), 0) for number, ids in enumerate(encoded))
        logits = dict(engine.read(requests, curate.score_token_ids(self._model.tokenizer)))
        return [curate.expected_score(logits[str(number)]) for number in range(len(encoded))]

    def log_likelihood(self, pairs: Iterable[Pair]) -> list[float]:
        """For each (instruction, response) the log-likelihood in nats of the response with its end, asked as in `generate`.

        A backward model gives that of the instruction, given the response. Reads the weights anew, as training lays them out.
        """
        backward = self.info.direction == "backward"
        tokenized = []
        for number, (instruction, response) in enumerate(pairs):
            prompt = prompts.backward_prompt(response) if backward else prompts.forward_prompt(instruction)
            target = (instruction if backward else response).strip()
            target_ids = [*self._model.tokenizer.encode(target), self._model.tokenizer.eos_id]
            condition = self._encode(prompt, number, len(target_ids))
            if not target:
                raise UserError(f"pair {number}: has an empty {'instruction' if backward else 'response'}")
            ids = np.concatenate([condition, np.array(target_ids, np.int32)])
            tokenized.append(examples.TokenExample(str(number), ids, len(condition)))
        params, decoding = folders.load_model(self.path, whole=False, base=self._base).params, self._decoding
        scores = evaluate.nll(
            self.info.config, params, tokenized,
            length=decoding.length, mesh=self._engine.layout.mesh, compute_dtype=decoding.compute_dtype,
        )  # fmt: skip
        return [-float(nats) for nats in scores.nats]

    def _answer(
        self, texts: Sequence[str], template: Callable[[str], prompts.Prompt], seed: int, sampler: Sampler, max_new: int
    ) -> list[str]:
        encoded = [self._encode(template(text), number, max_new) for number, text in enumerate(texts)]
        draws = keys.record_keys(seed, "api", _ids(texts))
        requests = (Request(str(number), ids, key, max_new) for number, (ids, key) in enumerate(zip(encoded, draws, strict=True)))
        results = self._engine_for(template).generate(requests, sampler, frozenset([self._model.tokenizer.eos_id]))
        written = {result.id: self._model.tokenizer.decode(result.ids).strip() for result in results}
        return [written[str(number)] for number in range(len(texts))]

    def _encode(self, prompt: prompts.Prompt, number: int, more: int, lead: str = "") -> np.ndarray:
        """Ids int32 of a whole prompt, which leave room for `more`."""
        if not prompt.body.strip():
            raise UserError(f"text {number}: is empty")
        wrapper = prompts.WRAPPERS[self.info.wrapper]
        ids = self._model.tokenizer.encode_wrapped(wrapper.prefix, prompt.content, wrapper.suffix)
        ids += self._model.tokenizer.encode(lead) if lead else []
        if len(ids) + more > self._decoding.length:
            raise UserError(
                f"text {number}: {len(ids)} tokens of prompt and {more} more do not fit into {self._decoding.length}; shorten it, ask for "
                f"fewer new tokens, or load the model with a larger length (at most {self.info.config.max_positions})"
            )
        return np.array(ids, np.int32)

    def _engine_for(self, template: Callable[[str], prompts.Prompt]) -> Engine:
        """An engine on the same weights that reads what all prompts of a template begin with once."""
        prefix = tuple(serving.shared_prefix(self._model, template, self._decoding.length))
        if prefix not in self._engines:
            self._engines[prefix] = self._engine.with_prefix(prefix)
        return self._engines[prefix]

    def _check_direction(self, method: str, directions: set[str]) -> None:
        if self.info.direction not in directions:
            raise UserError(f"{self.path}: is a {self.info.direction} model; {method} needs {' or '.join(sorted(directions))}")


def _ids(texts: Sequence[str]) -> list[str]:
    """16 hex digits of each text, and of how often it came before, so that a text that comes twice is answered twice."""
    seen: collections.Counter[str] = collections.Counter()
    ids = []
    for text in texts:
        ids.append(hashlib.sha256(f"{seen[text]}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()[:16])
        seen[text] += 1
    return ids
