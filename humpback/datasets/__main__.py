"""`python -m humpback.datasets NAME --source=PATH [--data_dir=DIR]` prepares a dataset as array_record, without TensorFlow."""

import argparse
import functools
import os
import sys
from typing import Any

from humpback.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Prepares the dataset and prints how it is named; exit code 2 after a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m humpback.datasets", allow_abbrev=False, description="Prepares a tfds dataset.")
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    seed = names.add_parser("oasst_seed", allow_abbrev=False, help="human pairs")
    seed.add_argument("--source", required=True, help="Open Assistant export or JSONL of pairs (.jsonl, .jsonl.gz)")
    seed.add_argument("--single_reply", default="drop", choices=["drop", "reviewed"], help="an only reply, which has no rank")
    seed.add_argument("--language", default="en", help="of the trees' messages, ISO 639-1")
    seed.add_argument("--strict", action="store_true", help="end at the first bad line instead of dropping it")
    segments = names.add_parser("segments", allow_abbrev=False, help="segments of web pages")
    segments.add_argument("--source", required=True, help="the folder that `humpback segment --out=DIR` made")
    for command in (seed, segments):
        command.add_argument("--data_dir", default=None, help="where datasets are kept (TFDS_DATA_DIR, else tfds' own folder)")
    flags = parser.parse_args(arguments)
    try:
        if flags.name == "oasst_seed":
            rules = {"single_reply": flags.single_reply, "language": flags.language, "strict": flags.strict}
            prepare_oasst_seed(flags.source, flags.data_dir, **rules)
        else:
            prepare_segments(flags.source, flags.data_dir)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def prepare_oasst_seed(source: str, data_dir: str | None, **rules: Any) -> None:
    """Writes the dataset below `data_dir`; `rules` are those of `pair_files.Reader`. UserError when it is there: it is never rewritten."""
    from humpback.datasets import pair_files
    from humpback.datasets.oasst_seed import OasstSeed

    reader = pair_files.Reader(**rules, say=functools.partial(print, file=sys.stderr))
    counts = pair_files.read_file(source, reader).counts  # first, so that a mistake in it leaves no half-made folder
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or None
    builder = OasstSeed(source=source, **rules, data_dir=data_dir, file_format="array_record")
    _prepare(builder)
    for reason, count in counts.items():
        print(f"{count:8,}  {reason}")
    suffix = f"?data_dir={data_dir}" if data_dir else ""
    print(f"{builder.data_path}\nuse it as --config.seed_pairs.source=tfds:oasst_seed:train{suffix}")


def prepare_segments(source: str, data_dir: str | None) -> None:
    """Writes the dataset below `data_dir`, a file of `source` after another. UserError when it is already there."""
    from humpback.datasets.segments import Segments

    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or None
    builder = Segments(source=source, data_dir=data_dir, file_format="array_record")
    _prepare(builder)
    counts = builder.info.metadata["yield"]
    print(f"{builder.info.splits['train'].num_examples:12,}  segments of {counts['pages']:,} pages")
    for reason, count in sorted(counts["dropped"].items(), key=lambda item: -item[1]):
        print(f"{count:12,}  dropped: {reason}")
    folder = f", data_dir={data_dir!r}" if data_dir else ""
    print(f"{builder.data_path}\nread it with tfds.data_source('segments', split='train'{folder}) after import humpback.datasets.segments")


def _prepare(builder: Any) -> None:
    if builder.is_prepared():
        raise UserError(f"{builder.data_path}: already prepared; remove it first, or give another --data_dir")
    builder.download_and_prepare()


if __name__ == "__main__":
    sys.exit(main())
