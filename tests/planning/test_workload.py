"""Token counts in the place of texts that are not here: the paper's means, deviations and counts, and the real prompts around them."""

import numpy as np
import pytest

from humpback import config, experiments, prompts
from humpback.errors import UserError
from humpback.planning import workload


def paper(**changes):
    cfg = experiments.paper("llama_7b")
    for name, value in changes.items():
        part, _, last = name.partition("__")
        setattr(getattr(cfg, part) if last else cfg, last or part, value)
    return config.finish(cfg)


@pytest.mark.parametrize("lengths", [workload.SEED[1], workload.CURATED[0], workload.CANDIDATES[1]])
def test_drawn_lengths_have_the_papers_mean_and_deviation(lengths):
    drawn = workload.draw(lengths, 20_000, "response")
    assert drawn.mean() == pytest.approx(lengths[0], rel=0.02) and drawn.std() == pytest.approx(lengths[1], rel=0.08)
    assert (drawn == workload.draw(lengths, 20_000, "response")).all() and drawn.min() > 0
    other = workload.draw(lengths, 20_000, "instruction")
    assert abs(np.corrcoef(drawn, other)[0, 1]) < 0.05  # instruction and response of a pair are drawn apart


def test_the_papers_counts_and_the_configs():
    assert workload.workload(paper()) == workload.Workload(502_133, 3_200, 41_821)
    cut = workload.workload(paper(segments__limit=50_000))
    assert (cut.segments, cut.curated) == (50_000, round(50_000 * 41_821 / 502_133))
    share = workload.workload(paper(curate__select="top_fraction", curate__fraction=0.25), segments=1_000)
    assert (share.segments, share.curated) == (1_000, 250)


def test_training_examples():
    cfg, work = paper(), workload.Workload(502_133, 3_200, 41_821)
    backward, seed, all_ = (workload.training_examples(cfg, work, *each) for each in (("backward", 0), ("forward", 0), ("forward", 1)))
    assert len(backward) > 3_150 and len(seed) > 3_150 and len(all_) > 44_900
    # A seed pair has 1,220 characters on average, of which the target has 1,072; its tag and wrapper have 39 + 1 + 17.
    assert np.mean([len(each.ids) for each in seed]) == pytest.approx((1220 + len(prompts.SEED_TAG) + 18) / 4 + 2, rel=0.03)
    assert np.mean([each.target_tokens for each in seed]) == pytest.approx(1072 / 4 + 1.5, rel=0.03)
    assert np.mean([each.target_tokens for each in backward]) == pytest.approx(148 / 4 + 1.5, rel=0.05)
    assert max(len(each.ids) for each in all_) <= 2048


def test_requests():
    cfg, work = paper(), workload.Workload(502_133, 3_200, 41_821)
    augment, rate = workload.augment_requests(cfg, work), workload.rate_requests(cfg, work)
    assert augment.records == rate.records == 502_133
    assert rate.prefix > 200 > augment.prefix == 40  # the rubric; the request, 46 tokens, as far as it is shared
    assert np.mean(augment.answers) == pytest.approx(352 / 4 + 1.5, rel=0.03) and max(augment.answers) <= 256
    assert np.mean(augment.prompts) == pytest.approx((1722 + 2 + len(prompts.SEED_TAG) + 8) / 4, rel=0.05)
    assert np.mean(rate.prompts) > np.mean(augment.prompts)
    expected = workload.rate_requests(paper(curate__mode="expected"), work)
    assert set(expected.answers) == {0}
    assert workload.rate_requests(paper(curate__samples=3), work).records == 3 * 502_133
    with pytest.raises(UserError, match=r"decoding\.length: 512 leaves no room"):
        workload.rate_requests(paper(decoding__length=512), work)
