"""Which collectives a program runs, read from texts small enough to count by hand, and from a real one of this machine's CPU."""

import functools
import gzip
import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from humpback.planning.collectives import Collective, read_collectives, read_cycles

PROGRAMS = pathlib.Path(__file__).parents[1] / "golden" / "programs"  # by tests/golden/make_programs.py
LAYER = 2 * (4 * 512 * 512 + 3 * 512 * 1024)  # bytes of the matrices of one of their model's two layers, in bfloat16
HEAD, IDS = 2 * 512 * 4096, 4 * 4 * 512  # of its head, and of a step's tokens

ADD = """
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}
"""

# A loop of 12 trips by steps of 4 around a loop of 5, as the TPU's compiler writes them: without known trip counts.
LOOPS = """
HloModule jit_f, is_scheduled=true
%add (a: bf16[], b: bf16[]) -> bf16[] {
  %a = bf16[] parameter(0)
  %b = bf16[] parameter(1)
  ROOT %sum = bf16[] add(%a, %b)
}
%inner_condition (p: (s32[], bf16[8,128])) -> pred[] {
  %p = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %five = s32[]{:T(128)} constant(5)
  ROOT %less = pred[]{:T(512)} compare(%i, %five), direction=LT
}
%inner_body (p.1: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %p.1 = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  %x.1 = bf16[8,128]{1,0:T(8,128)(2,1)} get-tuple-element(%p.1), index=1
  %copy.1 = s32[]{:T(128)S(6)} copy(%i.1)
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%copy.1, %one)
  %all-reduce.1 = bf16[8,128]{1,0:T(8,128)(2,1)} all-reduce(%x.1), channel_id=1, to_apply=%add, metadata={op_name="jit(f)/inner"}
  ROOT %tuple.1 = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) tuple(%next, %all-reduce.1)
}
%outer_condition (p.2: (s32[], bf16[8,128])) -> pred[] {
  %p.2 = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %i.2 = s32[]{:T(128)} get-tuple-element(%p.2), index=0
  %twelve = s32[]{:T(128)} constant(12)
  ROOT %less.2 = pred[]{:T(512)} compare(%i.2, %twelve), direction=LT
}
%outer_body (p.3: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %p.3 = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %i.3 = s32[]{:T(128)} get-tuple-element(%p.3), index=0
  %x.3 = bf16[8,128]{1,0:T(8,128)(2,1)} get-tuple-element(%p.3), index=1
  %four = s32[]{:T(128)} constant(4)
  %next.3 = s32[]{:T(128)} add(%four, %i.3)
  %zero.3 = s32[]{:T(128)} constant(0)
  %start.3 = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) tuple(%zero.3, %x.3)
  %while.3 = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) while(%start.3), condition=%inner_condition, body=%inner_body
  %y.3 = bf16[8,128]{1,0:T(8,128)(2,1)} get-tuple-element(%while.3), index=1
  %permute = bf16[8,128]{1,0:T(8,128)(2,1)} collective-permute(%y.3), channel_id=2, source_target_pairs={{0,1},{1,0}}
  ROOT %tuple.3 = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) tuple(%next.3, %permute)
}
ENTRY %main (x: bf16[8,128]) -> bf16[8,128] {
  %x = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) tuple(%zero, %x)
  %while = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) while(%start), condition=%outer_condition, body=%outer_body
  ROOT %y = bf16[8,128]{1,0:T(8,128)(2,1)} get-tuple-element(%while), index=1
}
"""


def main(*instructions: str) -> str:
    lines = "\n".join(f"  {instruction}" for instruction in instructions)
    return f"{ADD}ENTRY %main (x: f32[16]) -> f32[16] {{\n  %x = f32[16]{{0}} parameter(0)\n{lines}\n}}\n"


def test_loops_multiply():
    reduce, permute = read_collectives(LOOPS)
    assert reduce == Collective("all-reduce", "bf16[8,128]", 8 * 128 * 2, 3 * 5, False, "jit(f)/inner")
    assert permute == Collective("collective-permute", "bf16[8,128]", 8 * 128 * 2, 3, False, "")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("compare(%i, %five), direction=LT", "compare(%five, %x.9), direction=GT"),
        ("add(%copy.1, %one)", "multiply(%copy.1, %one)"),
        ("%zero.3 = s32[]{:T(128)} constant(0)", "%zero.3 = s32[]{:T(128)} negate(%i.3)"),
        ("tuple(%next, %all-reduce.1)", "tuple(%i.1, %all-reduce.1)"),
    ],
)
def test_a_loop_of_unknown_length_is_said_to_be_one(old, new):
    reduce, permute = read_collectives(LOOPS.replace(old, new))
    assert (reduce.times, reduce.open) == (3, True)  # one trip of the inner loop in each of the outer
    assert (permute.times, permute.open) == (3, False)


def test_a_known_trip_count_is_taken():
    text = LOOPS.replace("body=%inner_body", 'body=%inner_body, backend_config={"known_trip_count":{"n":"7"},"x":1}')
    assert read_collectives(text)[0].times == 3 * 7


def test_start_and_done_are_one():
    (found,) = read_collectives(
        main(
            "%start = f32[16]{0} all-reduce-start(%x), channel_id=4, to_apply=%add",
            "ROOT %done = f32[16]{0} all-reduce-done(%start)",
        )
    )
    assert (found.kind, found.times, found.payload) == ("all-reduce", 1, 64)


def test_the_parts_of_a_fusion_are_one_by_their_channel():
    part = "  %p{0} = f32[16]{{0}} parameter(0)\n  ROOT %g{0} = f32[64]{{0}} all-gather(%p{0}), channel_id=9, dimensions={{0}}\n}}\n"
    parts = "".join(f"%part.{n} (p{n}: f32[16]) -> f32[64] {{\n{part.format(n)}" for n in (1, 2))
    text = parts + main(
        "%a = f32[64]{0} fusion(%x), kind=kCustom, calls=%part.1",
        "%b = f32[64]{0} fusion(%x), kind=kCustom, calls=%part.2",
        "ROOT %c = f32[64]{0} all-gather(%x), channel_id=10, dimensions={0}",
    )
    first, second = read_collectives(text)
    assert (first.kind, first.given, first.payload, first.times) == ("all-gather", "f32[16]", 256, 1)
    assert (second.payload, second.times) == (256, 1)


def test_what_is_called_twice_runs_twice_and_what_is_not_called_never():
    called = "%sub (s: f32[16]) -> f32[16] {\n  %s = f32[16]{0} parameter(0)\n  ROOT %r = f32[16]{0} all-to-all(%s), channel_id=3\n}\n"
    calls = ["%a = f32[16]{0} call(%x), to_apply=%sub", "ROOT %b = f32[16]{0} call(%a), to_apply=%sub"]
    assert [found.times for found in read_collectives(called + main(*calls))] == [2]
    assert read_collectives(called + main("ROOT %a = f32[16]{0} negate(%x)")) == ()


def test_both_branches_count():
    branch = "%{0} ({0}p: f32[16]) -> f32[16] {{\n  %{0}p = f32[16]{{0}} parameter(0)\n  ROOT %{0}r = f32[16]{{0}} {1}(%{0}p){2}\n}}\n"
    text = branch.format("yes", "all-to-all", "") + branch.format("no", "collective-permute", ", channel_id=2")
    found = read_collectives(
        text + main("%which = s32[] constant(0)", "ROOT %c = f32[16]{0} conditional(%which, %x, %x), branch_computations={%yes, %no}")
    )
    assert [(each.kind, each.times) for each in found] == [("all-to-all", 1), ("collective-permute", 1)]


@pytest.mark.parametrize(
    ("instruction", "payload"),
    [
        ("ROOT %r = (f32[16]{0}, pred[3,5]{1,0}) all-reduce(%x, %flags), to_apply=%add", 16 * 4 + 15),
        ("ROOT %r = (f32[16]{0}, f32[128]{0:T(128)}) all-gather-start(%x), dimensions={0}", 128 * 4),
        ("ROOT %r = f32[4]{0} reduce-scatter(%x), dimensions={0}, to_apply=%add", 16 * 4),
        ("ROOT %r = (f32[16]{0}, f32[16]{0}, u32[], u32[]) collective-permute-start(%x)", 16 * 4),
        ("ROOT %r = s4[3]{0} collective-permute(%nibbles)", 2),
        ("ROOT %r = f8e4m3fn[<=7]{0} all-to-all(%bytes)", 7),
    ],
)
def test_payload(instruction, payload):
    operands = [
        "%flags = pred[3,5]{1,0} constant({...})",
        "%nibbles = s4[3]{0} constant({1, 2, 3})",
        "%bytes = f8e4m3fn[<=7]{0} constant({...})",
    ]
    (found,) = read_collectives(main(*operands, instruction))
    assert found.payload == payload


def test_another_text_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        read_collectives("module @jit_f {\n}\n")


def test_a_real_program():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    columns, rows = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((None, "x"), ("x", None)))

    @functools.partial(jax.jit, out_shardings=NamedSharding(mesh, PartitionSpec()))
    def products(x, up, down):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ up) @ down, None), x, length=6)[0]

    args = (jnp.ones((4, 32)), jax.device_put(jnp.ones((32, 64)), columns), jax.device_put(jnp.ones((64, 32)), rows))
    (found,) = read_collectives(products.lower(*args).compile().as_text())
    assert (found.kind, found.given, found.payload, found.times, found.open) == ("all-reduce", "f32[4,32]", 4 * 32 * 4, 6, False)


def stored(name):
    found = read_collectives(gzip.decompress((PROGRAMS / f"{name}.hlo.gz").read_bytes()).decode())
    return found, {kind: sum(each.times * each.payload for each in found if each.kind == kind) for kind in {each.kind for each in found}}


def test_a_stored_training_step():
    """Both layers' weights gathered forwards and backwards in one loop each, the head once; their gradients reduced, and a few norms."""
    found, sent = stored("step")
    assert sent["all-gather"] == 2 * 2 * LAYER + HEAD + IDS
    weights = [each for each in found if each.kind == "all-gather" and each.given.startswith("bf16[1,")]
    assert len(weights) == 2 * 7 and {each.times for each in weights} == {2} and not any(each.open for each in found)
    assert 2 * LAYER <= sent["all-reduce"] <= 2 * LAYER + 20_000
    assert sent["all-to-all"] == 4 * 512 * 128 * (2 + 4)  # the embedding's rows, and their gradient in float32


def test_a_stored_step_of_decoding():
    """In a loop whose length only the run knows: two reductions a layer and the embedding's, 16 rows of 512, and the logits."""
    found, sent = stored("decode")
    assert all(each.open and each.times == 1 for each in found)
    assert sent == {"all-reduce": (2 * 2 + 1) * 16 * 512 * 2, "all-gather": 16 * 4096 * 4}


def test_a_stored_step_on_two_slices():
    """The loop's first turn stands before it, and the last layer's weights are not gathered again for the way back. What goes between
    the slices is no collective of the program."""
    _, sent = stored("slices")
    assert sent["all-gather"] == 3 * LAYER + HEAD + IDS + 2 * 4096
    assert 2 * LAYER <= sent["all-reduce"] <= 2 * LAYER + 20_000


def test_cycles_count_as_often_as_they_run():
    marked = LOOPS.replace('op_name="jit(f)/inner"}', 'op_name="jit(f)/inner"}, backend_config={"estimated_cycles":"7"}')
    marked = marked.replace("ROOT %tuple.1 =", '%more = s32[] add(%one, %one), backend_config={"estimated_cycles":"2"}\n  ROOT %tuple.1 =')
    assert read_cycles(marked) == 3 * 5 * (7 + 2) and read_cycles(LOOPS) == 0
