"""What stands in the compiler's place where only the plan's own reasoning is tested: memory by a straight line, no program."""

from dataclasses import dataclass, field

from humpback.planning import roofline
from humpback.planning.jobs import Answer, Decode, Job, Step

GIB = 2**30


@dataclass
class Line:
    """GiB a chip. A training step needs `base` on 16 chips, and `a_row` for each 2,048 tokens that are there at once, three times as much
    for `dots` and six times for `none`. Decoding needs `base` and `a_row` for each slot. Two chips that share a matrix share that."""

    limit: float = 15.75
    base: float = 4.0
    a_row: float = 1.0
    bend: float = 0.0  # GiB more above 90 % of the limit
    asked: list[Job] = field(default_factory=list)

    def ask(self, job: Job, label: str) -> Answer:
        self.asked.append(job)
        place = job.place
        shards = place.data * place.fsdp
        if isinstance(job, Step):
            each = self.a_row * {"full": 1, "dots": 3, "none": 6}[job.finetune["remat"]]
            held = self.base * 16 / place.chips + each * job.rows * job.length / 2048 / job.parts / shards / place.tensor
        elif job.program == "generate":
            weights = self.base * roofline.weight_bytes(job.model, job.weights) / roofline.weight_bytes(job.model, "compute")
            held = (weights + self.a_row * job.slots / shards) / place.tensor
        else:
            held = 0.5
        held += self.bend if held > 0.9 * self.limit else 0
        total, limit = round(held * GIB), round(self.limit * GIB)
        cache = round(self.a_row * job.slots / shards / place.tensor * GIB) if isinstance(job, Decode) and job.program == "generate" else 0
        memory = {"arguments": total // 2, "outputs": cache, "aliased": cache, "temporaries": total - total // 2, "program": 0}
        sent = {"all-gather": (100, 10**9), "all-reduce": (100, 10**9)}
        return Answer("p", total, limit, total > limit, {} if total > limit else memory, {} if total > limit else sent)

