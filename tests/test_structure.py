"""The check of the structure in `make lint` notices what it is for."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[1] / ".ci" / "check_structure.py"
PHRASE = "gone " + "on with"  # in two, as this file is checked too


def check(folder: Path, files: dict[str, str]) -> tuple[int, str]:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    done = subprocess.run(
        [sys.executable, str(CHECK)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_a_clean_tree_passes(tmp_path: Path) -> None:
    files = {"base/text.py": "A = 1\n", "images/items.py": "from base.text import A\n\nB = A\n"}
    assert check(tmp_path, files) == (0, "structure: no problems\n")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"base/a.py": "import base.b\n", "base/b.py": "def f():\n    from base.a import x\n"},
            "circle of files: base.a base.b",
        ),
        (
            {
                "images/pixels/a.py": "from images.sources import b\n",
                "images/pixels/c.py": "",
                "images/sources/b.py": "",
                "images/sources/d.py": "from images.pixels.c import x\n",
            },
            "circle of folders: images/pixels images/sources",
        ),
        ({f"base/{letter}.py": "" for letter in "abcdefghijklmnop"}, "base: 16 modules"),
        ({"base/a.py": "\n" * 301}, "base/a.py: 301 lines"),
        ({"base/a.py": "from __future__ import annotations\n"}, "base/a.py: `from __future__"),
        ({"base/a.py": "picture_size = 3\n"}, "base/a.py:1: picture_size: 'picture'"),
        ({"base/a.py": "def f(found):\n    return found\n"}, "base/a.py:1: found"),
        ({"base/a.py": f"x = 1  # a run that is {PHRASE}\n"}, f"base/a.py:1: {PHRASE!r}"),
    ],
)
def test_it_notices(tmp_path: Path, files: dict[str, str], message: str) -> None:
    code, output = check(tmp_path, files)
    assert code == 1
    assert message in output
