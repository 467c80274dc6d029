"""The examples of docs/serving.md, run; the tables of docs/http.md against the code."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import yaml

from base.errors import RefusalReason
from serving.http.gate.gate import FOREIGN_TYPES
from serving.http.policy.settings import Settings
from serving.http.server.uvicorn_server import DRAIN_SECONDS
from tests.serving.http.conftest import Running, make_collection, started
from tests.serving.http.routes.test_embed import Encode

DOCS = Path(__file__).parents[4] / "docs"
SERVING = (DOCS / "serving.md").read_text()
HTTP = (DOCS / "http.md").read_text()
KEY = "a-long-secret"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SERVING, re.DOTALL)


CURLS = [line for block in blocks("sh") for line in block.splitlines() if "curl" in line]


@pytest.fixture(scope="module")
def scene(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_encoder: Path,
    images: dict[str, bytes],
    encode: Encode,
) -> Iterator[SimpleNamespace]:
    """A folder with cat.jpg and dog.png, and a service whose collection holds them."""
    folder = tmp_path_factory.mktemp("docs")
    animals = {
        "animals/cat.jpg": images["discs/00.jpg"],
        "animals/dog.png": images["squares/01.png"],
        "things/cup.png": images["ramps/03.png"],
    }
    for key, content in animals.items():
        (folder / key).parent.mkdir(exist_ok=True)
        (folder / key).write_bytes(content)
        (folder / Path(key).name).write_bytes(content)
    collection = make_collection(folder / "shop", tiny_encoder, folder, animals, encode)
    settings = Settings(encoder=tiny_encoder, collection=collection, write_key=KEY)
    with started(settings) as running:
        yield SimpleNamespace(folder=folder, service=running)


def at(text: str, service: Running) -> str:
    return text.replace("http://127.0.0.1:3000", service.url)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl: apt-get install curl")
def test_every_curl_example(scene: SimpleNamespace) -> None:
    """In order, because a later one may use what an earlier one made."""
    assert len(CURLS) >= 15
    for line in CURLS:
        command = at(line, scene.service).replace(
            "curl ", f"curl -sS --fail-with-body -H 'X-API-Key: {KEY}' ", 1
        )
        done = subprocess.run(
            ["bash", "-c", command], cwd=scene.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        assert '"error"' not in done.stdout
    assert (scene.folder / "both.npy").stat().st_size > 128
    assert (scene.folder / "cat.webp").read_bytes()[8:12] == b"WEBP"
    assert httpx.get(f"{scene.service.url}/items/new%2Fcat", headers={"X-API-Key": KEY}).is_error
    assert httpx.get(f"{scene.service.url}/items/new%2Fdog", headers={"X-API-Key": KEY}).is_success


@pytest.mark.parametrize("example", blocks("python"), ids=["bentoml", "ours"])
def test_the_python_examples(scene: SimpleNamespace, example: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", at(example, scene.service)],
        cwd=scene.folder,
        env={
            "BENTO_CLOUD_API_KEY": KEY,
            "BENTOML_DO_NOT_TRACK": "True",
            "PYTHONPATH": str(DOCS.parent),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    items = ["added", "cats", "2"] if "serving.client" in example else []
    assert done.stdout.split() == ["2", "animals/cat.jpg", *items]


def table(heading: str) -> str:
    return HTTP.partition(f"## {heading}")[2].partition("\n## ")[0]


def test_every_setting_is_documented() -> None:
    documented = set(re.findall(r"`LOOKALIKE_([A-Z_]+)`", table("Settings")))
    assert documented == {entry.name.upper() for entry in fields(Settings)} | {"API_KEY"}
    for entry in fields(Settings):
        if isinstance(entry.default, int | float) and not isinstance(entry.default, bool):
            row = re.search(rf"`LOOKALIKE_{entry.name.upper()}` \| (\S+) \|", table("Settings"))
            assert row is not None
            assert float(row[1]) == entry.default, entry.name


def test_every_type_of_refusal_is_documented() -> None:
    documented = set(re.findall(r"`([a-z0-9-]+)`", table("Refusals")))
    code = "".join(path.read_text() for path in (DOCS.parent / "serving/http").rglob("*.py"))
    raised = set(re.findall(r'HttpError\(\s*[\w.]+,\s*"([a-z-]+)"', code))
    raised |= {f"malformed-{what}" for what in re.findall(r'malformed\(\s*"(\w+)"', code)}
    raised |= set(FOREIGN_TYPES.values())
    # The service opens no files, and decodes in its own process.
    elsewhere = {RefusalReason.UNREADABLE, RefusalReason.CRASHED, RefusalReason.TIMED_OUT}
    raised |= {reason.value for reason in set(RefusalReason) - elsewhere}
    assert len(raised) > 30
    # Nobody is there to read the first; the second is for statuses that BentoML might add.
    assert raised - documented == {"client-gone", "bad-request"}


def test_every_route_is_documented(scene: SimpleNamespace) -> None:
    spec = httpx.get(f"{scene.service.url}/docs.json").json()
    described = {
        f"{method.upper()} {path}"
        for path, operations in spec["paths"].items()
        for method in operations
    }
    documented = set(re.findall(r"`((?:GET|POST|DELETE) [^`]+)`", table("Routes")))
    assert described - documented <= {"GET /healthz"}
    assert documented - described == {"GET /", "GET /docs.json", "GET /openapi.json"}


def test_the_dashboard_asks_for_figures_that_exist(scene: SimpleNamespace) -> None:
    headers = {"X-API-Key": KEY}
    image = (scene.folder / "cat.jpg").read_bytes()
    httpx.post(f"{scene.service.url}/embed", files={"images": image}, headers=headers)
    figures = httpx.get(f"{scene.service.url}/metrics", headers=headers).text
    families = set(re.findall(r"^# TYPE (\w+)", figures, re.MULTILINE))
    dashboard = json.loads((DOCS / "deploy" / "grafana.json").read_text())
    used = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            used |= set(re.findall(r"lookalike_\w+", target["expr"]))
    assert len(used) >= 10
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} <= families
    explained = (DOCS / "deploy" / "README.md").read_text()
    assert set(re.findall(r"`(lookalike_[a-z_]+)", explained)) <= families


def test_the_manifest_names_real_settings_and_routes(scene: SimpleNamespace) -> None:
    documents = list(yaml.safe_load_all((DOCS / "deploy" / "kubernetes.yaml").read_text()))
    assert [one["kind"] for one in documents] == ["PersistentVolumeClaim", "Deployment", "Service"]
    pod = documents[1]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    settings = {f"LOOKALIKE_{entry.name.upper()}" for entry in fields(Settings)}
    assert {variable["name"] for variable in container["env"]} <= settings
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        path = container[probe]["httpGet"]["path"]
        assert httpx.get(scene.service.url + path).status_code == 200
    (_, pause) = container["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] > DRAIN_SECONDS + int(pause)
    assert pod["enableServiceLinks"] is False
    # Prometheus sends no key with the annotations.
    assert {"name": "LOOKALIKE_OPEN_METRICS", "value": "1"} in container["env"]
    texts = [(DOCS / "deploy" / name).read_text() for name in ("README.md", "nginx.conf")]
    names = set(re.findall(r"LOOKALIKE_[A-Z_]+", "".join(texts))) - {"LOOKALIKE_PORT"}
    assert names <= settings | {"LOOKALIKE_API_KEY"}
