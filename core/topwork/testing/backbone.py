"""What a backbone must keep to."""

import json
import tempfile
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from topwork.engine.encoding.corpus import tokenize
from topwork.engine.encoding.encoder import encode
from topwork.engine.encoding.sequences import Sequences
from topwork.engine.model.encoder_checks import check_stages
from topwork.engine.model.multitask import MultiTaskModel
from topwork.interfaces.backbone import Backbone, BackboneConfig, Stage
from topwork.testing.plugin import PluginContract, check_gradients_reach, telling
from topwork.testing.tiny import FirstToken


class BackboneContract(PluginContract):
    """A backbone is its stages.

    Attributes:
        config: the backbone under test.
        texts: a shorter and a longer one, neither so long that it is truncated.
    """

    config: ClassVar[BackboneConfig]
    texts: ClassVar[list[str]] = ["a short text", "another text that is longer"]

    def test_every_parameter_belongs_to_exactly_one_stage(self) -> None:
        check_stages(self.config.build())

    def test_stages_have_names_of_their_own(self) -> None:
        names = [stage.name for stage in self.config.build().stages()]
        assert sorted(set(names)) == sorted(names), f"two stages have one name: {', '.join(sorted(names))}"

    def test_layers_are_counted_from_0(self) -> None:
        layers = [stage.layer for stage in self.config.build().stages() if stage.layer is not None]
        told = f"stages must be of layer 0, 1, 2, ... in this order, got {layers}"
        assert layers == sorted(layers), told
        assert set(layers) == set(range(len(set(layers)))), told

    def test_weights_are_float32(self) -> None:
        odd = {name: one.dtype for name, one in self.config.build().named_parameters() if one.dtype != torch.float32}
        assert not odd, f"build must load weights as float32, got {odd}"

    def test_texts_have_the_same_tokens_alone_and_among_others(self) -> None:
        tokenizer = self.config.build().tokenizer
        together = [encoding.ids for encoding in tokenizer.encode_batch(self.texts)]
        alone = [tokenizer.encode(text).ids for text in self.texts]
        assert together == alone, f"the tokenizer gives other tokens among others, {together}, than alone, {alone}"

    def test_hidden_states_are_as_wide_as_it_says(self) -> None:
        backbone = self.config.build().eval()
        ids, mask = self._read(backbone)
        shape, wanted = tuple(backbone(ids, mask).shape), (*ids.shape, backbone.width)
        assert shape == wanted, f"hidden states must be (B, T, D), {wanted}, got {shape}"

    def test_the_forward_pass_is_the_fold_of_its_stages(self) -> None:
        backbone = self.config.build().eval()
        ids, mask = self._read(backbone)
        same = torch.equal(backbone(ids, mask), Backbone.forward(backbone, ids, mask))
        assert same, "forward must be the fold of the stages; leave it as Backbone has it"

    def test_eval_mode_is_deterministic(self) -> None:
        backbone = self.config.build().eval()
        ids, mask = self._read(backbone)
        assert torch.equal(backbone(ids, mask), backbone(ids, mask)), "in eval mode it must give the same bits twice"

    def test_gradients_reach_all_parameters(self) -> None:
        backbone = self.config.build()
        check_gradients_reach(backbone, backbone(*self._read(backbone)))

    def test_the_forward_pass_is_that_of_the_original(self) -> None:
        backbone = self.config.build().eval()
        try:
            original = backbone.to_transformers()
        except NotImplementedError:
            return
        ids, mask = self._read(backbone)
        with torch.no_grad():
            expected = original(input_ids=ids, attention_mask=mask.long()).last_hidden_state[mask]
            torch.testing.assert_close(backbone(ids, mask)[mask], expected, atol=1e-5, rtol=1e-5)

    def test_gradients_right_of_each_cut_are_those_of_the_whole_backbone(self) -> None:
        backbone = self.config.build().eval()
        ids, mask = self._read(backbone)
        Backbone.forward(backbone, ids, mask)[mask].square().sum().backward()
        whole = {id(parameter): parameter.grad for parameter in backbone.parameters()}
        stages, hidden = backbone.stages(), ids
        for number, stage in enumerate(stages[:-1], 1):
            with torch.no_grad():
                hidden = stage.run(hidden, mask)
            backbone.zero_grad()
            after, same = hidden, mask.clone()  # as activations are, which come without what made them
            for later in stages[number:]:
                after = later.run(after, same)
            after[mask].square().sum().backward()
            for parameter in (p for later in stages[number:] for module in later.modules for p in module.parameters()):
                torch.testing.assert_close(
                    parameter.grad,
                    whole[id(parameter)],
                    atol=1e-4,
                    rtol=1e-4,
                    msg=telling(f"gradients must be those of the whole; cut before {stages[number].name}"),
                )

    def test_padding_changes_next_to_nothing(self) -> None:
        backbone = self.config.build().eval()
        ids, mask = self._read(backbone)
        short = int(mask[0].sum())
        alone = backbone(ids[:1, :short], mask[:1, :short])
        torch.testing.assert_close(backbone(ids, mask)[:1, :short], alone, atol=1e-4, rtol=1e-4)

    @torch.no_grad()
    def test_stages_mix_tokens_only_where_they_say_so(self) -> None:
        backbone = self.config.build().eval()
        ids, mask = self._read(backbone)
        hidden, mask = ids[1:], mask[1:]
        for number, stage in enumerate(backbone.stages()):
            # The first stage sees positions, and need not say so.
            mixes = _lets_tokens_see_others(stage, hidden, mask) or (
                number > 0 and _sees_positions(stage, hidden, mask)
            )
            told = f"stage {stage.name} says mixes_tokens={stage.mixes_tokens}, but a token's output depends"
            assert mixes == stage.mixes_tokens, f"{told} on {'others' if mixes else 'itself alone'}"
            hidden = stage.run(hidden, mask)

    @torch.no_grad()
    def test_the_first_token_alone_is_what_it_is_among_the_others(self) -> None:
        backbone = self.config.build().eval()
        ids, mask = self._read(backbone)
        hidden = ids
        for number, stage in enumerate(backbone.stages()):
            after = stage.run(hidden, mask)
            told = telling(f"the first token must be the same alone, and in stage {stage.name} it is another")
            if stage.run_first_token is not None:
                alone = stage.run_first_token(hidden, mask)
                torch.testing.assert_close(alone, after[:, :1], atol=1e-4, rtol=1e-4, msg=told)
            elif number > 0 and not stage.mixes_tokens:
                alone = stage.run(hidden[:, :1], mask[:, :1])
                torch.testing.assert_close(alone, after[:, :1], atol=1e-4, rtol=1e-4, msg=told)
            hidden = after

    @torch.no_grad()
    def test_a_text_gives_the_same_bits_whatever_it_is_encoded_with(self) -> None:
        backbone = self.config.build()
        last = {id(p) for module in backbone.stages()[-1].modules for p in module.parameters()}
        unfrozen = [f"backbone.{name}" for name, p in backbone.named_parameters() if id(p) in last]
        sequences = Sequences.of_texts(tokenize(backbone.tokenizer, self.texts * 40).token_ids)
        for first_only, trains in ((True, []), (False, []), (True, unfrozen), (False, unfrozen)):
            model = MultiTaskModel(backbone, FirstToken(backbone.width, reads_first_token_only=first_only), {})
            model.set_trainable(trains)
            together = encode(model.prefix, sequences, device=torch.device("cpu"))
            for number in range(len(self.texts)):
                alone = encode(model.prefix, sequences.take(torch.tensor([number])), device=torch.device("cpu"))
                same = torch.equal(alone.values, together.take(torch.tensor([number])).values)
                assert same, f"{self.texts[number]!r} gets other bits alone than among others; see topwork.rowwise"

    def test_its_architecture_is_written_as_json(self) -> None:
        architecture = dict(self.config.build().architecture())
        read = json.loads(json.dumps(architecture))
        assert read == architecture, f"architecture must be names with texts and numbers, got {architecture}"

    def test_it_is_restored_without_its_original_weights(self) -> None:
        backbone = self.config.build().eval()
        with tempfile.TemporaryDirectory() as folder:
            backbone.save(Path(folder))
            restored = self.config.restore(Path(folder)).eval()
        restored.load_state_dict(backbone.state_dict())
        ids, mask = self._read(backbone)
        same = torch.equal(restored(ids, mask), backbone(ids, mask))
        assert same, "restore must give what save wrote: with the same weights hidden states differ"
        both = dict(restored.architecture()), dict(backbone.architecture())
        assert both[0] == both[1], f"restore must give what save wrote: its architecture is {both[0]}, not {both[1]}"
        for text in (*self.texts, "a text that is too long " * 1000):
            tokens = [one.tokenizer.encode(text).ids for one in (restored, backbone)]
            assert tokens[0] == tokens[1], f"restore must give the same tokenizer; {text[:40]!r} has other tokens"

    def _read(self, backbone: Backbone) -> tuple[Tensor, Tensor]:
        """Token ids (B, T) and mask (B, T) of the texts, the shorter first and padded with its last token."""
        encoded = sorted((backbone.tokenizer.encode(text).ids for text in self.texts), key=len)
        longest = len(encoded[-1])
        assert len(encoded[0]) < longest, "set `texts` to a shorter and a longer one"
        ids = torch.tensor([sequence + sequence[-1:] * (longest - len(sequence)) for sequence in encoded])
        mask = torch.tensor([[position < len(sequence) for position in range(longest)] for sequence in encoded])
        return ids, mask


def _lets_tokens_see_others(stage: Stage, hidden: Tensor, mask: Tensor) -> bool:
    """Whether another first, middle or last token changes the result of the others."""
    length = hidden.shape[1]
    before = stage.run(hidden, mask)
    for position in (0, length // 2, length - 1):
        changed = hidden.clone()
        changed[:, position] = hidden[:, 0 if position else -1]
        others = torch.arange(length) != position
        if _differ(stage.run(changed, mask)[:, others], before[:, others]):
            return True
    return False


def _sees_positions(stage: Stage, hidden: Tensor, mask: Tensor) -> bool:
    """Whether tokens in another order have other results."""
    order = torch.arange(hidden.shape[1]).roll(1)
    return _differ(stage.run(hidden[:, order], mask[:, order]), stage.run(hidden, mask)[:, order])


def _differ(some: Tensor, others: Tensor) -> bool:
    return bool((some - others).abs().max() > 1e-5 * max(1.0, float(others.abs().max())))
