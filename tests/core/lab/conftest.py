"""The tiny backbone, installed as a plugin of another package, so that a run takes a second."""

from collections.abc import Iterator
from pathlib import Path

import pytest

PLUGIN = """\
import topwork
from topwork.testing import TinyBackboneConfig

@topwork.hookimpl
def register_backbones(register):
    register(TinyBackboneConfig)
"""


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Install the tiny backbone as a plugin of another package, and return the folder that it lies in."""
    folder = tmp_path_factory.mktemp("installed")
    info = folder / "tiny_plugin-1.5.dist-info"
    info.mkdir()
    (folder / "tiny_plugin.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-plugin\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text("[topwork]\ntiny = tiny_plugin\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder
