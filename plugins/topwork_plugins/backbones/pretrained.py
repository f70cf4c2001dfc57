"""What backbones of transformers' models share: where a model is, and its tokenizer."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer
from torch import nn

import topwork

if TYPE_CHECKING:  # it takes seconds to import
    from transformers import PreTrainedModel

#: How transformers is asked for a model: never of pickled weights, and with a report of what does not fit.
LOADING: dict[str, Any] = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}


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


def check_weights(name: str, model: nn.Module, report: Mapping[str, Any]) -> None:
    """Check that a model had all weights that its type has but the pooler's, and that they are finite numbers.

    Args:
        name: what errors call it.
        report: transformers' on loading it.

    Raises:
        ValueError: it lacked some, or some have other shapes than its configuration says, or are not finite.
    """
    missing = sorted(one for one in report["missing_keys"] if not one.startswith("pooler."))
    if missing:
        raise ValueError(f"model {name!r} lacks {len(missing)} weights: {', '.join(missing[:3])}, ...")
    if other := [(key, *map(tuple, shapes)) for key, *shapes in report["mismatched_keys"]]:
        key, saved, wanted = min(other)
        raise ValueError(
            f"model {name!r} has {len(other)} weights of other shapes than its config.json says: {key} is {saved}, and "
            f"should be {wanted}"
        )
    if odd := [key for key, weight in model.named_parameters() if not weight.isfinite().all()]:
        raise ValueError(f"model {name!r} has weights that are not finite numbers: {', '.join(odd[:3])}")


def check_vocabulary(name: str, tokenizer: Tokenizer, model: "PreTrainedModel") -> None:
    """Check that the tokens of a tokenizer are those of a model.

    Raises:
        ValueError: it has none but special ones, or some that the model has no vector of.
    """
    special = sum(token.special for token in tokenizer.get_added_tokens_decoder().values())
    if tokenizer.get_vocab_size() <= special:
        raise ValueError(
            f"model {name!r} comes without a tokenizer; save one beside it: tokenizer.save_pretrained(folder)"
        )
    known, last = getattr(model.config, "vocab_size", None), max(tokenizer.get_vocab().values())
    if known is not None and last >= known:
        raise ValueError(
            f"the tokenizer of model {name!r} has tokens up to {last}, but the model knows {known}; take the tokenizer "
            "that it was trained with, or resize it: model.resize_token_embeddings"
        )


def why_not_read(error: Exception) -> str:
    """Say why a model cannot be read, and what to do where its weights are pickled."""
    why = topwork.first_line(error)
    if "model.safetensors" in why:
        why += (
            "; pickled weights are never read, since they may run code; where you trust them, write them anew: "
            "AutoModel.from_pretrained(model).save_pretrained(folder), with transformers"
        )
    return why


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
    except Exception as error:  # of a file that is no tokenizer, whatever comes first
        why = topwork.first_line(error).rstrip(":")
        raise ValueError(
            f"the tokenizer of model {model!r} cannot be read: {why}; save one beside it: "
            "tokenizer.save_pretrained(folder)"
        ) from error
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
