"""Debian's Chromium, driven by Playwright, where both are installed; elsewhere the tests that need them are skipped with the reason."""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = os.environ.get("HUMPBACK_CHROMIUM") or shutil.which("chromium")
_THERE = {"playwright (pip install -e .[test])": importlib.util.find_spec("playwright"), "chromium (apt-get install chromium)": CHROMIUM}
_MISSING = [name for name, there in _THERE.items() if not there]
NEEDED = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)}")


def started() -> Iterator[Any]:
    """A browser without a window, until it is closed."""
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
