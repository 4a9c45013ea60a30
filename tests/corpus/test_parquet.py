"""Parquet files to pages: columns of every kind, places, and files that are none."""

import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from humpback.corpus import parquet, readers
from humpback.corpus.fields import USUAL, Keys
from humpback.corpus.readers import Input, list_inputs
from humpback.errors import UserError
from humpback.records import Page
from tests.corpus.parquets import parquet as written

TEXTS = [f"text {number}" for number in range(8)]
URLS = [f"http://a/{number}" for number in range(8)]


def read(path: Path, keys: Keys = USUAL) -> tuple[list[Page], list[tuple[str, str]], list[str]]:
    drops: list[tuple[str, str]] = []
    warnings: list[str] = []
    pages = list(readers.read_pages(Input("x", (("x", str(path)),), "parquet"), lambda *drop: drops.append(drop), warnings.append, keys))
    return pages, drops, warnings


def put(folder: Path, data: bytes, name: str = "x.parquet") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_a_page_leads_back_to_its_row(tmp_path: Path) -> None:
    path = put(tmp_path, written({"text": TEXTS, "id": list(range(8)), "url": URLS}))
    pages, drops, warnings = read(path)
    assert [page.html.decode() for page in pages] == TEXTS and [page.url for page in pages] == URLS
    assert {(page.kind, page.charset) for page in pages} == {("text", "utf-8")}
    table = pyarrow.parquet.read_table(path)
    assert [table["text"][page.start].as_py() for page in pages] == TEXTS
    assert all(page.end == page.start + 1 for page in pages) and not drops and not warnings


@pytest.mark.parametrize("kind", [
    pyarrow.string(), pyarrow.large_string(), pyarrow.string_view(), pyarrow.binary(), pyarrow.large_binary(),
    pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
], ids=str)  # fmt: skip
def test_columns_of_every_kind(tmp_path: Path, kind: pyarrow.DataType) -> None:
    pages, drops, _ = read(put(tmp_path, written({"raw_content": pyarrow.array(TEXTS).cast(kind), "x": [0] * 8})))
    assert [page.html.decode() for page in pages] == TEXTS and not drops
    assert {page.charset for page in pages} == {"" if "binary" in str(kind) else "utf-8"}
    assert {page.url for page in pages} == {"x"}


def test_records_within_records(tmp_path: Path) -> None:
    inner = [{"body": text, "n": 1} if number != 2 else None for number, text in enumerate(TEXTS)]
    path = put(tmp_path, written({"doc": inner, "metadata": [{"url": url} for url in URLS], "tags": [["a"]] * 8}))
    pages, drops, warnings = read(path)
    assert not pages and drops == [("x", "no text")]
    assert "8 rows" in warnings[0] and "doc.body, doc.n, metadata.url, tags; name" in warnings[0] and "text_key=" in warnings[0]
    pages, drops, _ = read(path, Keys(text="doc.body"))
    assert [page.url for page in pages] == URLS[:2] + URLS[3:] and drops == [("x:2", "empty")]


def test_html_comes_before_text(tmp_path: Path) -> None:
    columns = {"text": TEXTS, "html": [f"<p>{text}" if number % 2 else None for number, text in enumerate(TEXTS)]}
    path = put(tmp_path, written(columns))
    assert [page.kind for page in read(path)[0]] == ["text", "html"] * 4
    assert [page.kind for page in read(path, Keys(text="text"))[0]] == ["text"] * 8
    assert [reason for _, reason in read(path, Keys(html="html"))[1]] == ["empty"] * 4


def test_rows_that_hold_no_page(tmp_path: Path) -> None:
    path = put(tmp_path, written({"text": ["a", None, " \n", "x" * 10_000_001, "b"], "n": [1] * 5}, rows=2))
    pages, drops, _ = read(path)
    assert [(page.html, page.start) for page in pages] == [(b"a", 0), (b"b", 4)]
    assert drops == [("x:1", "empty"), ("x:2", "empty"), ("x:3", "too large")]
    assert read(put(tmp_path, written({"text": [1, 2]})))[1] == [("x", "no text")]
    assert read(put(tmp_path, written({"text": pyarrow.array([], pyarrow.string())})))[1] == [("x", "empty")]


def test_damage_costs_its_row_group(tmp_path: Path) -> None:
    data = written({"text": TEXTS}, compression="none", use_dictionary=False, write_page_checksum=True)
    place = data.index(b"text 4")
    pages, drops, warnings = read(put(tmp_path, data[:place] + b"?" + data[place + 1 :]))
    assert [page.start for page in pages] == [0, 1, 2, 6, 7]
    assert drops == [("x", "damaged")] and "at row 3; 3 rows" in warnings[0]


def test_files_that_are_none(tmp_path: Path) -> None:
    whole = written({"text": TEXTS})
    for data, reason in (
        (b"", "empty"), (whole[:-9], "truncated"), (whole[: len(whole) // 2], "truncated"), (whole[:-4] + b"PARE", "encrypted"),
        (b"PARE" + whole[4:], "encrypted"), (b"PAR1", "damaged"), (b"not parquet at all", "damaged"),
        (whole[:-8] + b"\xff" * 4 + b"PAR1", "damaged"),
    ):  # fmt: skip
        path = put(tmp_path, data)
        assert read(path)[0:2] == ([], [("x", reason)])
        with pytest.raises(UserError, match=f"x.parquet: {reason}"):
            readers.check_keys(list_inputs(str(path)), USUAL, lambda _: None)
    path.unlink()
    assert read(path)[1] == [("x", "unreadable")]


def test_encrypted_columns(tmp_path: Path) -> None:
    encryption = pytest.importorskip("pyarrow.parquet.encryption")

    class Kms(encryption.KmsClient):
        def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
            return key_bytes.hex().encode()

    factory = encryption.CryptoFactory(lambda _: Kms())
    how = encryption.EncryptionConfiguration(footer_key="f", column_keys={"c": ["text"]}, plaintext_footer=True)
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), how)
    path = tmp_path / "x.parquet"
    with pyarrow.parquet.ParquetWriter(path, pyarrow.schema([("text", pyarrow.string())]), encryption_properties=properties) as writer:
        writer.write_table(pyarrow.table({"text": TEXTS}))
    assert {reason for _, reason in read(path)[1]} == {"encrypted"}


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, written({"text": TEXTS}))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"extra `corpus`.*pip install"):
        readers.check_keys(list_inputs(str(path)), USUAL, lambda _: None)


def test_few_rows_are_held_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, written({"text": ["a" * 5_000_000, "b" * 5_000_000] * 3}, rows=6, use_dictionary=False))
    asked: list[int] = []
    whole = parquet._batch_rows
    monkeypatch.setattr(parquet, "_batch_rows", lambda *how: asked.append(whole(*how)) or asked[-1])
    assert [len(page.html) for page in read(path)[0]] == [5_000_000] * 6
    assert asked == [6]
    assert (whole(1 << 40, 10), whole(10, 10), whole(0, 0)) == (1, 1024, 1024)
