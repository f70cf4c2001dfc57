"""What all tests share: no network, nothing written outside a temporary folder, one thread."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "experiments" / "quickstart.yaml"

#: Real data is not part of the project; tests that want it skip where it is missing.
DATA = Path(os.environ.get("TOPWORK_DATA", ROOT.parent / "shared" / "data"))

#: Where the declared shapes are checked at each call; nothing of it may be imported before.
CHECKED = ("topwork.interfaces", "topwork.engine", "topwork.building_blocks", "topwork_plugins")

HELPERS = (
    "checkpoint_helpers",
    "outside_helpers",
    "queue_helpers",
    "phase_helpers",
    "encoding_helpers",
    "run_helpers",
    "store_helpers",
    "study_helpers",
)
pytest.register_assert_rewrite("topwork.testing", *HELPERS)
install_import_hook(CHECKED, "shape_checker.check")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start; two workers share two cores
torch.set_num_threads(1)
settings.register_profile("topwork", deadline=None, derandomize=True)  # machines are slow at times; tests repeat
settings.load_profile("topwork")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long, so that no worker is left alone with one at the end."""
    share: dict[Path, list[bool]] = {}
    for item in items:
        share.setdefault(item.path, []).append(item.get_closest_marker("slow") is not None)
    items.sort(key=lambda item: -sum(share[item.path]) / len(share[item.path]))


PLUGIN = """\
import topwork
from topwork.testing import TinyBackboneConfig

@topwork.hookimpl
def register_backbones(register):
    register(TinyBackboneConfig)
"""


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what libraries write to the home folder out of the real one."""
    home = tmp_path_factory.mktemp("home")
    for variable in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "HF_HOME"):
        os.environ[variable] = str(home)


@pytest.fixture(scope="session", autouse=True)
def _few_resamples() -> Iterator[int]:
    """Estimate intervals from as few resamples as give one: measuring on all of them takes longer than training.

    Processes that tests start take all of them, and so do the tests of intervals.
    """
    from topwork.engine.evaluation import bootstrap

    resamples = bootstrap.RESAMPLES
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "RESAMPLES", bootstrap.MIN_RESAMPLES)
        yield resamples


@pytest.fixture
def all_resamples(_few_resamples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Estimate intervals from as many resamples as users get."""
    monkeypatch.setattr("topwork.engine.evaluation.bootstrap.RESAMPLES", _few_resamples)


@pytest.fixture(autouse=True)
def _workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in a folder of its own, with nothing in the activation store and no tracking store named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOPWORK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def _migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def store_uri(_migrated_store: Path, tmp_path: Path) -> str:
    """The URI of a fresh MLflow store, copied from one that is already migrated, which saves seconds."""
    shutil.copy(_migrated_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a file into the test's folder and return its path."""

    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


@pytest.fixture(scope="session")
def reviews() -> Path:
    """The file of real reviews."""
    path = DATA / "reviews.txt"
    if not path.exists():
        pytest.skip(f"the real reviews are not at {path}; set TOPWORK_DATA to their folder")
    return path


@pytest.fixture(scope="module")
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


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C reaches the test, also where the tests were begun with it ignored."""
    from run_helpers import signals_heard

    with signals_heard():
        yield
