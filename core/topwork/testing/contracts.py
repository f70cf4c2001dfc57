"""What every plugin of an interface must keep to."""

import json
import tempfile
from pathlib import Path
from typing import ClassVar

import torch

from topwork.engine.checks import check_head, check_pooling, check_stages
from topwork.engine.encoding import encode, tokenize
from topwork.engine.model import MultiTaskModel
from topwork.engine.plan import check_partition
from topwork.interfaces.backbone import Backbone, BackboneConfig
from topwork.interfaces.freeze_strategy import FreezeStrategyConfig
from topwork.interfaces.head import Classes, HeadConfig
from topwork.interfaces.optimizer_grouping import OptimizerGroupingConfig
from topwork.interfaces.plugin import PluginConfig
from topwork.interfaces.pooling import PoolingConfig
from topwork.registry import discover
from topwork.testing.tiny import FirstToken, tiny_model

WIDTH = 12


class PluginContract:
    """Holds for plugins of every interface."""

    config: ClassVar[PluginConfig]

    def test_is_registered_under_its_kind(self) -> None:
        registered = {plugin.kind: plugin.config for plugin in discover().plugins()}
        assert registered.get(self.config.kind) is type(self.config)

    def test_settings_survive_a_round_trip_through_json(self) -> None:
        assert type(self.config).model_validate_json(self.config.model_dump_json()) == self.config


class HeadContract(PluginContract):
    """A head learns, decodes, and measures.

    Attributes:
        config: the head under test.
        labels: classes that suit it.
    """

    config: ClassVar[HeadConfig]
    labels: ClassVar[Classes] = Classes(("no", "yes"))

    def test_outputs_loss_decoding_and_metric_names_are_as_the_interface_says(self) -> None:
        check_head(self.config.build(WIDTH, self.labels), WIDTH, self.labels)

    def test_the_loss_is_one_finite_number_for_any_batch_size(self) -> None:
        head = self.config.build(WIDTH, self.labels)
        for rows in (1, 2, 7):
            loss = head.loss(head.module(torch.randn(rows, WIDTH)), self._targets(rows))
            assert loss.shape == ()
            assert loss.isfinite()

    def test_the_loss_is_the_mean_over_the_batch(self) -> None:
        head = self.config.build(WIDTH, self.labels)
        head.module.eval()
        outputs, targets = head.module(torch.randn(6, WIDTH)), self._targets(6)
        each = torch.stack([head.loss(outputs[i : i + 1], targets[i : i + 1]) for i in range(6)])
        torch.testing.assert_close(head.loss(outputs, targets), each.mean())

    def test_gradients_reach_all_parameters(self) -> None:
        head = self.config.build(WIDTH, self.labels)
        head.loss(head.module(torch.randn(32, WIDTH)), self._targets(32)).backward()
        without = [name for name, parameter in head.module.named_parameters() if parameter.grad is None]
        assert not without

    def test_a_few_steps_lower_the_loss(self) -> None:
        head = self.config.build(WIDTH, self.labels)
        targets = self._targets(64)
        vectors = torch.randn(len(self.labels.names), WIDTH)[targets]
        optimizer = torch.optim.AdamW(head.module.parameters(), lr=1e-2)
        losses = []
        for _ in range(60):
            loss = head.loss(head.module(vectors), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0] / 2

    def test_decoding_gives_known_labels_and_probabilities(self) -> None:
        head = self.config.build(WIDTH, self.labels)
        head.module.eval()
        decoded = head.decode(head.module(torch.randn(9, WIDTH)).detach())
        assert len(decoded.labels) == 9
        assert set(decoded.labels) <= set(self.labels.names)
        assert decoded.probabilities.shape == (9, len(self.labels.names))
        torch.testing.assert_close(decoded.probabilities.sum(dim=1), torch.ones(9))
        likeliest = [self.labels.names[number] for number in decoded.probabilities.argmax(dim=1)]
        assert decoded.labels == likeliest

    def test_metrics_give_one_number_or_one_for_each_text(self) -> None:
        head = self.config.build(WIDTH, self.labels)
        head.module.eval()
        outputs, targets = head.module(torch.randn(9, WIDTH)).detach(), self._targets(9)
        names = [metric.name for metric in head.metrics]
        assert len(set(names)) == len(names)
        for metric in head.metrics:
            scores = metric.of(outputs, targets)
            assert scores.shape in ((), (9,))
            assert scores.mean().isfinite()

    def test_the_same_seed_gives_the_same_initial_weights(self) -> None:
        states = []
        for _ in range(2):
            torch.manual_seed(3)
            states.append(self.config.build(WIDTH, self.labels).module.state_dict())
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

    def _targets(self, rows: int) -> torch.Tensor:
        return torch.arange(rows) % len(self.labels.names)


class PoolingContract(PluginContract):
    """A pooling gives one vector per text and does not look at padding."""

    config: ClassVar[PoolingConfig]

    def test_the_result_is_as_wide_as_it_says(self) -> None:
        check_pooling(self.config.build(WIDTH), WIDTH)

    def test_padding_changes_nothing(self) -> None:
        pooling = self.config.build(WIDTH).eval()
        hidden = torch.randn(2, 5, WIDTH)
        mask = torch.ones(2, 5, dtype=torch.bool)
        junk = torch.full((2, 3, WIDTH), float("nan"))
        padded = pooling(torch.cat([hidden, junk], dim=1), torch.cat([mask, ~mask[:, :3]], dim=1))
        torch.testing.assert_close(padded, pooling(hidden, mask))

    def test_reading_the_first_token_only_means_just_that(self) -> None:
        pooling = self.config.build(WIDTH).eval()
        hidden, mask = torch.randn(2, 5, WIDTH), torch.ones(2, 5, dtype=torch.bool)
        same = torch.equal(pooling(hidden, mask), pooling(hidden[:, :1], mask[:, :1]))
        assert same == pooling.reads_first_token_only


class BackboneContract(PluginContract):
    """A backbone is its stages."""

    config: ClassVar[BackboneConfig]
    texts: ClassVar[list[str]] = ["a short text", "another text that is somewhat longer than the first"]

    def test_every_parameter_belongs_to_exactly_one_stage(self) -> None:
        check_stages(self.config.build(), self.config.kind)

    def test_hidden_states_are_as_wide_as_it_says(self) -> None:
        backbone = self.config.build().eval()
        ids, mask = self._read(backbone)
        assert backbone(ids, mask).shape == (*ids.shape, backbone.width)

    def test_eval_mode_is_deterministic(self) -> None:
        backbone = self.config.build().eval()
        ids, mask = self._read(backbone)
        assert torch.equal(backbone(ids, mask), backbone(ids, mask))

    def test_padding_changes_next_to_nothing(self) -> None:
        backbone = self.config.build().eval()
        ids, mask = self._read(backbone)
        short = int(mask[0].sum())
        alone = backbone(ids[:1, :short], mask[:1, :short])
        torch.testing.assert_close(backbone(ids, mask)[:1, :short], alone, atol=1e-4, rtol=1e-4)

    def test_stages_mix_tokens_only_where_they_say_so(self) -> None:
        backbone = self.config.build().eval()
        ids, mask = self._read(backbone)
        hidden, mask = ids[1:], mask[1:]
        for stage in backbone.stages():
            changed = hidden.clone()
            changed[:, -1] = hidden[:, 0]
            difference = stage.run(changed, mask)[:, :-1] - stage.run(hidden, mask)[:, :-1]
            assert bool(difference.abs().max() > 1e-5) == stage.mixes_tokens, stage.name
            hidden = stage.run(hidden, mask)

    def test_the_first_token_alone_is_what_it_is_among_the_others(self) -> None:
        backbone = self.config.build().eval()
        ids, mask = self._read(backbone)
        hidden = ids
        for stage in backbone.stages():
            after = stage.run(hidden, mask)
            if stage.run_first_token is not None:
                alone = stage.run_first_token(hidden, mask)
                torch.testing.assert_close(alone, after[:, :1], atol=1e-4, rtol=1e-4)
            hidden = after

    @torch.no_grad()
    def test_a_text_gives_the_same_bits_whatever_it_is_encoded_with(self) -> None:
        backbone = self.config.build()
        last = {id(p) for module in backbone.stages()[-1].modules for p in module.parameters()}
        thawed = [f"backbone.{name}" for name, p in backbone.named_parameters() if id(p) in last]
        token_ids, _ = tokenize(backbone.tokenizer, self.texts * 40)
        for first_only, trains in ((True, []), (False, []), (True, thawed), (False, thawed)):
            model = MultiTaskModel(backbone, FirstToken(backbone.width, reads_first_token_only=first_only), {})
            model.train_only(trains)
            together = encode(model, token_ids, device=torch.device("cpu"))
            for number in range(len(self.texts)):
                alone = encode(model, token_ids.take(torch.tensor([number])), device=torch.device("cpu"))
                assert torch.equal(alone.values, together.take(torch.tensor([number])).values)

    def test_its_architecture_is_written_as_json(self) -> None:
        architecture = dict(self.config.build().architecture())
        assert json.loads(json.dumps(architecture)) == architecture

    def test_it_is_restored_without_its_original_weights(self) -> None:
        backbone = self.config.build().eval()
        with tempfile.TemporaryDirectory() as folder:
            backbone.save(Path(folder))
            restored = self.config.restore(Path(folder)).eval()
        restored.load_state_dict(backbone.state_dict())
        ids, mask = self._read(backbone)
        assert torch.equal(restored(ids, mask), backbone(ids, mask))
        assert torch.equal(self._read(restored)[0], ids)

    def _read(self, backbone: Backbone) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids (B, T) and mask (B, T) of the texts, the shorter first and padded with its last token."""
        encoded = sorted((backbone.tokenizer.encode(text).ids for text in self.texts), key=len)
        longest = len(encoded[-1])
        ids = torch.tensor([sequence + sequence[-1:] * (longest - len(sequence)) for sequence in encoded])
        mask = torch.tensor([[position < len(sequence) for position in range(longest)] for sequence in encoded])
        return ids, mask


class FreezeStrategyContract(PluginContract):
    """A freeze strategy names parameters and touches none.

    Attributes:
        config: a strategy that fits ``tiny_model()``, whose layers are ``layer.0`` and ``layer.1``.
    """

    config: ClassVar[FreezeStrategyConfig]

    def test_it_names_parameters_of_the_backbone(self) -> None:
        model = tiny_model()
        names = {f"backbone.{name}" for name, _ in model.backbone.named_parameters()}
        assert set(self.config.trainable(model, 1)) <= names

    def test_asking_twice_gives_the_same(self) -> None:
        model = tiny_model()
        first = set(self.config.trainable(model, 1))
        model.train_only(first)
        assert set(self.config.trainable(model, 1)) == first

    def test_it_touches_nothing(self) -> None:
        model = tiny_model()
        before = _trainable(model)
        self.config.trainable(model, 1)
        assert _trainable(model) == before


class OptimizerGroupingContract(PluginContract):
    """A grouping divides what trains, whatever that is."""

    config: ClassVar[OptimizerGroupingConfig]

    def test_every_trainable_parameter_is_in_exactly_one_group(self) -> None:
        model = tiny_model()
        everything = [f"backbone.{name}" for name, _ in model.backbone.named_parameters()]
        for names in ([], [name for name in everything if ".layer.1." in name], everything):
            model.train_only(names)
            groups = [group for group in self.config.groups(model) if group.parameters]
            check_partition(model, groups, kind=self.config.kind)

    def test_rates_and_decays_are_not_negative(self) -> None:
        for group in self.config.groups(tiny_model()):
            assert group.learning_rate >= 0
            assert group.weight_decay >= 0

    def test_it_touches_nothing(self) -> None:
        model = tiny_model()
        before = _trainable(model)
        self.config.groups(model)
        assert _trainable(model) == before


def _trainable(model: MultiTaskModel) -> list[bool]:
    return [parameter.requires_grad for parameter in model.parameters()]
