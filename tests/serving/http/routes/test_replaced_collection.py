"""A collection whose folder is replaced while the service has it open."""

import shutil
from pathlib import Path

import pytest

from tests.serving.http.conftest import Running


@pytest.mark.parametrize("restored", [True, False])
def test_nothing_is_written_into_a_folder_that_is_gone(
    fresh: Running, tmp_path: Path, image_bytes: bytes, restored: bool
) -> None:
    client, folder = fresh.client, tmp_path / "c"
    assert client.get("/readyz").status_code == 200
    shutil.copytree(folder, tmp_path / "backup")
    shutil.rmtree(folder)
    if restored:
        shutil.copytree(tmp_path / "backup", folder)
    added = client.post("/items", files={"image": image_bytes}, data={"key": "new"})
    assert fresh.error(added) == (503, "collection-replaced", None)
    removed = client.delete("/items/discs%2F00.jpg")
    assert removed.status_code == 503
    for path in ("/readyz", "/health", "/v2/health/ready"):
        assert client.get(path).status_code == 503
    assert client.get("/livez").status_code == 200
