import os
import platform
import subprocess
import sys

import pytest

from training.cpu_tuning import SPINS, shorten_spin_wait

FAULTS = """
import resource, sys
from training.cpu_tuning import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        b"x" * 2**26  # 64 MB, 16,384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
if sys.argv[1] == "kept":
    assert keep_freed_memory()
faults()
print(faults())
"""


def test_the_users_own_setting_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    shorten_spin_wait()
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    shorten_spin_wait()
    assert os.environ["GOMP_SPINCOUNT"] == SPINS
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    shorten_spin_wait()
    assert os.environ["GOMP_SPINCOUNT"] == "7"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_handed_out_again_without_page_faults() -> None:
    def faults(memory: str) -> int:
        command = [sys.executable, "-c", FAULTS, memory]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("returned") > 1000
    assert faults("kept") < 100
