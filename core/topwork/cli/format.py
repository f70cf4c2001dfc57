"""How commands can print their results."""

from enum import StrEnum


class Format(StrEnum):
    """For people, or in full precision for other programs."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


class PredictionFormat(StrEnum):
    """The same for predictions, which may be too many for one JSON value."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"


class ExportFormat(StrEnum):
    """What a model can be exported to."""

    ONNX = "onnx"
    TRANSFORMERS = "transformers"
