"""Instruction backtranslation, whole: the paper's algorithm on one page (section 2).

Every call makes one folder of the run, skips it when it is complete, and continues it when it is half done.
"""

from absl import flags

from humpback import distributed
from humpback.model.sizes import SIZES
from humpback.report.write import write
from humpback.stages import commandline
from humpback.stages.answers import answer
from humpback.stages.augment import augment
from humpback.stages.base import convert_base
from humpback.stages.curate import check as check_rating
from humpback.stages.directory import Run
from humpback.stages.finetune import finetune
from humpback.stages.fitting import announce
from humpback.stages.judge import curate_by
from humpback.stages.rewrite import rewrite
from humpback.stages.seed import STRICT, seed
from humpback.stages.seed import define_flags as define_flags
from humpback.stages.segment import segment
from humpback.stages.summary import stage_names, summarize


def run_all(run: Run, strict: bool = False) -> None:
    """Base weights, human pairs and web pages to M_1 … M_iterations and a report. `strict`: a bad line of the pairs ends it."""
    run.check(stage_names(run.cfg.iterations))
    announce(run, SIZES.get(run.cfg.base.architecture))
    convert_base(run)
    check_rating(run)  # what nothing could be rated by is told before hours of training
    seed(run, strict)  # (instruction, response) pairs by people
    segment(run)  # web pages → self-contained pieces of human text
    finetune(run, "backward")  # M_yx: response → instruction
    augment(run)  # A: one candidate instruction per segment, made once
    finetune(run, "forward", 0)  # M_0: the base on the seed alone
    answer(run, 0)  # off unless answers.prompts says how many: held-out prompts to the base and M_0, for people to read
    for iteration in range(1, run.cfg.iterations + 1):
        curate_by(run, iteration)  # A^(t): M_{t-1} rates A, the best are kept; whether it sees anything is measured
        rewrite(run, iteration)  # off unless rewrite.by names who makes answers of A^(t)'s texts; what is not faithful stays
        finetune(run, "forward", iteration)  # M_t: the base, again, on seed and A^(t)
        answer(run, iteration)  # the same prompts to M_t
    summarize(run)
    distributed.by_first("report", lambda: write(run.workdir) and None)


def main() -> None:
    """`humpback run`."""
    run_all(commandline.open_run(), bool(flags.FLAGS[STRICT].value))
