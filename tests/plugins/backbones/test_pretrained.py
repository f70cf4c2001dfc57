"""Where a model is, and how its tokenizer reads."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from small_encoders import write_tokenizer
from topwork_plugins.backbones.pretrained import is_local, prepare_tokenizer


def test_a_folder_with_a_configuration_is_here(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert is_local(str(tmp_path), "main")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nobody/nothing", "is neither a folder nor in the Hub's local cache, and HF_HUB_OFFLINE is set"),
        ("./nowhere", "there is no folder './nowhere'"),
        ("/no/where", "there is no folder '/no/where'"),
        ("a/b/c", "there is no folder 'a/b/c'"),
        (".", "folder '.' holds no config.json; give a folder in the Hub's layout"),
    ],
)
def test_a_model_that_is_not_here_is_told(model: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        is_local(model, "main")


def test_a_tokenizer_truncates_and_never_pads(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    prepare_tokenizer(tokenizer, 4)
    assert [len(one.ids) for one in tokenizer.encode_batch(["a", "a short text that is long"])] == [3, 4]


def test_a_tokenizer_must_mark_beginning_and_end() -> None:
    with pytest.raises(ValueError, match=r"the tokenizer must add \[CLS\] and \[SEP\]"):
        prepare_tokenizer(Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]")), 8)
