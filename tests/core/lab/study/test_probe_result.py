"""What was found in layers, as rows and as CSV."""

import csv
import io

from probe_helpers import LAYERS, result_of


def test_rows_have_each_task_layer_and_pooling_in_order() -> None:
    result = result_of()
    assert [(row["task"], row["layer"], row["pooling"]) for row in result.rows] == [
        (task, layer, pooling) for task in "ab" for layer in LAYERS for pooling in ("cls", "mean")
    ]
    assert [row["chosen"] for row in result.rows].count(True) == 2
    assert result.layers == list(LAYERS)
    assert result.poolings == ["cls", "mean"]


def test_csv_has_all_digits_and_both_splits() -> None:
    rows = list(csv.DictReader(io.StringIO(result_of().as_csv())))
    assert float(rows[3]["value"]) == 0.5 + 3 / 20
    assert (rows[3]["validation"], rows[3]["metric"], rows[3]["seeds"]) == ("0.8", "macro_f1", "5")
