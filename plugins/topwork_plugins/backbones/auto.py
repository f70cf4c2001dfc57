"""Any text encoder of transformers, from the Hub, a folder or an installed package."""

import copy
import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from pydantic import Field
from tokenizers import Tokenizer
from torch import Tensor, nn

import topwork
from topwork_plugins.backbones.layered import LayeredModel
from topwork_plugins.backbones.pretrained import (
    LOADING,
    check_vocabulary,
    check_weights,
    is_local,
    read_tokenizer,
    why_not_read,
)

if TYPE_CHECKING:  # transformers takes seconds to import, so the code below does it where a model is built
    from transformers import PretrainedConfig, PreTrainedModel

#: What of a model's configuration decides no result: names, and what only matters in train mode or elsewhere.
NO_RESULT = ("_name_or_path", "architectures", "dtype", "transformers_version", "use_cache", "id2label", "label2id")

#: The file beside transformers' own in which a saved backbone says how it computes attention.
ATTENTION = "attention.json"

#: How transformers itself computes attention.
KNOWN_ATTENTION = ("eager", "sdpa")


class AutoBackbone(topwork.Backbone):
    """A model of transformers as its embeddings, its layers, and what follows the last of them.

    Where a layer is an attention and a feed-forward network one after the other, as in BERT, it is two stages.
    Parameter names are those of transformers: ``encoder.layer.5.output.dense.weight``.

    Raises:
        ValueError: the model does not give the same bits when it runs in stages.
    """

    def __init__(self, model: "PreTrainedModel", tokenizer: Tokenizer) -> None:
        super().__init__()
        model.eval()
        model.config.use_cache = False  # of decoders: nothing is generated
        self.config = model.config
        self.width: int = model.config.hidden_size
        self.tokenizer = tokenizer
        self._separator = find_separator(tokenizer) if (getattr(model.config, "type_vocab_size", 0) or 0) > 1 else None
        try:
            self._layered = LayeredModel(model, some_tokens(tokenizer, getattr(model.config, "pad_token_id", None)))
        except Exception as error:  # a model may fail in any way when it runs otherwise than it was written to
            reason = topwork.first_line(error)
            raise ValueError(f"a model of type {model.config.model_type} cannot run in stages: {reason}") from error
        for name, child in model.named_children():
            self.add_module(name, child)

    def train(self, mode: bool = True) -> "AutoBackbone":
        self._layered.model.training = mode  # it is no submodule, though its children are
        super().train(mode)
        return self

    def stages(self) -> Sequence[topwork.Stage]:
        layered = self._layered
        sees_separator = self._separator is not None  # before a token or behind it
        stages = [topwork.Stage("embeddings", tuple(layered.before), self._embed, mixes_tokens=sees_separator)]
        for number, layer in enumerate(layered.layers):
            if number not in layered.divided:
                run = partial(layered.run_layer, number)
                stages.append(topwork.Stage(f"layer.{number}", (layer,), run, mixes_tokens=True, layer=number))
                continue
            children = dict(layer.named_children())
            feed_forward = (children.pop("intermediate"), children.pop("output"))
            attend, feed = partial(layered.attend, number), partial(layered.feed_forward, number)
            stages += [
                topwork.Stage(
                    f"layer.{number}.attention", tuple(children.values()), attend, mixes_tokens=True, layer=number
                ),
                topwork.Stage(f"layer.{number}.ffn", feed_forward, feed, mixes_tokens=False, layer=number),
            ]
        if layered.after:
            stages.append(topwork.Stage("end", tuple(layered.after), layered.finish, mixes_tokens=False))
        return stages

    def architecture(self) -> Mapping[str, str | int | float | bool]:
        import transformers

        config = {name: value for name, value in self.config.to_dict().items() if name not in NO_RESULT}
        written = json.dumps(config, sort_keys=True, default=str)
        return {
            "numerics": 1,  # the version of the code that runs the layers; transformers' has its own
            "transformers": transformers.__version__,
            "type": self.config.model_type,
            "sha256 of the configuration": hashlib.sha256(written.encode()).hexdigest(),
            "attention": self.config._attn_implementation,
            "token types": self._separator is not None,
        }

    def save(self, folder: Path) -> None:
        self.config.save_pretrained(folder)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        attention = json.dumps({"attention": self.config._attn_implementation})
        (folder / ATTENTION).write_text(attention + "\n", encoding="utf-8")

    def to_transformers(self) -> "PreTrainedModel":
        model = cast("PreTrainedModel", copy.deepcopy(self._layered.model))
        model.eval()
        return model

    @classmethod
    def restore(cls, folder: Path) -> "AutoBackbone":
        """Rebuild a backbone from what ``save`` wrote, with random weights.

        Raises:
            ValueError: a file is missing, or the model does not run in stages any more.
        """
        import transformers

        for name in ("config.json", "tokenizer.json", ATTENTION):
            if not (folder / name).is_file():
                raise ValueError(f"{name} is missing")
        attention = json.loads((folder / ATTENTION).read_text(encoding="utf-8"))["attention"]
        if attention not in KNOWN_ATTENTION:  # transformers would fetch others, which are code
            raise ValueError(f"{ATTENTION} must name one of {', '.join(KNOWN_ATTENTION)}, got {attention!r:.60}")
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        model = transformers.AutoModel.from_config(config, attn_implementation=attention, trust_remote_code=False)
        return cls(without_pooler(model.float()), Tokenizer.from_file(str(folder / "tokenizer.json")))

    def _embed(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        more = {} if self._separator is None else {"token_type_ids": token_types(token_ids, self._separator)}
        return self._layered.embed(token_ids, mask, **more)


def without_pooler(model: "PreTrainedModel") -> "PreTrainedModel":
    """Take off what is behind the last hidden state."""
    if getattr(model, "pooler", None) is not None:
        model.pooler = nn.Identity()  # some models ask for it
    return model


def token_types(token_ids: Tensor, separator: int) -> Tensor:
    """Return 0 or 1 for each of the token ids (B, T) of texts and pairs: whether it is behind the first separator."""
    ends = (token_ids == separator).long()
    return (ends.cumsum(1) - ends).clamp(max=1)


def some_tokens(tokenizer: Tokenizer, padding: int | None) -> list[int]:
    """Return the ids of up to three tokens that are no padding: words where the tokenizer knows some."""
    found = [one for one in dict.fromkeys(tokenizer.encode("a text of some words").ids) if one != padding]
    return found[1:4] or found


def find_separator(tokenizer: Tokenizer) -> int | None:
    """Return the token behind which a tokenizer sees a second type of tokens; None where it sees one type alone."""
    pair = tokenizer.encode("a", "a")
    return pair.ids[pair.type_ids.index(1) - 1] if 1 in pair.type_ids else None


class AutoConfig(topwork.BackboneConfig):
    """Settings of the backbone ``auto``.

    Attributes:
        model: a name on the Hub, looked up in the local cache first; a folder in the Hub's layout; or, as
            ``package:folder``, such a folder in an installed package.
        revision: a branch, tag or commit on the Hub.
        max_length: tokens per text, special tokens and prefix included; longer texts are truncated and counted.
        prefix: what is put before every text, where a model was trained so: ``"query: "``.
        attention: which of transformers' to take; without it the one that transformers takes.
    """

    kind: Literal["auto"] = "auto"
    model: str
    revision: str = "main"
    max_length: int = Field(default=256, strict=True, ge=3)
    prefix: str = ""
    attention: Literal["eager", "sdpa"] | None = None

    def build(self) -> topwork.Backbone:
        from safetensors import SafetensorError

        place = find_package(self.model) or self.model
        local = is_local(place, self.revision)
        try:
            with topwork.quiet_transformers():
                model, tokenizer = self._load(place, local)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"model {self.model!r} cannot be read: {why_not_read(error)}") from error
        check_vocabulary(self.model, tokenizer, model)
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_length)
        if not tokenizer.encode("").ids:
            raise ValueError(
                f"the tokenizer of model {self.model!r} adds no special token, so that an empty text would have none; "
                "its tokenizer.json needs a post-processor that adds one"
            )
        if self.prefix and len(tokenizer.encode(self.prefix).ids) >= self.max_length:
            raise ValueError(
                f"prefix leaves no room for texts: max_length is {self.max_length} tokens, and it takes as many; "
                "shorten the prefix, or raise max_length"
            )
        backbone = AutoBackbone(model, tokenizer)
        self._check_length(backbone)
        backbone.prefix = self.prefix
        return backbone

    def _load(self, place: str, local: bool) -> "tuple[PreTrainedModel, Tokenizer]":
        import transformers

        options: dict[str, Any] = {"revision": self.revision, "local_files_only": local, "trust_remote_code": False}
        try:
            config = transformers.AutoConfig.from_pretrained(place, **options)
        except ValueError as error:
            if "trust_remote_code" not in str(error):
                raise
            raise ValueError(
                f"model {self.model!r} comes with code of its own, which is never run; take a model of a type that "
                f"transformers {transformers.__version__} has"
            ) from None
        self._check_config(config)
        if self.attention:
            options["attn_implementation"] = self.attention
        loaded = transformers.AutoModel.from_pretrained(place, **options, **LOADING, dtype=torch.float32)
        model, report = cast("tuple[PreTrainedModel, dict[str, Any]]", loaded)
        check_weights(self.model, model, report)
        return without_pooler(model), read_tokenizer(self.model, place, self.revision, local=local)

    def _check_config(self, config: "PretrainedConfig") -> None:
        """Check what a model's configuration says before its weights are read.

        Raises:
            ValueError: it has a decoder too, or fewer positions than are asked for.
        """
        if config.is_encoder_decoder:
            raise ValueError(
                f"model {self.model!r} of type {config.model_type} is an encoder and a decoder; take a model that is "
                "one of them alone"
            )
        positions = getattr(config, "max_position_embeddings", None)
        if isinstance(positions, int) and 0 < positions < self.max_length:
            raise ValueError(f"max_length is {self.max_length}, but model {self.model!r} has {positions} positions")

    @torch.no_grad()
    def _check_length(self, backbone: AutoBackbone) -> None:
        """Check that a text as long as is asked for has positions.

        Raises:
            ValueError: it has not.
        """
        ids = torch.full((1, self.max_length), backbone.tokenizer.encode("a").ids[0])
        try:
            backbone.stages()[0].run(ids, torch.ones_like(ids, dtype=torch.bool))
        except (IndexError, RuntimeError) as error:
            positions = getattr(backbone.config, "max_position_embeddings", "fewer")
            raise ValueError(
                f"max_length is {self.max_length}, but model {self.model!r} has {positions} positions: "
                f"{topwork.first_line(error)}"
            ) from None

    def restore(self, folder: Path) -> topwork.Backbone:
        backbone = AutoBackbone.restore(folder)
        backbone.prefix = self.prefix
        return backbone


def find_package(model: str) -> str | None:
    """Return the folder of a model in an installed package, given as ``package:folder``; None where it is not so given.

    Raises:
        ValueError: the package is not installed.
    """
    package, colon, folder = model.partition(":")
    if not colon or "/" in package or not package.isidentifier():
        return None
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ValueError(f"model {model!r} is in package {package}, which is not installed")
    return str(Path(found.origin).parent / folder)


@topwork.hookimpl
def register_backbones(register: topwork.Register[topwork.BackboneConfig]) -> None:
    register(AutoConfig)
