"""The quickstart made small: the tiny backbone, which has to be installed, and 80 rows."""

from pathlib import Path

QUICKSTART = Path(__file__).parents[2] / "experiments" / "quickstart.yaml"

TINY = ["data.reviews.limit=80", "backbone={kind: tiny}", "freeze={kind: all_except, patterns: [layer.1.ffn]}"]

#: Trains in a second.
SMALL = [*TINY, "training={epochs: 2, batch_size: 16, device: cpu}", "tracking.log_model=false"]
