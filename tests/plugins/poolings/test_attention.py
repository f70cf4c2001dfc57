"""A mean whose weights are learnt."""

import torch

from topwork_plugins.poolings.attention import AttentionPooling


def test_without_a_preference_it_is_the_mean_of_the_real_tokens() -> None:
    pooling = AttentionPooling(2)
    torch.nn.init.zeros_(pooling.score.weight)
    hidden = torch.tensor([[[1.0, 10.0], [3.0, 30.0], [99.0, 99.0]]])
    pooled = pooling(hidden, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(pooled, torch.tensor([[2.0, 20.0]]))


def test_the_token_with_by_far_the_highest_score_stands_for_the_text() -> None:
    pooling = AttentionPooling(1)
    with torch.no_grad():
        for parameter, value in ((pooling.dense.weight, 1.0), (pooling.dense.bias, 0.0), (pooling.score.weight, 100.0)):
            parameter.fill_(value)
    hidden = torch.tensor([[[-1.0], [2.0], [0.0]]])
    torch.testing.assert_close(pooling(hidden, torch.ones(1, 3, dtype=torch.bool)), torch.tensor([[2.0]]))


def test_it_learns_which_token_matters() -> None:
    """The label is the sign of the number in the token that is marked with a one, at some place or other."""
    torch.manual_seed(0)
    pooling, head = AttentionPooling(2), torch.nn.Linear(2, 1)
    marked = torch.nn.functional.one_hot(torch.randint(6, (256,)), 6).float()
    numbers = torch.randn(256, 6)
    hidden, wanted = torch.stack([numbers, 4 * marked], dim=2), ((numbers * marked).sum(dim=1) > 0).float()
    optimizer = torch.optim.AdamW([*pooling.parameters(), *head.parameters()], lr=0.05)
    for _ in range(150):
        outputs = head(pooling(hidden, torch.ones(256, 6, dtype=torch.bool)))[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(outputs, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert ((outputs > 0) == (wanted > 0)).float().mean() > 0.95
