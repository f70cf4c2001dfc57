"""Comes in: a trained model. Goes out: folders that other software reads, ONNX or transformers', checked against it."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from topwork.engine.model.encoder_checks import sample
from topwork.engine.trained_model import TrainedModel
from topwork.errors import ConfigurationError, PluginError, first_line
from topwork.files import new_folder
from topwork.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: How far what is exported may be from what the model gives, over the largest of its numbers where that is above 1.
TOLERANCE = 1e-5

#: What tokenizers call the tokens that transformers asks for.
_SPECIAL_TOKENS = {
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "unk_token": ("[UNK]", "<unk>"),
    "mask_token": ("[MASK]", "<mask>"),
}


class Graph(nn.Module):
    """An encoder with pooling and heads, as one function of token ids: (B, T) with their mask.

    It gives the pooled vectors (B, W), and of each task the outputs (B, C). A head that reads words gives outputs of
    every token, (B, T, C); those of a word are at its first. A head that reads two texts apart takes a second one.

    Attributes:
        inputs: the names of the inputs, in their order.
        outputs: the names of the outputs, in their order.
    """

    def __init__(self, trained: TrainedModel, encoder: "PreTrainedModel") -> None:
        super().__init__()
        self.encoder, self.pooling, self.heads = encoder, trained.model.pooling, trained.model.heads
        self.reads = trained.model.reads
        layers = {stage.layer for stage in trained.model.backbone.stages()} - {None}
        #: Of the layers that the pooling reads, the places among the hidden states of transformers: embeddings first.
        self.places = [
            0 if layer == "embeddings" else layer % len(layers) + 1 for layer in trained.model.pooling.layers
        ]
        self.last = len(layers)
        names = ["input_ids", "attention_mask"]
        names += ["token_type_ids"] if _has_token_types(encoder) else []
        self.of_each = len(names)
        apart = "two pooled" in self.reads.values()
        self.inputs = [*names, *([f"second_{name}" for name in names] if apart else [])]
        self.outputs = ["pooled", *(f"heads.{task}" for task in self.heads)]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs from the inputs."""
        hidden, mask, pooled = self._encode(*inputs[: self.of_each])
        outputs = [pooled]
        for task, head in self.heads.items():
            if self.reads[task] == "words":
                outputs.append(head(hidden, mask))
            elif self.reads[task] == "two pooled":
                *_, second = self._encode(*inputs[self.of_each :])
                outputs.append(head(torch.stack([pooled, second], dim=1)))
            else:
                outputs.append(head(pooled))
        return tuple(outputs)

    def _encode(self, token_ids: Tensor, mask: Tensor, *token_types: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the hidden states (B, T, D), their mask, and the pooled vectors (B, W)."""
        more = {"token_type_ids": token_types[0]} if token_types else {}
        found = self.encoder(input_ids=token_ids, attention_mask=mask, output_hidden_states=bool(self.places), **more)
        hidden, real = found.last_hidden_state, mask.bool()
        if not self.places:
            return hidden, real, self.pooling(hidden, real)
        of_layers = [hidden if place == self.last else found.hidden_states[place] for place in self.places]
        pooled = [self.pooling(states, real) for states in of_layers]
        return hidden, real, self.pooling.combine(torch.stack(pooled, dim=1))


def export_transformers(trained: TrainedModel, folder: Path) -> float:
    """Write the encoder as a folder that ``AutoModel.from_pretrained`` reads, with its tokenizer.

    ``topwork.json`` says what of the model transformers knows nothing of: the prefix, the pooling, the window.

    Returns:
        The largest difference of a hidden state from the model's own.

    Raises:
        ConfigurationError: the backbone is no model of transformers.
        PluginError: what was written gives other hidden states or other tokens.
        StorageError: the folder exists already, or cannot be written.
    """
    with _on_cpu(trained), quiet_transformers(), new_folder(folder) as temporary:
        encoder = _encoder_of(trained)
        vars(encoder.config).pop("auto_map", None)  # it names code that came with the original, and is not exported
        encoder.save_pretrained(temporary)
        _save_tokenizer(trained.model.backbone.tokenizer, encoder, temporary)
        described = {name: trained.experiment.get(name) for name in ("pooling", "window")}
        described["mixed_stages"] = trained.model.mixed_stages
        _describe({"prefix": trained.model.backbone.prefix, **described}, temporary)
        return _check_folder(trained, temporary)


def export_onnx(trained: TrainedModel, folder: Path) -> float:
    """Write one ONNX graph of the encoder, the pooling and all heads, with the tokenizer and the names of the labels.

    Returns:
        The largest difference of an output from the model's own.

    Raises:
        ConfigurationError: the backbone is no model of transformers, texts are divided into windows, the frozen part
            runs in bfloat16, or a package is not installed.
        PluginError: a part cannot be exported, or onnxruntime gives something else.
        StorageError: the folder exists already, or cannot be written.
    """
    if trained.experiment.get("window"):
        raise ConfigurationError(
            "the model averages over windows of a text, and a graph reads one; train it without window, or export its "
            "encoder alone: --format transformers"
        )
    if trained.model.mixed_stages:
        raise ConfigurationError(
            "the frozen part runs in bfloat16, and a graph would give other numbers in float32; train it without "
            "backbone.precision, or export its encoder alone: --format transformers"
        )
    backbone, model = trained.model.backbone, trained.model
    with _on_cpu(trained), new_folder(folder) as temporary:
        graph = Graph(trained, _encoder_of(trained)).eval()
        _trace(graph, _inputs_of(graph, *sample(backbone.tokenizer))).save(temporary / "model.onnx")
        backbone.tokenizer.save(str(temporary / "tokenizer.json"))
        described = {
            "inputs": graph.inputs,
            "outputs": graph.outputs,
            "prefix": backbone.prefix,
            "labels": {task: list(space.names) for task, space in trained.labels.items()},
            "heads": {task: {"kind": _kind_of(trained, task), "reads": model.reads[task]} for task in trained.labels},
        }
        _describe(described, temporary)
        return _check_graph(trained, graph, temporary / "model.onnx")


@contextmanager
def _on_cpu(trained: TrainedModel) -> Iterator[None]:
    """Have a model on the CPU within the block."""
    device = trained.device
    trained.model.cpu()
    try:
        yield
    finally:
        trained.model.to(device)


def _kind_of(trained: TrainedModel, task: str) -> str | None:
    kind: str | None = trained.experiment["tasks"].get(task, {}).get("head", {}).get("kind")
    return kind


def _describe(what: Mapping[str, object], folder: Path) -> None:
    """Write ``topwork.json``."""
    written = json.dumps(what, indent=2, ensure_ascii=False) + "\n"
    (folder / "topwork.json").write_text(written, encoding="utf-8")


def _encoder_of(trained: TrainedModel) -> "PreTrainedModel":
    try:
        return trained.model.backbone.to_transformers()
    except NotImplementedError:
        kind = trained.experiment["backbone"]["kind"]
        raise ConfigurationError(
            f"backbone {kind!r} is no model of transformers, which is what can be exported; "
            "a plugin that is one implements Backbone.to_transformers"
        ) from None


def _save_tokenizer(tokenizer: Tokenizer, encoder: "PreTrainedModel", folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    known = tokenizer.get_vocab()
    special = {role: next((name for name in names if name in known), None) for role, names in _SPECIAL_TOKENS.items()}
    padding = getattr(encoder.config, "pad_token_id", None)
    special["pad_token"] = None if padding is None else tokenizer.id_to_token(padding)
    length = (tokenizer.truncation or {}).get("max_length")
    given = {role: token for role, token in special.items() if token is not None}
    copy = Tokenizer.from_str(tokenizer.to_str())
    types = ["token_type_ids"] if _has_token_types(encoder) else []
    names = ["input_ids", *types, "attention_mask"]
    PreTrainedTokenizerFast(
        tokenizer_object=copy, model_max_length=length, model_input_names=names, **given
    ).save_pretrained(folder)


def _has_token_types(encoder: "PreTrainedModel") -> bool:
    """Whether an encoder tells the texts of a pair apart."""
    return (getattr(encoder.config, "type_vocab_size", 0) or 0) > 1


@torch.no_grad()
def _check_folder(trained: TrainedModel, folder: Path) -> float:
    """Read a folder as a user of transformers would, and compare.

    Raises:
        PluginError: it gives something else.
    """
    from transformers import AutoModel, AutoTokenizer

    backbone = trained.model.backbone
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        encoder = AutoModel.from_pretrained(folder, local_files_only=True, trust_remote_code=False).eval()
    except Exception as error:  # transformers raises what it likes
        raise PluginError(f"transformers does not read what was exported: {first_line(error)}") from error
    worst = 0.0
    for texts in (("A text, and another one.",), ("A text.", "Another one, longer.")):
        read = tokenizer(*texts, return_tensors="pt")
        ids = torch.tensor([backbone.tokenizer.encode(*texts).ids])
        if not torch.equal(read["input_ids"], ids):
            raise PluginError(f"the exported tokenizer makes other tokens of {' and '.join(map(repr, texts))}")
        own = backbone(ids, torch.ones_like(ids, dtype=torch.bool))
        worst = max(worst, _difference("hidden states", encoder(**read).last_hidden_state, own))
    return worst


def _inputs_of(graph: Graph, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return what a graph takes, by name; where it reads two texts apart, the second is that of the next row."""
    one = {"input_ids": ids, "attention_mask": mask.long(), "token_type_ids": torch.zeros_like(ids)}
    every = one | {f"second_{name}": value.roll(1, dims=0) for name, value in one.items()}
    return {name: every[name] for name in graph.inputs}


@contextmanager
def _quiet_torch() -> Iterator[None]:
    """Pass over what torch says of its own insides, and of packages that are not needed."""
    teller = logging.getLogger("torch.onnx")
    level = teller.level
    teller.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        teller.setLevel(level)


def _trace(graph: Graph, inputs: dict[str, Tensor]) -> Any:
    """Return the ONNX program of a graph, for any number of texts of any length."""
    try:
        import onnxruntime  # noqa: F401  # it checks what torch's exporter gives, which needs onnxscript
        import onnxscript  # noqa: F401
    except ImportError:
        raise ConfigurationError("exporting to ONNX needs further packages: pip install 'topwork[onnx]'") from None
    texts, length, second = (torch.export.Dim(name) for name in ("texts", "length", "second_length"))
    shapes = tuple({0: texts, 1: second if name.startswith("second_") else length} for name in graph.inputs)
    with _quiet_torch(), torch.no_grad():
        try:
            return torch.onnx.export(
                graph,
                tuple(inputs.values()),
                dynamo=True,
                dynamic_shapes=(shapes,),
                input_names=graph.inputs,
                output_names=graph.outputs,
                verbose=False,
            )
        except Exception as error:  # a part may fail in any way when it is traced
            raise PluginError(f"the model cannot be exported to ONNX: {first_line(error)}") from error


@torch.no_grad()
def _check_graph(trained: TrainedModel, graph: Graph, file: Path) -> float:
    """Run an ONNX file on one text, and on several of different lengths, and compare with the model.

    Raises:
        PluginError: it gives something else, or does not run.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    ids, mask = sample(trained.model.backbone.tokenizer)
    worst = 0.0
    for texts in (len(ids), 1):
        length = int(mask[:texts].sum(dim=1).max())
        inputs = _inputs_of(graph, ids[:texts, :length], mask[:texts, :length])
        try:
            found = session.run(graph.outputs, {name: value.numpy() for name, value in inputs.items()})
        except Exception as error:  # those of onnxruntime have no class in common
            raise PluginError(f"onnxruntime does not run what was exported: {first_line(error)}") from error
        wanted = _own_outputs(trained, graph, inputs)
        for name, one in zip(graph.outputs, map(torch.from_numpy, found), strict=True):
            real = inputs["attention_mask"].bool() if one.ndim == 3 else slice(None)  # not those of padding
            worst = max(worst, _difference(f"output {name}", one[real], wanted[name][real]))
    return worst


def _own_outputs(trained: TrainedModel, graph: Graph, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what the model itself gives for what a graph takes, by the names of the graph's outputs."""
    model = trained.model
    hidden, pooled = {}, {}
    for of_text in ("", *(["second_"] if "second_input_ids" in inputs else [])):
        ids, mask = inputs[f"{of_text}input_ids"], inputs[f"{of_text}attention_mask"].bool()
        hidden[of_text] = model.backbone(ids, mask)
        pooled[of_text] = model.pool(model.run_prefix(ids, mask), model.cut.mask(mask))
    given = {"pooled": (pooled[""],), "words": (hidden[""], inputs["attention_mask"].bool())}
    if "second_" in pooled:
        given["two pooled"] = (torch.stack(list(pooled.values()), dim=1),)
    of_tasks = {f"heads.{task}": model.heads[task](*given[reads]) for task, reads in model.reads.items()}
    return {"pooled": pooled[""], **of_tasks}


def _difference(what: str, found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference of two tensors, over the largest of the wanted numbers where that is above 1.

    Raises:
        PluginError: it is above ``TOLERANCE``.
    """
    largest = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1))
    if not largest <= TOLERANCE:
        raise PluginError(f"what is exported gives other {what}: they differ by {largest:.2g}, more than {TOLERANCE:g}")
    return largest
