"""Checkpoints that TensorFlow 2.21 wrote: of version 1's Saver ("m") and of tf.train.Checkpoint."""

import base64
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from base.errors import ArtifactError
from training.weights.tensorflow.bundle import find_index, read_bundle
from training.weights.weight_files import read_tensors

FILES = {  # zlib, base 85
    "m.index": (
        "c-muNVB=tvV&Y(A5a3TrEKZHj%}+_q(N8K$%*^B96Jil!;$YHXG2M7CeJwYyY;t~HnNf;<c4|>xY7PgZ"
        "kN`*;ikU&Q0*gk1>7DyeR&%omW+djMaR@_<P)Gq9vf+}_O9pP<^ql;p#GLrzlGFkYP9X+`3=Iy`-Ph*}"
        "GO+OG<(H&#umi;kG`LLPJUF1q00fL6;&ONRPB`blr-d6B7@6}KmNUY|1b;;@T*Jt*laZf+APE26(5+JH"
        "ej5NFhBX="
    ),
    "m.data-00000-of-00001": (
        "c-m{QcW__;g9dvb0c3;t4M4mAhz|hq1CYEU1A_n%D*&+p5IX>I01zhtaRCrF0C5KpPXOW>K)e8mR{-$_"
        "Al~7~V8?KP9byRs>&;_xoHJ5$a`FMcG8W4"
    ),
    "v2.index": (
        "c-muNVB=tvV&Y(Akl~AW_HcFf4)FK%3vqPvagFzP@^W<!iFXfj4DjG!7h+J5(745D%KUW7e+G5_-29Z("
        "9R2LnqC6m_=NJ+a<mnU|;u@?U<{0D&)*j~Q6Y9#rD8wSf#KEE=U^=<?wGo>#Z%$%mYEiMi0X|JkK+6O)"
        "I82|(x?EuZ0!9#VOfKO&oO9sQ!VL_J%y|r}7~x_f^F4~zGji-<<YyoV!hbh(tCYIm1^}IFH%|"
    ),
    "v2.data-00000-of-00001": (
        "c-muN0D%U3AmIQ+4qz_B1N$qCYKE$DT>M;|9E?J&x%nxnIa*8{j9fBYTpUb7Y}u(rd8s)-HnR|0PGV(h"
        "Q88H7Q^=W%FU&E>)6vPtH9pMIC)8DlBP_8fGchSARZ1Ofj6OuKzMf-9NRX#fXozdDKB^Y5QQTat94tbN"
        "24If2kSiW@H6i9g+@Wtkz+?dCPdD)"
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(zlib.decompress(base64.b85decode(content)))
    return tmp_path


def test_variables_of_version_1_are_read_with_their_types_and_shapes(folder: Path) -> None:
    tensors = read_bundle(folder / "m.index")
    assert set(tensors) == {
        "base_model/conv2d/kernel",
        "base_model/half",
        "base_model/brain",
        "global_step",
    }  # no strings
    kernel = tensors["base_model/conv2d/kernel"]
    np.testing.assert_array_equal(kernel, np.arange(24, dtype=np.float32).reshape(2, 2, 3, 2))
    torch.testing.assert_close(tensors["base_model/half"], torch.tensor([1.5, -2]).half())
    torch.testing.assert_close(tensors["base_model/brain"], torch.tensor([1.0, 3.0]).bfloat16())
    assert tensors["global_step"] == 7


def test_names_of_version_2_lose_what_is_the_same_in_all(folder: Path) -> None:
    tensors = read_bundle(folder / "v2.index")
    np.testing.assert_array_equal(tensors["model/kernel"], np.arange(4, dtype=np.float32))
    assert tensors["model/layers/0"] == 0.5
    assert not any("ATTRIBUTES" in name for name in tensors)


def test_a_checkpoint_is_meant_in_many_ways(folder: Path) -> None:
    index = folder / "m.index"
    assert find_index(index) == find_index(folder / "m") == index
    assert find_index(folder) is None
    (folder / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/m"\n')
    assert find_index(folder) == index
    assert len(read_tensors(folder / "m")) == 4
    (folder / "checkpoint").write_text('model_checkpoint_path: "mm"\n')
    with pytest.raises(ArtifactError, match=r"names mm, which is not there.*'m'"):
        find_index(folder)
    saved = folder / "saved" / "variables"
    saved.mkdir(parents=True)
    (saved / "variables.index").write_bytes(index.read_bytes())
    assert find_index(folder / "saved") == saved / "variables.index"
    assert find_index(folder / "absent") is None


def test_damage_is_named(folder: Path) -> None:
    index = folder / "m.index"
    whole = index.read_bytes()
    index.write_bytes(whole[:20] + bytes([whole[20] ^ 1]) + whole[21:])
    with pytest.raises(ArtifactError, match="checksum"):
        read_bundle(index)
    index.write_bytes(whole[:-9])
    with pytest.raises(ArtifactError, match="not an index of TensorFlow"):
        read_bundle(index)
    index.write_bytes(whole)
    data = folder / "m.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:40])
    with pytest.raises(ArtifactError, match=r"cut off"):
        read_bundle(index)
    data.unlink()
    with pytest.raises(ArtifactError, match=r"needs m\.data-00000-of-00001 beside it"):
        read_bundle(index)


def test_no_flipped_byte_of_an_index_makes_anything_but_a_named_error(folder: Path) -> None:
    index = folder / "m.index"
    whole = index.read_bytes()
    for position in range(len(whole)):
        index.write_bytes(
            whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :]
        )
        try:
            tensors = read_bundle(index)
        except ArtifactError:
            continue
        assert len(tensors) == 4, position  # a byte that nothing reads
