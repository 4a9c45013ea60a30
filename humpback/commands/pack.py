"""`humpback pack --workdir=RUN --out=FILE.zip`: all that a later session needs of a run, for `--resume_from`.

That is records, models, manifests, reports, and what half-done stages continue from. Left out are caches and who works there.
"""

import zipfile
from collections.abc import Iterator
from typing import Any

from absl import flags
from etils import epath

from humpback import locks, storage
from humpback.digests import CACHE as DIGESTS
from humpback.errors import UserError
from humpback.models import checksums
from humpback.progress import Bar
from humpback.stages.commandline import CACHE as PROGRAMS

_TEXTS = (".json", ".jsonl", ".html", ".md", ".txt")  # what deflating makes smaller; weights stay as they are
_CHUNK = 1 << 20


def define_flags() -> None:
    """The command's flags."""
    flags.DEFINE_string("workdir", None, "the run's directory", required=True)
    flags.DEFINE_string("out", None, "the .zip to write; one that is there is replaced", required=True)
    flags.DEFINE_list("without", [], "folders to leave out, as base, which its weights make again to the byte")


def main() -> None:
    """Writes the file and says what is in it."""
    values = flags.FLAGS
    workdir, out = epath.Path(values.workdir), epath.Path(values.out)
    if out.suffix != ".zip":
        raise UserError(f"--out={values.out}: must end in .zip")
    if not (workdir / "config.json").exists():
        raise UserError(f"--workdir={values.workdir}: no run's directory, as it has no config.json")
    if unknown := [name for name in values.without if not (workdir / name).exists()]:
        raise UserError(f"--without={unknown[0]}: {values.workdir} has no such folder")
    if workdir.resolve() in out.resolve().parents:
        raise UserError(f"--out={values.out}: lies in the run that is packed; name a place beside it")
    names = [name for name in checksums.walk(workdir) if _is_packed(name, values.without)]
    storage.publish(out, zipped(workdir, names), replace=True)
    print(f"{out}: {len(names)} files, {out.stat().length / 1e6:,.1f} MB")


def _is_packed(name: str, without: list[str]) -> bool:
    top, file = name.partition("/")[0], name.rpartition("/")[2]
    return top not in (PROGRAMS, DIGESTS, *without) and file != locks.NAME and not file.startswith(storage.TEMPORARY)


class _Passing:
    """A file that can only be written to, whose bytes are taken away as they come."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []

    def write(self, data: bytes) -> int:
        """Takes bytes."""
        self._waiting.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Has nothing to do."""

    def take(self) -> bytes:
        """Hands out what has come since the last time."""
        data, self._waiting = b"".join(self._waiting), []
        return data


def zipped(folder: epath.Path, names: list[str]) -> Iterator[bytes]:
    """Yields the bytes of a .zip of these files of a folder; the same files give the same bytes."""
    passing: Any = _Passing()
    with Bar("pack", "B", sum((folder / name).stat().length for name in names), scaled=True, shown=None) as bar:
        with zipfile.ZipFile(passing, "w") as archive:  # which needs no seeking
            for name in names:
                entry = zipfile.ZipInfo(name)
                entry.compress_type = zipfile.ZIP_DEFLATED if name.endswith(_TEXTS) else zipfile.ZIP_STORED
                with archive.open(entry, "w", force_zip64=True) as file:
                    for chunk in storage.read_chunks(folder / name, _CHUNK):
                        file.write(chunk)
                        bar.advance(len(chunk))
                        yield passing.take()
        yield passing.take()
