"""Every command of the README does what it says, in the order it stands there."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHORTER = (  # a reader trains for minutes; a test for a few steps
    " --set training.samples=96 --set training.batch_size=32"
    " --set data.image_size=32 --set data.stored_size=32"
)
READY_WITHIN_S = 120


def blocks() -> list[str]:
    text = (ROOT / "README.md").read_text()
    return re.findall(r"^```sh\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def reader(tmp_path: Path, image_folder: Path) -> Path:
    """A working folder with photos/ and query.jpg, as the README assumes."""
    shutil.copytree(image_folder, tmp_path / "photos")
    shutil.copy(next((image_folder / "discs").glob("*.jpg")), tmp_path / "query.jpg")
    return tmp_path


def type_in(folder: Path, commands: str) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def environment() -> dict[str, str]:
    here = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}


def wait_until_ready(server: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    probe = ["curl", "--fail", "--silent", f"http://127.0.0.1:{port}/readyz"]
    while subprocess.run(probe, check=False, capture_output=True).returncode:
        assert server.poll() is None, "the server stopped by itself"
        assert time.monotonic() < deadline, "the server did not become ready"
        time.sleep(0.2)


def test_every_block_of_the_readme_runs(reader: Path) -> None:
    commands = blocks()
    serving = next(number for number, block in enumerate(commands) if "lookalike serve" in block)
    port = free_port()
    for block in commands[:serving]:
        printed = type_in(reader, re.sub(r"(lookalike train .*)", rf"\1{SHORTER}", block))
    assert "query.jpg" in printed  # the search's answer names what was asked
    assert "discs/" in printed

    command = [*commands[serving].split(), "--port", str(port)]
    server = subprocess.Popen(command, cwd=reader, env=environment())
    try:
        wait_until_ready(server, port)
        for block in commands[serving + 1 :]:
            printed = type_in(reader, block.replace(":3000", f":{port}"))
        assert '"neighbours"' in printed
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\S+)$", readme, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text()):
        assert target.startswith("https://") or (ROOT / target).exists(), target
