"""`humpback plan --config=configs/llama_7b.py --tpu=v5e-32,v4-32`: will it fit, on what, how fast, at what cost.

For each slice and each stage of the run (backward and forward finetuning, augmenting, rating) the very functions that the run will call
are compiled by the TPU's real compiler, which needs no TPU. What is compiled is exact: memory, programs, collectives. Time is a model
(humpback/planning/roofline.py has its formula and its constants), and so are the lengths of texts that are not here
(humpback/planning/workload.py). Nothing is rented and no cloud is asked.
"""

import dataclasses
import json
import os
import sys
from concurrent import futures
from typing import Any

import jax
from absl import flags
from etils import epath
from ml_collections import config_flags

from humpback import config as configs
from humpback import storage
from humpback.chips import CHIPS
from humpback.errors import UserError
from humpback.model.sizes import SIZES
from humpback.planning import cache, finetuning, serving, tpu_slices, workload
from humpback.planning.stage import StagePlan
from humpback.planning.tpu_slices import Slice
from humpback.stages.contents import read_rubric

_GIB = 2**30
_APART = 2.0  # the compiler's time of a step, in units of the roofline's, that is warned of
_IDLE = 0.5  # a slice that wastes more than this on a stage is not the right one for it
STAGES = ("backward", "augment", "rate", "forward", "answers")  # the last one only where answers.prompts asks for it
COMPILED = STAGES[:-1]  # `answers` has the programs of `augment`
_HEAD = ("slice", "stage", "mesh; rows or slots", "fits", "GiB a chip", "args + temps", "left", "most", "bound", "step, s", "compiled, s",
         "idle", "tok/s/chip", "rec/s/chip", "hours", "chip-hours", "cost")  # fmt: skip


def define_flags() -> None:
    """The command's flags."""
    config_flags.DEFINE_config_file("config", None, "the experiment, configs/NAME.py[:VARIANT]; --config.FIELD=VALUE changes a field")
    names = "v5e-32, v4-32 (TensorCores), v5p-16, v6e-16; v5e:4x8; 2xv5e-16"
    flags.DEFINE_string("tpu", None, f"slices, comma-separated: {names}", required=True)
    flags.DEFINE_bool("quick", False, "one compilation for each stage and slice: no search for the most that fits")
    flags.DEFINE_bool("json", False, "print one JSON object instead of the table")
    flags.DEFINE_string("apply", None, "a config file to write, with mesh, rows at once, slots and remat as planned; for one slice")
    flags.DEFINE_string("price", None, "of a chip-hour, for the cost: 1.2, or v5e:1.2,v4:3.2")
    flags.DEFINE_string("cache", None, "the folder of what was compiled before; default: humpback/plan below the user's cache folder")
    flags.DEFINE_string("python", sys.executable, "a Python that has libtpu beside JAX and Flax")
    flags.DEFINE_integer("jobs", 1, "compilations at once, of 1 to 8 GiB of memory each", lower_bound=1)
    flags.DEFINE_integer("segments", 0, "how many the run will have; 0: segments.limit, or the paper's 502,133", lower_bound=0)
    flags.DEFINE_float("characters_per_token", 4.0, "of the texts, whose lengths are the paper's", lower_bound=0.5)


def main() -> None:
    """Prints the plan."""
    jax.config.update("jax_platforms", "cpu")  # a TPU that may be here is not asked
    values = flags.FLAGS
    if values.config is None:
        raise UserError("--config is missing; for example --config=configs/llama_7b.py")
    cfg = configs.finish(values.config)
    slices = [tpu_slices.parse(name.strip()) for name in values.tpu.split(",") if name.strip()]
    if not slices:
        raise UserError("--tpu= names no slice; for example --tpu=v5e-32,v4-32")
    if values.apply and len(slices) > 1:
        raise UserError(f"--apply={values.apply}: a config is for one slice, and --tpu={values.tpu} names {len(slices)}")
    prices = read_prices(values.price, slices)
    compiler = cache.Compiler(values.cache or cache.default_folder(), values.python, say)
    planner = Planner(cfg, compiler, values.quick, values.segments, values.characters_per_token)
    compiler.expected = len(slices) * len(COMPILED) * (1 if values.quick else 3)
    plans = plan_all(planner, slices, values.jobs)
    if values.json:
        print(json.dumps(to_json(planner, plans, prices), indent=2))
    else:
        print(report(planner, plans, prices))
    if values.apply:
        apply(cfg, plans[0], values.apply, f"for {slices[0].name}" + (", --quick" if values.quick else ""))


def plan_all(planner: "Planner", slices: list[Slice], jobs: int) -> list[list[StagePlan]]:
    """The plans of all slices, each in the order of the run, so many compilations at once; after an error none is begun any more."""
    with futures.ThreadPoolExecutor(jobs) as pool:
        waiting = [[pool.submit(kind.plan, slice_) for kind in (planner.finetuning, planner.serving)] for slice_ in slices]
        try:
            plans_of_slices = [[plan for future in both for plan in future.result()] for both in waiting]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [sorted(plans, key=lambda plan: STAGES.index(plan.stage)) for plans in plans_of_slices]


def say(text: str) -> None:
    """A line about the state."""
    print(text, file=sys.stderr, flush=True)


def read_prices(text: str | None, slices: list[Slice]) -> dict[str, float]:
    """Generation -> price of a chip-hour, from --price; a generation without one has none."""
    if not text:
        return {}
    try:
        if ":" not in text:
            return {slice_.generation: float(text) for slice_ in slices}
        prices = {name.strip(): float(price) for name, price in (part.split(":") for part in text.split(","))}
    except ValueError as error:
        raise UserError(f"--price={text}: must be a number, or GENERATION:NUMBER,… as in v5e:1.2,v4:3.2") from error
    if unknown := prices.keys() - CHIPS.keys():
        raise UserError(f"--price={text}: {', '.join(sorted(unknown))} is none of the generations {', '.join(CHIPS)}")
    return prices


class Planner:
    """One config's plans."""

    def __init__(self, cfg: configs.Config, compiler: cache.Compiler, quick: bool, segments: int, characters_per_token: float):
        if cfg.base.architecture not in SIZES:
            raise UserError(f"config field base.architecture: {cfg.base.architecture!r} is none of {', '.join(SIZES)}; a plan needs one")
        model = SIZES[cfg.base.architecture]
        self.cfg, self.model, self.quick = cfg, model, quick
        for field in ("backward.length", "forward_seed.length", "forward.length", "decoding.length"):
            value = dict(configs.leaves(cfg))[field]
            if value > model.max_positions:
                raise UserError(f"config field {field}: {value} tokens are more than the model's {model.max_positions}")
        self.work = workload.workload(cfg, segments, characters_per_token)
        self.finetuning = finetuning.Finetuning(cfg, model, self.work, compiler, quick)
        rating = workload.rate_requests(cfg, self.work, read_rubric(cfg.curate.rubric_file))
        requests = {"augment": workload.augment_requests(cfg, self.work), "rate": rating}
        self.serving = serving.Serving(cfg, model, requests, compiler, quick, self.work.tokens(workload.SEED[0][0]))

    def not_wasted(self, generation: str) -> dict[str, int]:
        """Training stage -> chips of the largest slice of this generation that it keeps busy for more than half; nothing is compiled."""
        found: dict[str, int] = {}
        for size in tpu_slices.sizes(generation):
            busy = {stage: size for stage, idle in self.finetuning.idle(tpu_slices.named(generation, size)).items() if idle <= _IDLE}
            if not busy:
                break
            found |= busy
        return found


def report(planner: Planner, plans: list[list[StagePlan]], prices: dict[str, float]) -> str:
    """The table and what it means."""
    work = planner.work
    rows = [_HEAD, *(_row(each, prices.get(each.slice.generation)) for plan in plans for each in plan)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]
    lines += [
        "",
        f"{planner.cfg.base.architecture}: {work.segments:,} segments, {work.seed_pairs:,} seed pairs and {work.curated:,} curated ones, "
        f"{planner.cfg.iterations} iterations. Compiled: memory, programs, collectives.",
        "Modelled: time (humpback/planning/roofline.py) and lengths of texts (humpback/planning/workload.py).",
    ]
    if planner.quick:
        lines.append("--quick: the largest step stands for its stage, and augmenting's programs for rating's, whose rows are shorter.")
    for plan in plans:
        lines += ["", *_details(plan, prices)]
    return "\n".join([*lines, "", *advice(planner, plans, prices)])


def _row(plan: StagePlan, price: float | None) -> tuple[str, ...]:
    memory = plan.memory
    taken = f"{memory['arguments'] / _GIB:.2f} + {memory['temporaries'] / _GIB:.2f}" if memory else "refused"
    speed = (
        plan.bound, f"{plan.times.roofline:.3g} → {plan.times.seconds:.3g}", f"{plan.times.compiled:.3g}" if plan.times.compiled else "",
        f"{plan.idle:.0%}" if plan.idle else "",
        f"{plan.tokens_a_second:,.0f}", f"{plan.records_a_second:.3g}", f"{plan.hours:.2f}", f"{plan.chip_hours:.1f}",
        "" if price is None else f"{price * plan.chip_hours:,.0f}",
    )  # fmt: skip
    return (
        plan.slice.name, plan.stage, plan.shape, "yes" if plan.fits else f"no, by {-plan.headroom / _GIB:.2f}",
        f"{plan.needed / _GIB:.2f} of {plan.limit / _GIB:.2f}", taken, f"{plan.headroom / _GIB:.2f}",
        "" if plan.most is None else f"{plan.most:g}", *(speed if plan.fits else [""] * len(speed)),
    )  # fmt: skip


def _details(plan: list[StagePlan], prices: dict[str, float]) -> list[str]:
    """What a slice's stages send and compute, what was tried, and the whole run on it."""
    lines = []
    for each in plan:
        name, training = f"{each.slice.name} {each.stage}", each.stage in ("backward", "forward")
        sent = ", ".join(f"{kind} {payload / _GIB:.3g} GiB ({times} times)" for kind, (times, payload) in sorted(each.traffic.items()))
        unit, step = ("step", "a step") if training else ("record", "a step of decoding")
        lines.append(f"{name}: {each.flops:.3g} FLOPs a {unit}; a chip sends in {step}: {sent or 'nothing'}")
        if each.kernels:
            lines.append(f"{name}: {each.kernels} kernels in {step}, {each.kernel_flops:.3g} FLOPs a chip, are estimated by formula")
        if each.times.compiled > _APART * each.times.roofline:
            times = each.times.compiled / each.times.roofline
            lines.append(f"{name}: WARNING: by the compiler's cycles a step takes {times:.1f} times what it would at the published figures")
        lines += [f"{name}: {note}" for note in each.notes]
    hours, price = sum(each.hours for each in plan), prices.get(plan[0].slice.generation)
    name, chips_ = plan[0].slice.name, plan[0].slice.chips
    if missing := [each.stage for each in plan if not each.fits]:
        return [*lines, f"{name}: not the whole run, as this does not fit: {', '.join(missing)}"]
    cost = "" if price is None else f", {price * hours * chips_:,.0f} at {price:g} a chip-hour"
    return [*lines, f"{name}: the whole run {hours:.1f} hours, {hours * chips_:.0f} chip-hours{cost}"]


def advice(planner: Planner, plans: list[list[StagePlan]], prices: dict[str, float]) -> list[str]:
    """Which slice is the right one for each stage."""
    lines = []
    for stage in (stage for stage in STAGES if any(each.stage == stage for each in plans[0])):
        fitting = [each for plan in plans for each in plan if each.stage == stage and each.fits]
        if not fitting:
            lines.append(f"{stage}: fits on none of these slices")
            continue
        priced = [each for each in fitting if each.slice.generation in prices]
        least = min(priced or fitting, key=lambda each: each.chip_hours * prices.get(each.slice.generation, 1.0))
        fastest = min(fitting, key=lambda each: each.hours)
        what = "lowest cost" if priced else "fewest chip-hours"
        lines.append(f"{stage}: {what} on {least.slice.name} ({least.chip_hours:.1f} chip-hours, {least.hours:.2f} hours); "
                     f"soonest done on {fastest.slice.name} ({fastest.hours:.2f} hours)")  # fmt: skip
    for generation in dict.fromkeys(plan[0].slice.generation for plan in plans):
        busy = planner.not_wasted(generation)
        if busy:
            text = ", ".join(f"{stage} {size} chips" for stage, size in busy.items())
            lines.append(f"{generation}: the largest slices that finetuning keeps busy for more than half of their rows: {text}; "
                         "decoding shares its records out and wastes none")  # fmt: skip
    return lines


def to_json(planner: Planner, plans: list[list[StagePlan]], prices: dict[str, float]) -> dict[str, Any]:
    """The plan for machines. Bytes and FLOPs a chip where a chip is meant, seconds, hours."""
    return {
        "architecture": planner.cfg.base.architecture,
        "quick": planner.quick,
        "workload": dataclasses.asdict(planner.work),
        "slices": [
            {
                "slice": plan[0].slice.name,
                "topology": plan[0].slice.topology,
                "slices": plan[0].slice.count,
                "chips": plan[0].slice.chips,
                "stages": [each.to_json(prices.get(each.slice.generation)) for each in plan],
                "hours": sum(each.hours for each in plan),
                "chip_hours": sum(each.chip_hours for each in plan),
                "fits": all(each.fits for each in plan),
            }
            for plan in plans
        ],
        "advice": advice(planner, plans, prices),
    }


def apply(cfg: configs.Config, plan: list[StagePlan], path: str, what: str) -> None:
    """Writes a config file: every field of `cfg` that is not the default, and the plan's. Only fields that cannot change a result are
    taken from the plan. UserError when the plan does not fit, or the file is there and other."""
    if missing := [each.stage for each in plan if not each.fits]:
        raise UserError(f"--apply={path}: not written, because this does not fit: {', '.join(missing)}; the notes above say what would")
    fields = dict(configs.leaves(cfg))
    for each in plan:
        fields |= {name: value for name, value in each.settings.items() if not configs.compared(name)}
    defaults = dict(configs.leaves(configs.Config()))
    lines = [f"    cfg.{name} = {value!r}" for name, value in fields.items() if value != defaults[name]]
    text = "\n".join([
        f'"""{cfg.base.architecture} as planned {what}: mesh, rows at once, slots and rematerialisation by `humpback plan`."""',
        "", "from humpback import config", "", "", "def get_config() -> config.Config:",
        f'    """`{os.path.basename(path)}`."""', "    cfg = config.Config()", *lines, "    return cfg", "",
    ])  # fmt: skip
    target = epath.Path(path)
    if target.exists() and target.read_text() != text:
        raise UserError(f"--apply={path}: there is such a file already, with other contents; remove it or name another")
    storage.publish(target, text)
    say(f"written: {path}; humpback run --config={path} --workdir=… takes it")
