import torch
from torch.nn import functional

from training.distillation.loss import imitation_loss_and_gradient


def test_the_loss_is_the_mean_of_one_minus_cosine_and_shares_add_up() -> None:
    torch.manual_seed(0)
    embeddings = torch.randn(6, 4, requires_grad=True)
    targets = functional.normalize(torch.randn(6, 4), dim=1)
    expected = (1 - functional.cosine_similarity(embeddings, targets)).mean()
    (gradient,) = torch.autograd.grad(expected, embeddings)
    shares = [
        imitation_loss_and_gradient(embeddings[rows], targets[rows], views=6)
        for rows in (slice(0, 2), slice(2, 6))
    ]
    torch.testing.assert_close(sum(loss for loss, _ in shares), expected.detach())
    torch.testing.assert_close(torch.cat([rows for _, rows in shares]), gradient)
