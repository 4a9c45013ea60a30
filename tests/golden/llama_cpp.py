"""Brings parts of llama.cpp: vocabularies with the ids of some texts, and its converter. Prints the folder, for HUMPBACK_LLAMA_CPP.

    export HUMPBACK_LLAMA_CPP=$(python tests/golden/llama_cpp.py runs/cache/llama.cpp)

They lie in the source archive of a package, which pip downloads from wherever it is told to and compares with its hash. Nothing is built:
pip asks an archive's build backend for name and version, and this one stands in for it.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
BACKEND = "scikit_build_core/build.py"
ANSWER = f"""
import pathlib

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    made = pathlib.Path(folder, "{PACKAGE.replace("-", "_")}-{VERSION}.dist-info")
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\\nName: {PACKAGE}\\nVersion: {VERSION}\\n")
    return made.name
"""
ROOT = f"{PACKAGE.replace('-', '_')}-{VERSION}/vendor/llama.cpp/"
WANTED = re.compile(
    r"LICENSE|convert_hf_to_gguf\.py|conversion/\w+\.py|gguf-py/gguf/.+\.py|models/ggml-vocab-(gpt-2|llama-spm|llama-bpe|qwen2)\.gguf(\.inp|\.out)?"
)


def download(folder: pathlib.Path) -> pathlib.Path:
    """The archive, in a folder of its own."""
    backend = folder / BACKEND
    backend.parent.mkdir(parents=True)
    backend.write_text(ANSWER)
    (folder / "wanted.txt").write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:", "--no-build-isolation",
               "--require-hashes", f"--requirement={folder / 'wanted.txt'}", f"--dest={folder / 'archive'}"]  # fmt: skip
    subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, "PYTHONPATH": str(folder)})
    (archive,) = (folder / "archive").iterdir()
    return archive


def unpack(archive: pathlib.Path, folder: pathlib.Path) -> None:
    """What is wanted of it, as files of the same relative names."""
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix(ROOT)
            if name == member.name or not member.isfile() or not WANTED.fullmatch(name):
                continue
            data = tar.extractfile(member)
            assert data is not None
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data.read())


def main(where: str) -> None:
    target = pathlib.Path(where).resolve()
    stamp = target / f"{PACKAGE}-{VERSION}"  # written last
    if not stamp.exists():
        shutil.rmtree(target, ignore_errors=True)
        with tempfile.TemporaryDirectory() as scratch:
            unpack(download(pathlib.Path(scratch)), target)
        stamp.touch()
    print(target)


if __name__ == "__main__":
    main(sys.argv[1])
