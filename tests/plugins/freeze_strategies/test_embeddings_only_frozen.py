"""Everything behind the embeddings trains."""

from topwork.testing import tiny_model
from topwork_plugins.freeze_strategies.embeddings_only_frozen import EmbeddingsOnlyFrozenConfig


def test_all_but_the_embeddings_trains() -> None:
    model = tiny_model()
    names = {f"backbone.{name}" for name, _ in model.backbone.named_parameters()}
    frozen = names - set(EmbeddingsOnlyFrozenConfig().trainable(model, 1))
    assert frozen == {"backbone.embeddings.weight", "backbone.positions.weight"}


def test_what_the_embeddings_give_is_computed_once() -> None:
    model = tiny_model()
    model.set_trainable(EmbeddingsOnlyFrozenConfig().trainable(model, 1))
    assert (model.cut.stage, model.cut.keeps) == (1, "tokens")
