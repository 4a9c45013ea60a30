import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from humpback import keys
from humpback.config import Decoding
from humpback.decoding.branches import Target, pack
from humpback.decoding.engine import Engine, NotFinite, Request
from humpback.decoding.executables import empty_state, shareable
from humpback.decoding.sampling import Sampler
from humpback.model import cpu, llama, sharding

CONFIG = llama.LlamaConfig(vocab_size=304, d_model=32, num_layers=2, num_heads=8, num_kv_heads=4, head_dim=8, d_ff=64, max_positions=640)
STOP = frozenset([2])
NUCLEUS = Sampler(0.7, 0.9)


@pytest.fixture(scope="module")
def params():
    return llama.init_params(CONFIG, jax.random.key(0))


def make_engine(params, *, slots=4, length=128, mesh=(1, 1, 1), steps=4, prefix=(), classes=0) -> Engine:
    devices = jax.devices()[: int(np.prod(mesh))]
    where = sharding.make_mesh(*mesh, devices=devices)
    decoding = Decoding(length=length, compute_dtype="float32", slots=slots, steps_per_visit=steps, classes=classes)
    return Engine(CONFIG, params, where, decoding, prefix)


def make_requests(count: int, seed: int = 0, most: int = 100) -> list[Request]:
    rng = np.random.default_rng(seed)
    ids = [f"{i:016x}" for i in rng.integers(0, 2**62, count)]
    return [
        Request(i, rng.integers(3, 304, rng.integers(1, most)).astype(np.int32), key, int(rng.integers(1, 20)))
        for i, key in zip(ids, keys.record_keys(0, "test", ids), strict=True)
    ]


def run(engine, requests, sampler=NUCLEUS, stop=STOP) -> dict:
    results = list(engine.generate(requests, sampler, stop))
    assert len(results) == len({r.id for r in results}) == len(requests)
    return {r.id: r for r in results}


def reference_greedy(params, request: Request) -> tuple[list[int], float]:
    """Greedy ids by whole forward passes, and the smallest gap between the two best logits on the way."""
    stacked, ids, gap = llama.stack_layers(params), list(request.ids), np.inf
    for _ in range(request.max_new):
        padded = np.zeros((1, 256), np.int32)
        padded[0, : len(ids)] = ids
        logits = np.asarray(_forward(stacked, padded))[0, len(ids) - 1]
        best = np.sort(logits)[-2:]
        gap = min(gap, best[1] - best[0])
        if int(logits.argmax()) in STOP:
            break
        ids.append(int(logits.argmax()))
    return ids[len(request.ids) :], gap


@jax.jit
def _forward(stacked, ids_BT):
    return llama.forward(CONFIG, stacked, ids_BT, jnp.arange(256)[None])


def test_greedy_equals_whole_forward_passes_with_mixed_lengths(params):
    requests = make_requests(9)
    found = run(make_engine(params), requests, Sampler(0.0))
    compared = 0
    for request in requests:
        expected, gap = reference_greedy(params, request)
        if gap > 1e-3:
            assert list(found[request.id].ids) == expected
            compared += 1
    assert compared >= 7


@pytest.mark.optimized
def test_results_do_not_depend_on_order_neighbours_or_what_was_done_before(params):
    """Same shapes, same bits: ids and log-probabilities, whatever came in which order beside which others."""
    requests = make_requests(24)
    whole = run(make_engine(params), requests)
    assert run(make_engine(params), requests[::-1]) == whole
    rng = np.random.default_rng(5)
    part = [requests[i] for i in rng.permutation(24)[:7]]
    beside_others = run(make_engine(params), part + make_requests(9, seed=6))
    assert all(beside_others[request.id] == whole[request.id] for request in part)
    for request in part:
        assert run(make_engine(params), [request])[request.id] == whole[request.id]


@pytest.mark.optimized
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_long_neighbour_changes_no_bit(params, dtype):
    """A CPU looks at the cache in chunks, as many as the longest row fills: for the short rows the others hold nothing."""
    where = sharding.make_mesh(devices=jax.devices()[:1])
    engine = Engine(CONFIG, params, where, Decoding(length=cpu.LONG_CACHE + 128, compute_dtype=dtype, slots=4))
    short, (long,) = make_requests(3, seed=16, most=30), make_requests(1, seed=17)
    long = dataclasses.replace(long, ids=np.resize(long.ids, cpu.LONG_CACHE), max_new=60)
    alone = run(engine, short, stop=frozenset())
    beside = run(engine, [long, *short], stop=frozenset())
    assert {r.id: beside[r.id] for r in short} == alone
    if dtype == "float32":
        expected, gap = reference_greedy(params, dataclasses.replace(short[0], max_new=8))
        assert gap < 1e-3 or list(run(engine, [dataclasses.replace(short[0], max_new=8)], Sampler(0.0))[short[0].id].ids) == expected


@pytest.mark.optimized
def test_a_slot_keeps_nothing_of_its_former_tenant(params):
    engine = make_engine(params)
    request = make_requests(1, seed=8, most=10)[0]
    alone = run(engine, [request])[request.id]
    assert run(engine, [*make_requests(12, seed=9), request])[request.id] == alone


def test_stop_ids_end_a_row_and_limits_hold(params):
    requests = make_requests(12, seed=1)
    free = run(make_engine(params), requests, stop=frozenset())
    assert all(len(r.ids) == request.max_new and r.finish == "length" for request in requests for r in [free[request.id]])
    stop = frozenset([free[requests[0].id].ids[0]])
    first = run(make_engine(params), requests, stop=stop)[requests[0].id]
    assert (first.ids, first.finish, len(first.log_probs)) == ((), "stop", 1)
    for request in requests:  # up to a stop, nothing changes
        ids = free[request.id].ids
        cut = next((i for i, token in enumerate(ids) if token in stop), len(ids))
        assert run(make_engine(params), [request], stop=stop)[request.id].ids == ids[:cut]


def test_none_one_and_fewer_than_slots(params):
    assert run(make_engine(params), []) == {}
    assert len(run(make_engine(params, slots=8), make_requests(1))) == 1
    assert len(run(make_engine(params, slots=8), make_requests(5))) == 5


def test_log_probabilities_are_the_models(params):
    request = make_requests(1, seed=3)[0]
    result = run(make_engine(params), [request], stop=frozenset())[request.id]
    ids = np.zeros((1, 256), np.int32)
    whole = [*request.ids, *result.ids]
    ids[0, : len(whole)] = whole
    log_probs = np.asarray(jax.nn.log_softmax(_forward(llama.stack_layers(params), ids)))[0]
    start = len(request.ids) - 1
    expected = [log_probs[start + i, token] for i, token in enumerate(result.ids)]
    np.testing.assert_allclose(result.log_probs, expected, atol=1e-4)


def test_read_gives_the_log_probabilities_after_the_prompt(params):
    requests = make_requests(7, seed=4)
    found = dict(make_engine(params).read(requests, [5, 6, 7]))
    for request in requests:
        ids = np.zeros((1, 256), np.int32)
        ids[0, : len(request.ids)] = request.ids
        expected = np.asarray(jax.nn.log_softmax(_forward(llama.stack_layers(params), ids)))[0, len(request.ids) - 1, 5:8]
        np.testing.assert_allclose(found[request.id], expected, atol=1e-4)


@pytest.mark.parametrize(("mesh", "shared"), [((1, 1, 1), 0), ((1, 1, 1), 24), ((2, 2, 2), 24)])
def test_score_gives_the_sum_of_the_targets_log_probabilities(params, mesh, shared):
    """Of rows that begin with the prefix or not, and whose target begins inside of it; and whether all of them are the likeliest."""
    prefix = np.random.default_rng(6).integers(3, 304, 24).astype(np.int32)
    requests = with_prefix(make_requests(9, seed=5, most=70), prefix, lambda i: (24, 24, 0)[i % 3])
    requests = [dataclasses.replace(r, start=1 + i % (len(r.ids) - 1), max_new=0) for i, r in enumerate(requests) if len(r.ids) > 1]
    greedy = np.concatenate([requests[0].ids, reference_greedy(params, dataclasses.replace(requests[0], max_new=3))[0]]).astype(np.int32)
    requests.append(dataclasses.replace(requests[0], id="f" * 16, ids=greedy, start=len(requests[0].ids)))
    found = dict(make_engine(params, slots=8, mesh=mesh, prefix=prefix[:shared]).score(requests))
    assert len(found) == len(requests) and found["f" * 16][1] == 1
    for request in requests:
        ids = np.zeros((1, 256), np.int32)
        ids[0, : len(request.ids)] = request.ids
        log_probs = np.asarray(jax.nn.log_softmax(_forward(llama.stack_layers(params), ids)))[0]
        places = np.arange(request.start, len(request.ids))
        np.testing.assert_allclose(found[request.id][0], log_probs[places - 1, request.ids[places]].sum(), atol=2e-4)
        assert found[request.id][1] == (log_probs[places - 1].argmax(-1) == request.ids[places]).all()


@pytest.mark.parametrize(("mesh", "shared"), [((1, 1, 1), 0), ((2, 2, 2), 24)])
def test_targets_in_one_row_are_as_likely_as_each_by_itself(params, mesh, shared):
    """Three or more ways on from one context, of which two begin alike, one after the prefix and one without; and nothing in common."""
    draw = np.random.default_rng(8)
    prefix = draw.integers(3, 304, 24).astype(np.int32)
    rows = []
    for number, count in enumerate((3, 4, 1, 2)):
        context = np.concatenate([prefix if number % 2 else prefix[:5], draw.integers(3, 304, 9)])
        ends = [draw.integers(3, 304, 2 + way) for way in range(count)]
        targets = [Target(np.concatenate([context, end]).astype(np.int32), len(context)) for end in ends]
        rows.append([*targets, Target(np.concatenate([context, ends[0], ends[0]]).astype(np.int32), len(context) + 1)])
    rows.append([Target(draw.integers(3, 304, 7).astype(np.int32), 1) for _ in range(2)])
    key = np.zeros(2, np.uint32)
    packed = [next(pack(targets, 200)) for targets in rows]
    assert [len(row.asked) for row in packed] == [4, 5, 2, 3, 2]
    engine = make_engine(params, slots=8, mesh=mesh, prefix=prefix[:shared])
    found = dict(engine.score_branches(Request(str(n), row.ids, key, 0, row.start, row) for n, row in enumerate(packed)))
    alone = [Request(f"{n}/{k}", t.ids, key, 0, t.start) for n, targets in enumerate(rows) for k, t in enumerate(targets)]
    for name, expected in engine.score(alone):
        n, k = map(int, name.split("/"))
        np.testing.assert_allclose(found[str(n)][k], expected, atol=2e-4)


def test_targets_share_as_many_rows_as_their_length_asks_for():
    ids = np.arange(10, dtype=np.int32)
    targets = [Target(np.append(ids, [50 + way] * 4).astype(np.int32), 10) for way in range(5)]
    rows = list(pack(targets, 20))
    assert [len(row.asked) for row in rows] == [2, 2, 1] and [len(row.ids) for row in rows] == [19, 19, 14]
    assert rows[0].ids.tolist() == [*range(9), 9, 50, 50, 50, 50, 9, 51, 51, 51, 51] and rows[0].asked == ((10, 14), (15, 19))
    assert rows[0].places.tolist() == [*range(14), *range(9, 14)] and rows[0].numbers.tolist() == [0] * 9 + [1] * 5 + [2] * 5
    assert [len(row.asked) for row in pack(targets, 5)] == [1] * 5 and list(pack([], 5)) == []


@pytest.mark.parametrize("mesh", [(2, 2, 2), (1, 8, 1), (1, 1, 4)])
def test_other_meshes_give_the_same_greedy_ids(params, mesh):
    requests = make_requests(6)
    one, many = (run(make_engine(params, slots=8, mesh=m), requests, Sampler(0.0)) for m in ((1, 1, 1), mesh))
    compared = 0
    for request in requests:
        _, gap = reference_greedy(params, request)
        if gap > 1e-3:
            assert one[request.id].ids == many[request.id].ids
            np.testing.assert_allclose(one[request.id].log_probs, many[request.id].log_probs, atol=1e-4)
            compared += 1
    assert compared >= 4


@pytest.mark.parametrize("weights", ["compute", "int8"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_vocabulary_that_the_mesh_does_not_divide_is_filled_up_and_never_drawn_from(weights, tied):
    if weights == "int8":
        pytest.importorskip("qwix")
    config = dataclasses.replace(CONFIG, vocab_size=303, num_layers=1, tied=tied)
    params = llama.init_params(config, jax.random.key(3))
    requests = [dataclasses.replace(r, ids=np.minimum(r.ids, 302)) for r in make_requests(4, most=30)]
    found = []
    for tensor in (1, 4):
        mesh = sharding.make_mesh(1, 1, tensor, devices=jax.devices()[:tensor])
        engine = Engine(config, params, mesh, Decoding(length=64, compute_dtype="float32", slots=4, weights=weights))
        found.append(run(engine, requests, Sampler(5.0), frozenset()))  # so hot that any id would come
    for request in requests:
        one, many = (results[request.id] for results in found)
        assert one.ids == many.ids and max(many.ids) < 303
        np.testing.assert_allclose(one.log_probs, many.log_probs, atol=1e-4)


def test_a_request_that_cannot_fit_is_named(params):
    request = Request("00000000000000aa", np.ones(122, np.int32), np.zeros(2, np.uint32), 10)
    with pytest.raises(ValueError, match="00000000000000aa"):
        list(make_engine(params).generate([request], NUCLEUS, STOP))


def with_prefix(requests: list[Request], prefix: np.ndarray, shared) -> list[Request]:
    """Puts the first shared(i) tokens of the prefix before each prompt."""
    return [dataclasses.replace(r, ids=np.concatenate([prefix[: shared(i)], r.ids])) for i, r in enumerate(requests)]


@pytest.mark.parametrize(
    ("count", "length", "shared"), [(44, 2048, 40), (40, 2048, 40), (7, 2048, 0), (0, 2048, 0), (45, 2043, 43), (2, 2043, 0)]
)
def test_what_is_shared_leaves_rows_of_whole_tiles(count, length, shared):
    assert shareable(count, length) == shared


@pytest.mark.parametrize("mesh", [(1, 1, 1), (2, 1, 4)])
def test_a_shared_prefix_changes_nothing(params, mesh):
    prefix = np.random.default_rng(7).integers(3, 304, 40).astype(np.int32)
    requests = with_prefix(make_requests(12, seed=11, most=70), prefix, lambda i: (40, 40, 17, 0)[i % 4])
    whole = run(make_engine(params, slots=8), requests, Sampler(0.0))
    engine = make_engine(params, slots=8, mesh=mesh, prefix=prefix)
    found = run(engine, requests, Sampler(0.0))
    compared = 0
    for request in requests:
        if reference_greedy(params, request)[1] > 1e-3:
            assert found[request.id].ids == whole[request.id].ids
            np.testing.assert_allclose(found[request.id].log_probs, whole[request.id].log_probs, atol=1e-4)
            compared += 1
    assert compared >= 9
    assert engine.stats.prompt_tokens - engine.stats.read_tokens >= 3 * (40 + 40 + 17)  # what was not read again
    logits = [dict(e.read(requests, [5, 9])) for e in (engine, make_engine(params))]
    for request in requests:
        np.testing.assert_allclose(logits[0][request.id], logits[1][request.id], atol=1e-4)


def test_a_shared_prefix_changes_no_draw(params):
    """A token's key follows from its place in the whole text, however much of that was read before."""
    prefix = np.random.default_rng(7).integers(3, 304, 16).astype(np.int32)
    requests = with_prefix(make_requests(4, seed=11, most=20), prefix, lambda i: (16, 7, 0, 16)[i])
    whole, found = (run(make_engine(params, length=64, prefix=p), requests, stop=frozenset()) for p in ((), prefix))
    assert {name: result.ids for name, result in found.items()} == {name: result.ids for name, result in whole.items()}


def test_a_prompt_that_is_the_prefix_alone_or_part_of_it_is_served(params):
    prefix = np.random.default_rng(8).integers(3, 304, 30).astype(np.int32)
    requests = [dataclasses.replace(r, ids=prefix[:n]) for r, n in zip(make_requests(3, seed=12), (30, 12, 1), strict=True)]
    whole, found = (run(make_engine(params, prefix=p), requests, Sampler(0.0)) for p in ((), prefix))
    assert all(found[r.id].ids == whole[r.id].ids for r in requests if reference_greedy(params, r)[1] > 1e-3)


def test_nothing_is_compiled_after_the_warm_up(params, caplog):
    engine = make_engine(params, length=138, prefix=range(3, 13))  # shapes that no other test has compiled
    count = engine.warm_up(NUCLEUS, len(STOP)) + engine.warm_up(read=3)
    assert count == 2 * len(engine.layout.buckets) + 1 + len(engine.layout.buckets)
    with jax.set_mesh(engine.layout.mesh):
        empty_state(engine.layout)  # which needs no weights
    work = make_requests(20, seed=13)

    def compiled(sampler) -> list[str]:
        caplog.clear()
        with jax.log_compiles():
            run(engine, work, sampler)
            list(engine.read(work, [5, 6, 7]))
        return [record.getMessage() for record in caplog.records if "compil" in record.getMessage().lower()]

    assert compiled(NUCLEUS) == []
    assert compiled(Sampler(0.3))  # the log does see a compilation


def test_only_the_programs_that_the_prompts_need(params):
    """With their lengths known there are fewer; one that was not expected is served where it was not said that it will not come."""
    requests = make_requests(9)
    whole = run(make_engine(params), requests, Sampler(0.0))
    short = [request for request in requests if len(request.ids) <= 60]
    for all_of_them, lengths in ((True, (64,)), (False, (64, 128))):
        engine = make_engine(params)
        engine.expect([request.ids for request in short], all_of_them)
        assert engine.layout.buckets == lengths and engine.warm_up(Sampler(0.0)) == 2 * len(lengths) + 1
        served = short if all_of_them else requests
        assert {name: result.ids for name, result in run(engine, served, Sampler(0.0)).items()} == {r.id: whole[r.id].ids for r in served}
        assert engine.fits(np.ones(100, np.int32), 1) is not all_of_them
    assert not engine.with_prefix([5, 6, 7]).layout.lengths


def test_what_is_expected_is_not_measured_by_an_earlier_task(params):
    """The prompts of a task may be those that `fit`: the lengths of the task before must not take any of them away."""
    engine = make_engine(params)
    short, long = (np.ones(count, np.int32) for count in (8, 100))
    engine.expect([short], True, max_new=4)
    assert not engine.fits(long, 4)
    engine.expect((ids for ids in (short, long) if engine.fits(ids, 4)), True, max_new=4)
    assert engine.fits(long, 4)


@pytest.mark.optimized
def test_rows_of_like_length_are_decoded_together_in_the_same_memory(params):
    """A class has the slots that fill the memory of the whole rows; a row's bits follow from its class, whatever came in which order."""
    requests = make_requests(20, seed=18, most=60)
    requests += [dataclasses.replace(r, ids=np.resize(r.ids, 390 + i)) for i, r in enumerate(make_requests(3, seed=19))]
    prompts, engine = [request.ids for request in requests], make_engine(params, length=512, classes=4)
    limits = engine.expect(prompts, True, each=10, max_new=20)
    assert limits == (128, 512) and engine.expect(prompts, True, max_new=20, limits=limits) == limits
    assert [(row.slots, row.buckets) for row in engine.classes] == [(15, (64,)), (4, (448,))]  # with their logits
    found = run(engine, requests)
    assert engine.stats.room > engine.stats.slot_steps > 0
    assert run(engine, requests[::-1]) == found
    for request in (requests[0], requests[-1]):
        assert run(engine, [request])[request.id] == found[request.id]
    greedy, compared = run(engine, requests[:8], Sampler(0.0)), 0
    for request in requests[:8]:
        expected, gap = reference_greedy(params, request)
        if gap > 1e-3:
            assert list(greedy[request.id].ids) == expected
            compared += 1
    assert compared >= 6
    assert not engine.fits(np.ones(440, np.int32), 73) and len(engine.with_prefix([5, 6, 7]).classes) == 1


def test_a_small_job_has_one_class_and_so_has_any_on_a_cpu_that_is_not_told_otherwise(params):
    for count, classes in ((10, 4), (10_000, 0)):
        engine = make_engine(params, length=512, classes=classes)
        assert engine.expect([request.ids for request in make_requests(10)], True, each=count / 10, max_new=20) == ()
        assert engine.classes == (engine.layout,)


def test_requests_are_taken_only_as_slots_become_free(params):
    """So that a corpus never stands in memory: what is taken and not done stays below a bound that the corpus is not part of."""
    engine, taken, most = make_engine(params), 0, 0

    def stream():
        nonlocal taken
        for request in make_requests(200, seed=15):
            taken += 1
            yield request

    for done, _ in enumerate(engine.generate(stream(), NUCLEUS, STOP)):
        most = max(most, taken - done)
    bound = 5 * engine.slots + sum(engine.layout.rows(b) for b in engine.layout.buckets) * 2  # slots, those looked at together, prefilled
    assert taken == 200 and most <= bound < 100


def test_a_model_that_never_ends_is_cut_at_the_limit_and_a_full_row_fits(params):
    request = Request("00000000000000ab", np.arange(3, 125, dtype=np.int32), np.zeros(2, np.uint32), 6)
    result = run(make_engine(params), [request], stop=frozenset())[request.id]
    assert (len(result.ids), result.finish) == (6, "length")


def test_logits_that_are_no_numbers_end_the_job_with_the_request_and_the_place(params):
    """One row of the embedding holds an infinity: who reads that token, or writes it, has none but its neighbours' numbers."""
    broken = {**params, "embedding": params["embedding"].at[250].set(jnp.inf)}
    fine, bad = make_requests(2, seed=21, most=30)
    fine, bad = (dataclasses.replace(r, ids=np.minimum(r.ids, 249)) for r in (fine, bad))
    bad = dataclasses.replace(bad, ids=np.append(bad.ids, 250).astype(np.int32))
    with pytest.raises(NotFinite, match=f"request {bad.id}: the logits for token 1 of its answer are not finite") as raised:
        run(make_engine(broken), [fine, bad])
    assert (raised.value.request, raised.value.place) == (bad.id, 1)
    with pytest.raises(NotFinite, match=f"request {bad.id}: .* token 1 "):
        list(make_engine(broken).read([fine, bad], [5, 6]))
    assert len(dict(make_engine(broken).read([fine], [5, 6]))) == 1
