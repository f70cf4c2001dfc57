"""Label spaces are written as JSON and read back; what is no label space is refused."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from topwork.engine.label_record import LabelRecord, record_of
from topwork.interfaces.labels import Classes, Distribution, LabelSet, LabelSpace, Numbers

SPACES: list[LabelSpace] = [
    Classes(("a", "b")),
    Classes(("1", "2"), ordered=True, counts=(3, 0)),
    LabelSet(("a",), counts=(4,)),
    Numbers(("x", "y"), mean=(0.5, -3.0), scale=(1.0, 1e-6)),
    Distribution(("yes", "no")),
]


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_a_label_space_is_read_as_it_was_written(space: LabelSpace) -> None:
    read = LabelRecord.model_validate_json(json.dumps(record_of(space))).restore()
    assert type(read) is type(space)
    assert vars(read) == vars(space)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": []}, "there must be names, each once"),
        ({"names": ["a", "a"]}, "there must be names, each once"),
        ({"counts": [1]}, "there are 2 names, but other numbers of counts, means or scales"),
        ({"counts": [1, -1]}, "greater than or equal to 0"),
        ({"kind": "shares"}, "Input should be 'classes', 'label set', 'numbers', 'distribution' or 'word labels'"),
        ({"kind": "numbers"}, "there are 2 names, but other numbers of counts, means or scales"),
        ({"kind": "numbers", "mean": [0, 0], "scale": [1, 0]}, "greater than 0"),
        ({"color": 1}, "Extra inputs are not permitted"),
    ],
)
def test_what_is_no_label_space_is_refused(change: dict[str, Any], message: str) -> None:
    written = {"kind": "classes", "names": ["a", "b"]} | change
    with pytest.raises(ValidationError, match=message):
        LabelRecord.model_validate_json(json.dumps(written))
