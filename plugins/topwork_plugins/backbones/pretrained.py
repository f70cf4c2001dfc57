"""What backbones of transformers' models share: where a model is, and its tokenizer."""

from collections.abc import Collection
from pathlib import Path

from tokenizers import Tokenizer

import topwork


def is_local(model: str, revision: str) -> bool:
    """Whether a model lies on this machine. Asking the Hub first would cost half a minute of retries offline.

    Args:
        model: a name on the Hub, or a folder in the Hub's layout.
        revision: a branch, tag or commit on the Hub.

    Raises:
        ValueError: the model is neither here nor can it be downloaded.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"folder {model!r} holds no config.json; give a folder in the Hub's layout")
        return True
    if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise ValueError(f"there is no folder {model!r}")
    if isinstance(try_to_load_from_cache(model, "config.json", revision=revision), str):
        return True
    if constants.HF_HUB_OFFLINE:
        raise ValueError(
            f"model {model!r} is neither a folder nor in the Hub's local cache, and HF_HUB_OFFLINE is set; "
            "download it where there is a network, give a folder, or use {kind: minilm}"
        )
    return False


def check_weights(model: str, missing: Collection[str]) -> None:
    """Check that a model had all weights that its type has.

    Raises:
        ValueError: it lacked some.
    """
    if missing:
        raise ValueError(f"model {model!r} lacks {len(missing)} weights: {', '.join(sorted(missing)[:3])}, ...")


def read_tokenizer(model: str, place: str, revision: str, *, local: bool) -> Tokenizer:
    """Read the tokenizer of a model, without code of its own.

    Args:
        model: what errors call it.
        place: a name on the Hub, or a folder.
        local: whether it lies on this machine.

    Raises:
        ValueError: it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        fast = AutoTokenizer.from_pretrained(place, revision=revision, local_files_only=local, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"the tokenizer of model {model!r} cannot be read: {topwork.first_line(error)}") from error
    found: Tokenizer = fast.backend_tokenizer
    return found


def prepare_tokenizer(tokenizer: Tokenizer, max_length: int) -> None:
    """Truncate at ``max_length`` tokens, never pad.

    Raises:
        ValueError: the tokenizer adds no special tokens, so that there would be no first token to read.
    """
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    if len(tokenizer.encode("").ids) != 2:
        raise ValueError("the tokenizer must add [CLS] and [SEP]; its tokenizer.json has no post-processor that does")
