"""A real bento: built from the project's files, served by BentoML over a socket."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from base.errors import ArtifactError
from tests.serving.http.routes.test_embed import Encode

ROOT = Path(__file__).parents[3]
MARK = "served from the bento's own files"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with a model store and a bento store of its own."""
    home = tmp_path_factory.mktemp("bentoml")
    kept = {name: value for name, value in os.environ.items() if "LOOKALIKE" not in name}
    return {
        **kept,
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONWARNINGS": "ignore",
    }


def run(arguments: list[str], env: dict[str, str], cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def bento(
    home: dict[str, str], tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The tag of a bento built as docs/serving.md says, from a marked copy of the project."""
    copy = tmp_path_factory.mktemp("project")
    for room in ("images", "export", "serving"):
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("bentofile.yaml", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    page = copy / "serving" / "http" / "web" / "index.html"
    page.write_text(page.read_text().replace("<title>Lookalike", f"<title>{MARK}"))
    first, again = run(["serving.http.engine.bento", *[str(tiny_encoder)] * 2], home, copy).split()
    assert first == again
    return run(["bentoml", "build", "-o", "tag"], home, copy).strip().removeprefix("__tag__:")


@pytest.fixture(scope="module")
def served(
    bento: str, home: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of the bento, served by `bentoml serve`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("elsewhere")
    log = folder / "log"
    command = [sys.executable, "-m", "bentoml", "serve", bento]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=home,
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            with httpx.Client(transport=httpx.HTTPTransport(retries=8)) as client:
                while True:  # the test's own time limit ends it
                    assert process.poll() is None, log.read_text()
                    try:
                        if client.get(f"{url}/readyz").status_code == 200:
                            break
                    except httpx.TransportError:
                        continue
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


def test_a_bento_embeds_a_real_image(served: str, image_bytes: bytes, encode: Encode) -> None:
    answer = httpx.post(f"{served}/embed", files={"images": image_bytes}, timeout=30)
    assert answer.status_code == 200, answer.text
    np.testing.assert_allclose(answer.json()["embeddings"][0], encode(image_bytes), atol=1e-5)


def test_a_bento_carries_its_own_files(served: str) -> None:
    assert MARK in httpx.get(f"{served}/").text
    assert httpx.get(f"{served}/web/page.js").status_code == 200
    assert httpx.get(f"{served}/docs.json").json()["info"]["title"] == "Lookalike"


def test_a_bento_refuses_in_our_shape(served: str) -> None:
    answer = httpx.post(f"{served}/embed", files={"images": b"no picture"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (422, "not-an-image")


def test_a_wrong_setting_ends_bentoml_serve_with_one_line(
    bento: str, home: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "serve", bento, "--port", "0"],
        env={**home, "LOOKALIKE_COLLECTION": str(tmp_path / "none")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert "error: there is no collection at" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_bentoml_reports_nothing(tmp_path: Path) -> None:
    program = (
        "import serving.http.routes.service\n"
        "from bentoml._internal.utils.analytics.usage_stats import do_not_track\n"
        "print(do_not_track())"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("BENTOML")}
    command = [sys.executable, "-W", "ignore", "-c", program]
    assert subprocess.check_output(command, env=env, cwd=ROOT, text=True).strip() == "True"


def test_only_an_encoder_is_stored(tmp_path: Path) -> None:
    from serving.http.engine.bento import main, store_encoder

    stranger = tmp_path / "x.onnx"
    stranger.write_bytes(b"nothing")
    with pytest.raises(ArtifactError):
        store_encoder(stranger)
    assert main([str(stranger)]) == 2
    assert main([]) == 2
