"""`humpback export --source=DIR --out=DIR`: curated pairs, or what `humpback generate` answered, as a dataset that others load.

`datasets.load_dataset(OUT)` reads the folder as it is, and so do the trainers that take a column `messages`.
"""

import functools
import re
from typing import Any

from absl import flags
from etils import epath

from humpback import storage
from humpback.convert.sources import resolve
from humpback.errors import UserError
from humpback.export import card, dataset, fill, rows
from humpback.stages.directory import read_manifest

_CURATED = re.compile(r"curated-(\d+)")
_LICENSE = re.compile(r"[\w.,+() -]{1,80}")


def define_flags() -> None:
    """The command's flags."""
    flags.DEFINE_string("source", None, "a folder curated-T, a run (its last one), or the --out of `humpback generate`", required=True)
    flags.DEFINE_string("out", None, "the folder to make", required=True)
    flags.DEFINE_bool("with_seed", False, "add the seed pairs that training had beside the curated ones")
    flags.DEFINE_bool("tags", False, "put training's tag after each instruction in `messages`")
    flags.DEFINE_bool("drop_emails", False, "leave out pairs that hold an e-mail address")
    flags.DEFINE_bool("by_reference", False, "leave out the pages' texts; who holds the pages fills them in with --fill")
    flags.DEFINE_bool("fill", False, "--source is a dataset by reference: add the texts from --input")
    flags.DEFINE_string("input", None, "with --fill: the pages, as they were given to `humpback segment`")
    flags.DEFINE_string("license", "", "a licence's name for the card, such as cc-by-4.0; none is assumed")


def main() -> None:
    """Makes the folder, or completes it, and says what is in it."""
    values = flags.FLAGS
    source, out = epath.Path(values.source), epath.Path(values.out)
    if values.fill != bool(values.input):
        raise UserError("--fill and --input go together: --fill --source=BY_REFERENCE --input=PAGES")
    if values.license and not _LICENSE.fullmatch(values.license):
        raise UserError(f"--license={values.license!r:.100}: a name such as cc-by-4.0, at most 80 letters, digits, spaces, . , + ( ) - _")
    if values.fill:
        facts = fill.fill(source, ",".join(resolve(path.strip()) for path in values.input.split(",")), out)
    else:
        options = {name: bool(values[name].value) for name in ("with_seed", "tags", "drop_emails")}
        facts = export(source, out, options, values.license, values.by_reference)
    print(f"{facts['rows']:,} rows ({', '.join(f'{count:,} {kind}' for kind, count in facts['kinds'].items())})")
    for reason, count in facts["dropped"].items():
        print(f"{count:,} left out: {reason}")
    if facts["rows_with_addresses"]:
        print(f"{facts['rows_with_addresses']:,} rows hold an e-mail address; --drop_emails leaves them out")
    if facts.get("rewritten"):
        print(card.DRAFTS)
    if not facts["license"]:
        print("no licence named: the card says `other`; --license names one")
    print(out)


def export(source: epath.Path, out: epath.Path, options: dict[str, bool], licence: str, by_reference: bool) -> dict[str, Any]:
    """Writes the dataset. UserError for a source that is neither curated pairs nor answers, or not complete."""
    if any(name.startswith("generated-") for name in storage.list_files(source)):
        return _answers(source, out, options, licence, by_reference)
    source = _curated(source)
    manifest = read_manifest(source.parent, source.name)
    names = [*(["seed"] if options["with_seed"] else []), "segments"]
    manifests = {source.name: manifest, **{name: read_manifest(source.parent, name) for name in names}}
    fields = {name.removeprefix("segments."): value for name, value in manifests["segments"]["config"].items()}
    about = {
        "name": f"{source.parent.name or 'run'}-{source.name}", "license": licence, "options": options,
        "declared_languages": [fields["language"]] if "language" in fields else [],
        "segments": fields,
        "rewritten": (source.parent / f"rewritten-{source.name.partition('-')[2]}" / "manifest.json").exists(),
        "made_from": {name: {key: m[key] for key in ("config_sha256", "counts", "files")} for name, m in manifests.items()},
    }  # fmt: skip
    iteration = int(source.name.partition("-")[2])
    make = lambda dropped: rows.pair_rows(source, iteration, options["with_seed"], options["tags"])  # noqa: E731
    return dataset.write(out, make, rows.PAIR_COLUMNS, about, options["drop_emails"], by_reference)


def _curated(source: epath.Path) -> epath.Path:
    """The folder of curated pairs that a path names. UserError for another one."""
    if _CURATED.fullmatch(source.name):
        return source
    found = [(int(match[1]), path) for path in (source.iterdir() if source.is_dir() else ()) if (match := _CURATED.fullmatch(path.name))]
    complete = [(number, path) for number, path in found if (path / "manifest.json").exists()]
    if not complete:
        raise UserError(f"--source={source}: neither a complete curated-T, nor a run with one, nor the folder of `humpback generate`")
    return max(complete)[1]


def _answers(source: epath.Path, out: epath.Path, options: dict[str, bool], licence: str, by_reference: bool) -> dict[str, Any]:
    if by_reference or options["with_seed"] or options["tags"]:
        raise UserError("--by_reference, --with_seed and --tags are of curated pairs; the answers of `humpback generate` have none")
    manifest = read_manifest(source.parent, source.name)
    about = {
        "name": source.name, "license": licence, "options": options, "declared_languages": [],
        "made_from": {source.name: {"config": manifest["config"], "counts": manifest["counts"], "files": manifest["files"]}},
    }  # fmt: skip
    model = manifest["config"].get("--model") or manifest.get("model", "")  # of `generate`, or of a run's stage
    make = functools.partial(rows.answer_rows, source, str(model))
    return dataset.write(out, make, rows.ANSWER_COLUMNS, about, options["drop_emails"], by_reference)
