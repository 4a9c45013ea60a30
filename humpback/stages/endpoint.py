"""A judge behind an OpenAI-compatible endpoint, which need not repeat itself. The answers of a record are kept as a part when all are
there; only those of records under way may be paid for twice.

The key comes from the environment alone. Nothing is sent before somebody has said --yes to what it may cost.
"""

import http.client
import json
import math
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from time import sleep
from typing import Any, NamedTuple

import jax

from humpback import credentials, distributed
from humpback.decoding.offline import Done
from humpback.decoding.parts import REJECTED, Inputs, Parts
from humpback.errors import UserError
from humpback.progress import Bar, say
from humpback.prompts import Prompt
from humpback.stages.directory import Run, Stage

KEY = "OPENAI_API_KEY"
AT_ONCE = 8  # requests
_TRIES, _LONGEST_WAIT, _TIMEOUT = 8, 60.0, 120.0  # seconds
_CHARACTERS_A_TOKEN = 4  # of English; what is said beforehand is an estimate


class Answer(NamedTuple):
    """A text, whether it ended with its length, the name that the endpoint gives its model, and its counts of tokens."""

    text: str
    cut: bool
    model: str
    prompt_tokens: int
    output_tokens: int


def serve(
    run: Run, stage: Stage, folder: Any, name: str, inputs: Inputs, prompt_of: Callable[[Any], Prompt | None],
    make: Callable[[Any, list[Answer]], Any],
) -> Done:  # fmt: skip
    """`offline.run` with the endpoint of curate.judge: FOLDER/NAME-….jsonl. make: the record of an input and its curate.samples answers,
    none where prompt_of gave no prompt. UserError without --yes, for several processes, and for what the endpoint refuses."""
    check()
    samples = run.cfg.curate.samples
    parts = Parts(f"{folder}/parts", inputs, distributed.Replica(0, 1, (), is_first=True), math.inf, stage)
    todo = ~parts.done
    _confirm(run, stage.name, (p for _, _, record in inputs.of(todo) if (p := prompt_of(record)) is not None))
    bar, asked = Bar(stage.name, "record", len(inputs), done=int(parts.done.sum())), 0
    with futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for position, record, answers in _in_flight(pool, inputs.of(todo), lambda r: _ask_all(run, prompt_of(r), samples)):
            parts.add(position, make(record, answers), sum(a.prompt_tokens for a in answers), sum(a.output_tokens for a in answers))
            if answers:
                parts.publish(now=True)
                parts.settle()  # it is paid for
            asked += 1
            bar.reach(len(inputs) - int(todo.sum()) + asked)
    bar.close()
    tokens = sum(parts.totals()[1:])
    merged = parts.merge(folder, name)
    counts = {"in": len(inputs), "out": merged.made, "rejects": sum(merged.rejects.values())}
    return Done(merged.files, counts, {f"{REJECTED}{reason}": count for reason, count in merged.rejects.items()}, tokens)


def check() -> None:
    """UserError for several processes."""
    if jax.process_count() > 1:
        raise UserError("config field curate.judge: an endpoint is asked by one process; run this command on one machine")


def _confirm(run: Run, name: str, prompts: Iterable[Prompt]) -> None:
    """Says what will be sent. UserError without --yes."""
    cfg = run.cfg.curate
    asked = characters = 0
    for prompt in prompts:
        asked, characters = asked + 1, characters + len(prompt.content)
    count, tokens = asked * cfg.samples, characters * cfg.samples // _CHARACTERS_A_TOKEN
    told = (
        f"{name}: {count} requests of about {tokens} prompt tokens, and at most {count * cfg.max_new_tokens} new ones, go to {cfg.judge}, "
        f"model {cfg.judge_model}"
    )
    if count and not run.yes:
        raise UserError(f"{told}; this may cost money: add --yes to send them")
    say(told)


def _in_flight(
    pool: futures.Executor, records: Iterable[tuple[int, str, Any]], ask: Callable[[Any], list[Answer]]
) -> Iterator[tuple[int, Any, list[Answer]]]:
    """Yields (position, record, answers) as they come, AT_ONCE asked for at a time; after an error what is under way is waited for."""
    waiting: dict[futures.Future[list[Answer]], tuple[int, Any]] = {}
    failed: BaseException | None = None
    remaining = iter(records)
    while True:
        while failed is None and len(waiting) < AT_ONCE and (following := next(remaining, None)) is not None:
            position, _, record = following
            waiting[pool.submit(ask, record)] = position, record
        if not waiting:
            break
        done, _ = futures.wait(waiting, return_when=futures.FIRST_COMPLETED)
        for future in done:
            position, record = waiting.pop(future)
            if (error := future.exception()) is None:
                yield position, record, future.result()
            else:
                failed = failed or error
    if failed is not None:
        raise failed


def _ask_all(run: Run, prompt: Prompt | None, samples: int) -> list[Answer]:
    return [] if prompt is None else [_ask(run, prompt) for _ in range(samples)]


def _ask(run: Run, prompt: Prompt) -> Answer:
    """One answer. 429, 5xx and a connection that breaks are tried again, later and later, or after what the endpoint asks for."""
    cfg = run.cfg.curate
    body = {
        "model": cfg.judge_model, "messages": [{"role": "user", "content": prompt.content}], "temperature": cfg.temperature,
        "top_p": cfg.top_p, "max_tokens": cfg.max_new_tokens,
    }  # fmt: skip
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {key}"
    url, said = f"{cfg.judge.rstrip('/')}/chat/completions", ""
    wait = 0.0
    for attempt in range(_TRIES):
        sleep(wait)
        wait = min(_LONGEST_WAIT, 2.0**attempt)
        try:
            request = urllib.request.Request(url, json.dumps(body).encode(), headers)
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
                return _read(response.read())
        except urllib.error.HTTPError as error:
            said = f"{error.code} {error.reason} {_body(error)}"
            if error.code != 429 and error.code < 500:
                raise UserError(f"config field curate.judge: {url} answers {said}") from error
            wait = min(_LONGEST_WAIT, _seconds(error.headers.get("Retry-After"), wait))
        except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            said = f"{type(error).__name__}: {error}"
    raise UserError(f"config field curate.judge: {url} gave no answer in {_TRIES} tries ({said}); "
                    "records that it has answered whole are kept")


def _body(error: urllib.error.HTTPError) -> str:
    """How an answer that is a refusal begins, as far as it comes."""
    try:
        return credentials.redact(error.read(500).decode(errors="replace"))
    except (OSError, http.client.HTTPException):
        return ""


def _seconds(given: str | None, otherwise: float) -> float:
    try:
        return float(given) if given else otherwise
    except ValueError:  # a date
        return otherwise


def _read(data: bytes) -> Answer:
    found = json.loads(data)
    choice, used = found["choices"][0], found.get("usage") or {}
    text = choice["message"]["content"] or ""
    tokens = (int(used.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
    return Answer(text, choice.get("finish_reason") == "length", str(found.get("model") or ""), *tokens)
