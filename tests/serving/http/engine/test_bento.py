"""A real bento: built from the project's files, served by BentoML over a socket."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from base.errors import ArtifactError
from tests.serving.http.routes.test_embed import Encode

ROOT = Path(__file__).parents[4]
MARK = "served from the bento's own files"

# Imports all of the service from one folder, as if some top-level modules were not installed, nor
# this project in any other folder.
IMPORT_ALL = """
import importlib, pkgutil, sys
from pathlib import Path

source, hidden = sys.argv[1], set(sys.argv[2].split(","))


class Hide:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"{name} is not a package of the bento", name=name)


others = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
sys.meta_path[:] = [Hide, *others]
sys.path[0] = source
import serving.http

assert Path(serving.http.__file__).is_relative_to(source), serving.http.__file__
for module in pkgutil.walk_packages(serving.http.__path__, "serving.http."):
    importlib.import_module(module.name)
    print(module.name)
"""


def bento_packages() -> list[str]:
    """Return the requirements in bentofile.yaml."""
    content = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
    packages: list[str] = content["python"]["packages"]
    return packages


def closure(requirements: Iterable[str]) -> set[str]:
    """Return the names of all distributions that some requirements bring, of those installed."""
    names: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for extra_name in {"", *requirement.extras}:
            if (name, extra_name) in seen:
                continue
            seen.add((name, extra_name))
            with contextlib.suppress(metadata.PackageNotFoundError):
                brought = metadata.requires(name) or []
                names.add(name)
                waiting += [(Requirement(text), extra_name) for text in brought]
    return names


def top_level_names(distributions: set[str] | None = None) -> set[str]:
    """Return the modules that some distributions install; None: all but this project's own."""
    return {
        module
        for module, owners in metadata.packages_distributions().items()
        for owner in map(canonicalize_name, owners)
        if (owner != "lookalike" if distributions is None else owner in distributions)
    }


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
    for room in ("base", "images", "export", "serving"):
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


def test_the_packages_are_those_of_the_extra_serve() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    expected = [*project["dependencies"], *project["optional-dependencies"]["serve"]]
    assert sorted(bento_packages()) == sorted(expected)


def test_a_bento_imports_with_its_own_packages_alone(bento: str, home: dict[str, str]) -> None:
    name, _, version = bento.partition(":")
    source = Path(home["BENTOML_HOME"]) / "bentos" / name / version / "src"
    hidden = sorted(top_level_names() - top_level_names(closure(bento_packages())))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT_ALL, str(source), ",".join(hidden)],
        env=home,
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "serving.http.routes.service" in done.stdout.split()


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


def test_a_bento_bounds_heads(served: str) -> None:
    lines = b"X: a\r\n" * 200_000
    address = ("127.0.0.1", int(served.rpartition(":")[2]))
    with socket.create_connection(address, timeout=20) as one:
        with contextlib.suppress(ConnectionError):
            one.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + lines)
        assert one.recv(4096).startswith(b"HTTP/1.1 431")


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

    other = tmp_path / "x.onnx"
    other.write_bytes(b"nothing")
    with pytest.raises(ArtifactError):
        store_encoder(other)
    assert main([str(other)]) == 2
    assert main([]) == 2
