"""NAME.json in --journal: which slices were asked for from here, and what a supervisor must still know when it has been killed."""

import fcntl
import json
import os
import pathlib
import secrets
import shlex
import time

from absl import flags

from launch.gcloud import Refused

FLAGS = flags.FLAGS
GRACE_SECONDS = 120  # from SIGTERM to SIGKILL: what a save may take
DONE, FAILED, MISUSED, OVER_BUDGET, STOPPED = 0, 1, 2, 3, 130  # how a supervision ends: its exit codes
NEW = {"command": None, "begun": "", "attempt": 0, "errors": 0, "chip_hours": 0.0, "seen": 0.0, "seen_chips": 0, "ends": 0.0,
       "answered": False, "outcome": None, "finished": False}  # fmt: skip


class Journal:
    """The file. `slices`: what was asked for (id, type, count, zone, project), None when nothing is there that we made.

    `id` is a random number that every slice carries as its label `humpback`: what does not carry it was made by somebody else.
    """

    def __init__(self) -> None:
        folder = pathlib.Path(FLAGS.journal)
        self.path, self._lock = folder / f"{FLAGS.name}.json", None
        self.values = NEW | {"slices": None} | self._read()
        if self.slices and FLAGS.project is None:
            FLAGS.project = self.slices["project"]  # gcloud's own setting may be another one by now
        self.state: str | None = None  # of the slices, at this process' last look
        self.told = ""  # why a limit is not kept by the slices

    @property
    def slices(self) -> dict | None:
        return self.values["slices"]

    def lock(self) -> None:
        """For as long as this process lives. Refused while another one makes, deletes or supervises these slices."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path.with_suffix(".lock"), "w")  # noqa: SIM115 as long as this process
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused(f"{self.path}: another supervisor of {FLAGS.name} runs here; end it first (Ctrl-C)") from None
        self.values |= self._read()

    def _read(self) -> dict:
        try:
            return json.loads(self.path.read_text()) if self.path.exists() else {}
        except (OSError, ValueError) as error:
            by_hand = f"gcloud compute tpus tpu-vm list --zone={FLAGS.zone}"
            raise Refused(f"{self.path}: cannot be read ({error}); what there is of {FLAGS.name} costs money, see {by_hand}") from None

    def check(self) -> str:
        """In what the flags differ from the slices that were asked for; "" when they do not, or there are none.

        Refused when those are in another place, where they cannot be looked for.
        """
        made = self.slices
        if not made:
            return ""
        for name, was in (("zone", made["zone"]), ("project", made["project"])):
            if (now := getattr(FLAGS, name)) != was:
                raise Refused(
                    f"{self.path}: {FLAGS.name} was made with --{name}={was}, now it is {now}; give that one again, or another --name"
                )
        given = {"type": FLAGS.type, "slices": FLAGS.slices}
        was = {"type": made["type"], "slices": made["count"]}
        return ", ".join(f"--{name}={was[name]}, now {value}" for name, value in given.items() if value not in (None, was[name]))

    def ask(self, kind: str, count: int) -> dict:
        """Notes, before it is done, that slices are asked for; returns the note. An earlier request may still come: it keeps its id."""
        number = self.slices["id"] if self.slices else secrets.token_hex(8)
        made = {"id": number, "type": kind, "count": count, "zone": FLAGS.zone, "project": FLAGS.project}
        self.values["slices"] = made
        if not FLAGS.dry_run:
            self.write()
        return made

    def know_project(self, project: str) -> None:
        """Notes where the slices are, when that was left to gcloud: nobody shall look for them in another project."""
        if self.slices["project"] is None:
            FLAGS.project = self.slices["project"] = project
            if self._lock:
                self.write()

    def begin(self, command: list[str]) -> None:
        """Takes up the supervision of a command. Refused while that of another one is not finished."""
        new = NEW | {"command": command, "begun": time.strftime("%Y%m%dT%H%M%S")}
        if self.values["command"] != command:
            if self.values["command"] is not None and not self.values["finished"]:
                was = shlex.join(self.values["command"])
                raise Refused(f"{self.path}: {FLAGS.name} is supervised for another command, {was}; take another --name, or end that one")
            self.values |= new
        elif self.values["finished"] and self.values["outcome"] != DONE:  # it ended for a reason, and is asked for again
            self.values |= new | {"chip_hours": self.values["chip_hours"]}

    @property
    def attempt(self) -> str:
        """What workers and logs call the latest start: not as one of another command on the same slices, or in the same directory."""
        return f"{self.values['begun']}-{self.values['attempt']}"

    def write(self, **values) -> None:
        self.values |= values
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.values, indent=2) + "\n")
        os.replace(temporary, self.path)

    def count(self, chips: int) -> None:
        """Adds the time since the last look to the chip-hours, also over a supervisor's death. chips: how many cost money now.

        When they have gone since, nobody knows when: the time between two looks is added at most, but where the slice was to delete
        itself in the meantime (`ends`) all of the time until then.
        """
        now, seen = time.time(), self.values["seen"]
        if seen:
            gone = self.values["ends"] + GRACE_SECONDS if 0 < self.values["ends"] <= now else seen + FLAGS.poll_seconds
            self.values["chip_hours"] += max(0.0, (now if chips else min(now, gone)) - seen) / 3600 * self.values["seen_chips"]
        self.write(seen=now if chips else 0.0, seen_chips=chips)
