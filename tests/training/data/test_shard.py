import pytest
import torch

from base.errors import UsageError
from training.data.shard import BatchShard


@pytest.mark.parametrize(
    ("batch", "micro", "world"), [(8, 8, 1), (24, 12, 3), (24, 6, 1), (8, 4, 2)]
)
def test_the_shares_of_all_processes_make_up_the_batch(batch: int, micro: int, world: int) -> None:
    shards = [
        BatchShard(batch_size=batch, micro_batch=micro, rank=r, world=world) for r in range(world)
    ]
    rows = torch.arange(2 * batch)[:, None].float()
    shares = [shard.own_rows(rows) for shard in shards]
    assert shares[0].shape == (batch // micro, 2 * micro // world, 1)
    for shard, share in zip(shards, shares, strict=True):
        assert torch.equal(share[..., 0].long(), shard.views)
    assert torch.equal(shards[0].join(torch.stack([p.flatten(0, 1) for p in shares])), rows)
    images = torch.cat([shard.images for shard in shards], 1)  # of each chunk, in order
    assert torch.equal(images.flatten(), torch.arange(batch))


def test_a_batch_that_cannot_be_split_is_refused_with_the_remedy() -> None:
    with pytest.raises(UsageError, match=r"batch_size = 9 .* 2 processes.*multiple of 2"):
        BatchShard(batch_size=9, micro_batch=9, world=2)
    with pytest.raises(UsageError, match=r"micro_batch = 2 .* two pictures each"):
        BatchShard(batch_size=8, micro_batch=2, world=2)
