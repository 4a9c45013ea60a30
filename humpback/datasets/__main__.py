"""`python -m humpback.datasets NAME --source=FILE [--data_dir=DIR]` prepares a dataset as array_record, without TensorFlow."""

import argparse
import sys

from humpback.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Prepares the dataset and prints how it is named in a config; exit code 2 after a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m humpback.datasets", allow_abbrev=False, description="Prepares a tfds dataset.")
    parser.add_argument("name", choices=["oasst_seed"])
    parser.add_argument("--source", required=True, help="Open Assistant export or JSONL of pairs (.jsonl, .jsonl.gz)")
    parser.add_argument("--data_dir", default=None, help="where datasets are kept (TFDS_DATA_DIR, else tfds' own folder)")
    parser.add_argument("--single_reply", default="drop", choices=["drop", "reviewed"], help="an only reply, which has no rank")
    flags = parser.parse_args(arguments)
    try:
        prepare_oasst_seed(flags.source, flags.data_dir, flags.single_reply)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def prepare_oasst_seed(source: str, data_dir: str | None, single_reply: str = "drop") -> None:
    """Writes the dataset below `data_dir`. UserError when it is already there (a prepared dataset is never rewritten)."""
    import os

    from humpback.datasets import seed_pairs
    from humpback.datasets.oasst_seed import OasstSeed

    pairs, counts = seed_pairs.read_pairs(source, single_reply)  # first, so that a mistake in it leaves no half-made folder
    if not pairs:
        raise UserError(f"{source}: no seed pair in it ({counts})")
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or None
    builder = OasstSeed(source=source, single_reply=single_reply, data_dir=data_dir, file_format="array_record")
    if builder.is_prepared():
        raise UserError(f"{builder.data_path}: already prepared; remove it first, or give another --data_dir")
    builder.download_and_prepare()
    for reason, count in counts.items():
        print(f"{count:8,}  {reason}")
    suffix = f"?data_dir={data_dir}" if data_dir else ""
    print(f"{builder.data_path}\nuse it as --config.seed_pairs.source=tfds:oasst_seed:train{suffix}")


if __name__ == "__main__":
    sys.exit(main())
