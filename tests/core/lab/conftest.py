"""The tiny backbone is installed, so that a run takes a second."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module", autouse=True)
def _tiny(installed: Path) -> None:
    """Install it for all tests of this folder."""
