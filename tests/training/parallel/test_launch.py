import pytest

from base.errors import UsageError
from training.parallel.launch import Launch, launch_of


def test_the_environment_says_which_process_this_is() -> None:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    launch = launch_of(dict(zip(names, "5824", strict=True)))
    assert launch == Launch(rank=5, world=8, local_rank=2, local_world=4)
    assert not launch.leads
    assert launch_of({"WORLD_SIZE": "2"}) == Launch()
    with pytest.raises(UsageError, match="RANK=1 but not a number for each of WORLD_SIZE"):
        launch_of({"RANK": "1", "WORLD_SIZE": "2"})
