"""Keys in files: what may stand in them, and that a changed file counts without a restart."""

import logging
from pathlib import Path

import pytest

from base.errors import UsageError
from serving.http.policy.keys import KeyFile
from serving.http.policy.settings import Settings, from_environment
from serving.http.server.server import settings_for
from tests.serving.http.conftest import started

OLD, NEW = "the-old-key", "the-new-key"


def replace(path: Path, text: str) -> None:
    """As rotation does it: another file under the same name."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)


def test_one_key_a_line(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(f"\ufeff# ours\r\n{OLD}\r\n\r\n   {NEW}  \n  # the end".encode())
    assert KeyFile(file).keys == (OLD, NEW)
    assert OLD not in repr(KeyFile(file))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "keys cannot be read: No such file"),
        (b"", "keys holds no key"),
        (b"# nothing\n\n", "keys holds no key"),
        (b"\xff\xfe\x00", "keys is not text"),
        (b"# one\nshort", "keys, line 2: an API key of 5 characters"),
        (b"long-enough # mine", "line 1: a key with a space"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=message) as refused:
        from_environment({"LOOKALIKE_API_KEY_FILE": str(file)})
    assert "long-enough" not in str(refused.value)


def test_keys_of_variables_and_files_all_count(tmp_path: Path) -> None:
    for name in ("both", "read", "write"):
        (tmp_path / name).write_text(f"{name}-from-a-file")
    settings = from_environment(
        {
            "LOOKALIKE_API_KEY": "from-a-variable",
            "LOOKALIKE_READ_KEY": "read-from-a-variable",
            "LOOKALIKE_API_KEY_FILE": str(tmp_path / "both"),
            "LOOKALIKE_READ_KEY_FILE": str(tmp_path / "read"),
            "LOOKALIKE_WRITE_KEY_FILE": str(tmp_path / "write"),
        }
    )
    assert settings.read_keys == ("read-from-a-variable", "read-from-a-file")
    assert settings.write_keys == ("from-a-variable", "both-from-a-file", "write-from-a-file")
    assert Settings(read_key_file=KeyFile(tmp_path / "read")).has_keys


def test_the_option_names_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text(NEW)
    monkeypatch.setenv("LOOKALIKE_API_KEY", "from-the-environment")
    settings = settings_for("e.onnx", None, api_key=None, api_key_file=file, insecure=False)
    assert settings.write_keys == ("from-the-environment", NEW)


def test_a_changed_file_counts_without_a_restart(
    tiny_encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text(OLD)
    with started(Settings(encoder=tiny_encoder, read_key_file=KeyFile(file))) as running:

        def statuses() -> list[int]:
            headers = [{"X-API-Key": key} for key in (OLD, NEW)]
            return [running.client.get("/status", headers=one).status_code for one in headers]

        assert statuses() == [200, 401]
        replace(file, f"{OLD}\n{NEW}")
        assert statuses() == [200, 200]
        replace(file, NEW)
        assert statuses() == [401, 200]
        with caplog.at_level(logging.ERROR):
            replace(file, "short")  # a mistake locks nobody out, and lets nobody in
            assert statuses() == [401, 200]
            file.unlink()
            assert statuses() == [401, 200]
        assert "line 1" in caplog.text
        assert "cannot be read" in caplog.text
        assert len(caplog.records) == 2
        assert NEW not in caplog.text
        file.write_text(OLD)
        assert statuses() == [200, 401]
