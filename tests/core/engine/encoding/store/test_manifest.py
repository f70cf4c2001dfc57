"""A manifest names the shards that count, and others are named beside it until they are taken in."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from topwork.engine.encoding.store.manifest import MANIFEST, NAMED_BESIDE, Manifest, Shard, read_manifest, shards_beside

SHARD = Shard(sha256="a" * 64, bytes=10, texts=2)


def test_a_folder_without_a_manifest_has_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    assert shards_beside(tmp_path, {}) == []


def test_what_is_written_is_read(tmp_path: Path) -> None:
    manifest = Manifest(key={"backbone": "one"}, shards=(SHARD,))
    (tmp_path / MANIFEST).write_text(manifest.model_dump_json(), encoding="utf-8")
    assert read_manifest(tmp_path) == manifest


def test_what_is_named_beside_is_read_once_and_what_is_damaged_there_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / f"{SHARD.sha256}{NAMED_BESIDE}"
    path.write_text(SHARD.model_dump_json(), encoding="utf-8")
    (tmp_path / f"{'b' * 64}{NAMED_BESIDE}").write_text("{", encoding="utf-8")
    known: dict[Path, Shard] = {}
    assert shards_beside(tmp_path, known) == [SHARD]
    assert known == {path: SHARD}
    path.write_text("{", encoding="utf-8")
    assert shards_beside(tmp_path, known) == [SHARD]


@pytest.mark.parametrize("name", ["../../etc/passwd", "A" * 64, "a" * 63])
def test_a_shard_has_the_name_of_a_sha256_so_that_no_path_gets_in(name: str) -> None:
    with pytest.raises(ValidationError):
        Shard(sha256=name, bytes=1, texts=1)
