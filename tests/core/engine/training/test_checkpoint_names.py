"""Names of checkpoints sort by age, and say where a training was."""

from pathlib import Path

from topwork.engine.training.checkpoint_names import checkpoint_name, checkpoints_in, position_of


def test_checkpoints_are_found_the_newest_first(tmp_path: Path) -> None:
    moments = [(2, 0), (1, 5), (10, 3), (1, 40)]
    for moment in moments:
        (tmp_path / checkpoint_name(*moment)).mkdir()
    for other in ("000001-000000005.unreadable", ".000001-000000005.removed", "notes"):
        (tmp_path / other).mkdir()
    assert [position_of(path) for path in checkpoints_in(tmp_path)] == sorted(moments, reverse=True)
    assert checkpoints_in(tmp_path / "nothing") == []
