"""Ways in which a file is damaged, for the tests of what is verified."""

from pathlib import Path

KINDS = ["truncate", "zero", "remove", "flip"]


def damage(path: Path, kind: str) -> None:
    data = bytearray(path.read_bytes())
    if kind == "remove":
        path.unlink()
        return
    if kind == "truncate":
        data = data[: len(data) // 2]
    elif kind == "zero":
        data = bytearray(len(data))
    elif kind == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes(data)


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
