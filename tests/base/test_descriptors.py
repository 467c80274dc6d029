"""The limit of open descriptors, in processes that may be spoiled."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource
from base.descriptors import descriptor_limit, raise_descriptor_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 900))
print(descriptor_limit())
raise_descriptor_limit()
print(descriptor_limit())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_the_limit_is_raised_to_the_hard_one() -> None:
    out = subprocess.check_output([sys.executable, "-c", PROGRAM], text=True)
    assert out.split() == ["100", "900"]
