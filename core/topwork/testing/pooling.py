"""What a pooling must keep to."""

from typing import ClassVar

import torch
from torch import Tensor

from topwork.engine.model.encoder_checks import check_pooling, pool_of_layers
from topwork.interfaces.pooling import PoolingConfig
from topwork.testing.plugin import (
    WIDTH,
    PluginContract,
    check_gradients_reach,
    check_initial_weights,
    check_restored_module,
    gradient_of,
    telling,
)


class PoolingContract(PluginContract):
    """A pooling gives one vector per text, looks at no padding, and lets the backbone learn."""

    config: ClassVar[PoolingConfig]

    def test_the_result_is_as_wide_as_it_says(self) -> None:
        check_pooling(self.config.build(WIDTH), WIDTH)

    def test_padding_changes_nothing(self) -> None:
        pooling = self.config.build(WIDTH).eval()
        hidden, mask = self._texts()
        empty = hidden.masked_fill(~mask[:, :, None], 0.0)
        # numbers, since the core pads with no NaN, and 0 x NaN would be NaN in a sum that leaves padding out
        junk = torch.where(mask[:, :, None], hidden, 100 * torch.randn_like(hidden))
        longer = torch.cat([junk, 100 * torch.randn(2, 3, WIDTH)], dim=1)
        pooled = pool_of_layers(pooling, empty, mask)
        told = telling("what stands under the mask must change nothing")
        torch.testing.assert_close(pool_of_layers(pooling, junk, mask), pooled, msg=told)
        padded = torch.nn.functional.pad(mask, (0, 3))
        torch.testing.assert_close(pool_of_layers(pooling, longer, padded), pooled, msg=told)

    def test_a_text_is_pooled_alike_alone_and_among_others(self) -> None:
        pooling = self.config.build(WIDTH).eval()
        hidden, mask = self._texts()
        together = pool_of_layers(pooling, hidden.masked_fill(~mask[:, :, None], 0.0), mask)
        told = telling("a text must be pooled as it is alone")
        for number, length in enumerate(mask.sum(dim=1).tolist()):
            alone = pool_of_layers(pooling, hidden[number : number + 1, :length], mask[number : number + 1, :length])
            torch.testing.assert_close(alone, together[number : number + 1], msg=told)

    def test_reading_the_first_token_only_means_just_that(self) -> None:
        pooling = self.config.build(WIDTH).eval()
        hidden, mask = torch.randn(2, 5, WIDTH), torch.ones(2, 5, dtype=torch.bool)
        same = torch.equal(pooling(hidden, mask), pooling(hidden[:, :1], mask[:, :1]))
        told = f"reads_first_token_only is {pooling.reads_first_token_only}, but other tokens"
        assert same == pooling.reads_first_token_only, f"{told} {'change nothing' if same else 'change the result'}"

    def test_gradients_reach_every_hidden_state_that_it_reads(self) -> None:
        pooling = self.config.build(WIDTH)
        hidden, mask = self._texts()
        hidden.requires_grad_()
        reached = gradient_of(pool_of_layers(pooling.train(), hidden.clone(), mask), hidden).any(dim=2)
        pooled = pool_of_layers(pooling.eval(), hidden.clone(), mask)
        reached &= gradient_of(pooled, hidden).any(dim=2)
        for number, position in mask.nonzero().tolist():
            changed = hidden.detach().clone()
            changed[number, position] += 1e-3 * torch.randn(WIDTH)
            read = not torch.equal(pool_of_layers(pooling, changed, mask), pooled)
            assert reached[number, position] or not read, f"no gradient reaches token {position} of text {number}"

    def test_gradients_reach_all_parameters(self) -> None:
        pooling = self.config.build(WIDTH)
        hidden, mask = self._texts()
        hidden.requires_grad_()
        if pooling.layers:  # that differ, since the weights of equal ones get no gradient
            check_gradients_reach(pooling, pooling.combine(torch.randn(2, len(pooling.layers), WIDTH)))
        else:
            check_gradients_reach(pooling, pooling(hidden, mask))

    def test_the_same_seed_gives_the_same_initial_weights(self) -> None:
        check_initial_weights(lambda: self.config.build(WIDTH))

    def test_it_is_restored_from_its_parameters_and_buffers(self) -> None:
        hidden, mask = self._texts()
        check_restored_module(lambda: self.config.build(WIDTH), lambda pooling: pool_of_layers(pooling, hidden, mask))

    def _texts(self) -> tuple[Tensor, Tensor]:
        """Hidden states (2, 5, D) of a text of two tokens and one of five, and their mask (2, 5)."""
        return torch.randn(2, 5, WIDTH), torch.arange(5) < torch.tensor([[2], [5]])
