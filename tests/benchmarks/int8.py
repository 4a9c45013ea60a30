"""What int8 weights cost on SmolLM2-135M: held-out NLL, and how far the ratings of the demo's segments move.

    python tests/benchmarks/int8.py

The last line is a JSON object: nll_change (relative, the worse of both tasks), and of the ratings rating_difference (mean, absolute),
rank_correlation (Spearman's) and same_top_quarter (the share of the best quarter that is the same). Exit code 1 when the NLL changes
by more than 1 %. Five minutes.
"""

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))  # tests, which is not installed

import common
import jax
import numpy as np

from humpback.evaluation.statistics import correlation
from humpback.model import sharding
from tests import int8_cost

BOUND = 0.01


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=32, help="how many are rated (default 32)")
    values = parser.parse_args()
    model, mesh = int8_cost.smollm2(), sharding.make_mesh(devices=jax.devices()[:1])
    result = nll_changes(model, mesh)
    segments = int8_cost.demo_segments(values.segments)
    common.say(f"rating {len(segments)} segments")
    result |= agreement(*(int8_cost.expected_ratings(model, segments, mesh, weights) for weights in ("compute", "int8")))
    print(json.dumps(common.rounded(result)), flush=True)
    return 1 if abs(result["nll_change"]) > BOUND else 0


def nll_changes(model, mesh) -> dict:
    """Nats per target token with float32 and with int8 weights, both tasks, and the larger relative change."""
    rounded, result, changes = int8_cost.rounded(model.info.config, model.params), {}, []
    for task in ("backward", "forward"):
        before, after = (int8_cost.held_out_nll(model, params, task, mesh) for params in (model.params, rounded))
        changes.append(after / before - 1)
        common.say(f"{task}: {before:.4f} nats a target token, with int8 {after:.4f}: {changes[-1]:+.3%}")
        result[f"{task}_nll"], result[f"{task}_nll_int8"] = before, after
    return {"nll_change": max(changes, key=abs), **result}


def agreement(before: list[float], after: list[float]) -> dict:
    """How alike two lists of ratings of the same segments are."""
    before, after = np.array(before), np.array(after)
    ranks = [np.argsort(np.argsort(ratings)).astype(float).tolist() for ratings in (before, after)]
    quarter = max(1, len(before) // 4)
    best = [set(np.argsort(-ratings, kind="stable")[:quarter].tolist()) for ratings in (before, after)]
    result = {
        "rating_difference": float(np.abs(after - before).mean()),
        "rating_spread": float(before.std()),
        "rank_correlation": correlation(*ranks),
        "same_top_quarter": len(best[0] & best[1]) / quarter,
        "segments": len(before),
    }
    common.say(f"ratings differ by {result['rating_difference']:.4f} on average, their spread is {result['rating_spread']:.4f}")
    return result


if __name__ == "__main__":
    sys.exit(main())
