"""Every command and every piece of code in the README and the docs runs, and what they link to exists."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import mlflow
import pytest
from ruamel.yaml import YAML

import topwork
from pages import Reader, blocks_of

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = [page for page in PAGES if any(block.language in ("bash", "python") for block in blocks_of(page))]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_a_page_can_be_followed_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments", ignore=shutil.ignore_patterns("results"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    reader = Reader(tmp_path, monkeypatch, capsys)
    try:
        for block in blocks_of(page):
            reader.read(block)
    finally:
        mlflow.set_tracking_uri(None)  # a page may set it
        for name in [
            name for name, one in sys.modules.items() if str(getattr(one, "__file__", "")).startswith(str(tmp_path))
        ]:
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_a_page_shows_of_yaml_and_toml_is_that(page: Path) -> None:
    for block in blocks_of(page, "yaml"):
        assert isinstance(YAML(typ="safe", pure=True).load(block.code), dict | list)
    for block in blocks_of(page, "toml"):
        assert tomllib.loads(block.code)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_a_page_links_to_exists(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings], target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(r"`((?:experiments|docs|tests|core|plugins)/[\w./-]+\.\w+)`", page.read_text(encoding="utf-8"))
    assert [file for file in named if not (ROOT / file).is_file()] == []


def test_how_each_kind_of_label_is_written_is_an_experiment() -> None:
    for block in blocks_of(ROOT / "docs" / "labels.md", "yaml"):
        shown = YAML(typ="safe", pure=True).load(block.code)
        experiment = topwork.Experiment.model_validate(
            {"name": "shown", "data": {"rows": {"path": "rows.jsonl"}}} | shown
        )
        assert experiment.tasks.keys() == shown["tasks"].keys()


def test_the_readme_fits_two_hundred_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200


def test_the_docs_name_every_shipped_kind() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [plugin.kind for plugin in topwork.discover().plugins() if f"`{plugin.kind}`" not in text] == []


@pytest.mark.slow
def test_the_pages_become_a_site_without_a_fault(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "GroupedConfig" in (tmp_path / "site" / "tutorial" / "index.html").read_text()
    api = (tmp_path / "site" / "api" / "index.html").read_text()
    assert all(name in api for name in ("train_seeds", "HeadConfig", "Observer", "Stage", "decode_logits"))
    outside = re.findall(r'(?:src|href)="(https?://[^"]+)"', (tmp_path / "site" / "index.html").read_text())
    assert all("squidfunk" in link for link in outside)  # the theme's name in the footer; nothing is loaded
