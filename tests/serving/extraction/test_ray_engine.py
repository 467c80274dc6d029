"""Extraction on Ray: a cluster of two nodes does what one machine does."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from export.encoder_file.encoder_file import Encoder
from images.sources.sources import open_source
from serving.extraction.extract import extract
from serving.features.reader import Features, open_features

ON_TWO_NODES = """
    import json, sys
    import ray
    from ray.cluster_utils import Cluster
    import lookalike
    import serving.extraction.ray_engine

    serving.extraction.ray_engine.BLOCK_ITEMS = 4  # so that 43 items are work for everybody

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    try:
        for arguments in json.loads(sys.argv[1]):
            code = lookalike.run([*arguments, "--ray-address", cluster.address])
            print("code", code)
        from ray._private.state import actors

        homes = {
            one["Address"]["NodeID"]
            for one in actors().values()
            if "_Actor" in one["ActorClassName"]
        }
        print("nodes", len(homes))
    finally:
        ray.shutdown()
        cluster.shutdown()
"""


def on_cluster(*commands: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ON_TWO_NODES), json.dumps(commands)],
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def embeddings(features: Features) -> NDArray[np.float32]:
    return np.concatenate([block.embeddings for block in features.blocks()])


@pytest.mark.slow
def test_two_nodes_make_what_one_machine_makes(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path
) -> None:
    whole, far, halted = (tmp_path / name for name in ("local", "ray", "halted"))
    extract(encoder, open_source(mixed_folder), whole, shard_items=8)
    shutil.copytree(whole, halted)
    (halted / "shards" / "00002.parquet").unlink()
    begin = ["extract", str(encoder.path), str(mixed_folder), "--engine", "ray", "--out"]
    done = on_cluster(
        [*begin, str(far), "--json"],
        [*begin, str(halted), "--resume"],
        [*begin, str(tmp_path / "none"), "--actor-cpus", "64"],
    )
    assert re.findall(r"^code (\d)$", done.stdout, re.MULTILINE) == ["1", "1", "3"], done.stderr
    assert "nodes 2" in done.stdout
    report = json.loads(done.stdout.splitlines()[0])
    assert (report["items"], report["rows"], report["refused"]) == (43, 40, 3)
    assert report["seconds"]["decode"] > 0
    assert "2 CPUs and 0 GPUs: no room for an actor of 64 CPUs" in done.stderr
    local = open_features(whole)
    for made in (open_features(far), open_features(halted)):
        assert list(made.keys()) == list(local.keys())
        assert list(made.errors()) == list(local.errors())
        assert made.manifest.complete
        np.testing.assert_allclose(embeddings(made), embeddings(local), atol=1e-6)
