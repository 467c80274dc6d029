"""Check the structure that no other linter sees: circles, crowded folders, long files, words.

    python .ci/check_structure.py [PATH ...]     only what lies below these paths; default: all

- No circle of files, and none of folders within a room, lazy and type-checking imports included.
- A folder holds at most 15 modules (formats and routes may be more), a file at most 300 lines.
- `from __future__ import annotations` stands exactly where `if TYPE_CHECKING:` does.
- The left column of the page "Words" (CONTRIBUTING.md) names nothing, and its phrases describe
  nothing.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOMS = ("base", "images", "training", "export", "serving")
MAX_LINES = 300
MAX_MODULES = 15
LISTS = ("images/sources", "serving/http/routes")  # one module per format or route
NOWHERE = frozenset(
    [
        "place",
        "places",
        "apart",
        "part",
        "parts",
        "parted",
        "tend",
        "tends",
        "tender",
        "foretell",
        "foretold",
        "heard",
        "stranger",
        "strangers",
        "picture",
        "pictures",
    ]
)
NOT_ALONE = frozenset(
    ["found", "known", "wanted", "given", "chosen", "taken", "asked", "told", "words"]
)
PHRASES = re.compile(
    r"\b(go(es|ing|ne)? on with|went on with|lets? go of|letting go of|foret(ell|old)\w*|by chance|"
    r"parted|stranger'?s?)\b",
    re.IGNORECASE,
)
Graph = dict[str, set[str]]


def main(paths: list[str]) -> int:
    """Print what is wrong and return the exit code."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    files = [Path(line) for line in sorted(set(listed.stdout.splitlines())) if Path(line).is_file()]
    problems = [*circles(files), *crowded(files)]
    for file in files:
        problems += [f"{file}{problem}" for problem in problems_of(file)]
    if paths:
        problems = [line for line in problems if any(path.rstrip("/") in line for path in paths)]
    print("\n".join(problems) or "structure: no problems")
    return 1 if problems else 0


def problems_of(file: Path) -> Iterator[str]:
    """Yield what is wrong with one file, as ":line: message"."""
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    if (count := text.count("\n")) > MAX_LINES:
        yield f": {count} lines; at most {MAX_LINES}: look for the seam"
    lazy, typing = r"^from __future__ import annotations$", r"^if TYPE_CHECKING:"
    if bool(re.search(lazy, text, re.MULTILINE)) != bool(re.search(typing, text, re.MULTILINE)):
        yield ": `from __future__ import annotations` belongs exactly where `if TYPE_CHECKING:` is"
    for line, name in names_of(tree):
        if word := unwanted_word(name):
            yield f":{line}: {name}: {word!r} is not one of our words (CONTRIBUTING.md)"
    if file.parts[0] != ".ci":
        for line, phrase in phrases_of(text):
            yield f":{line}: {phrase!r} is not how the field puts it (CONTRIBUTING.md)"


def unwanted_word(name: str) -> str | None:
    """Return the word of a name that is not to be used, None if all are fine."""
    pieces = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower().strip("_").split("_")
    if bad := NOWHERE.intersection(pieces):
        return min(bad)
    if len(pieces) == 1 and pieces[0] in NOT_ALONE:
        return pieces[0]
    return "words" if pieces[-1] == "words" and not name.startswith("test_") else None


def names_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and name of everything that a file names itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


def phrases_of(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and wording of unwanted phrases in comments and strings."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            for match in PHRASES.finditer(token.string):
                yield token.start[0] + token.string.count("\n", 0, match.start()), match.group()


def crowded(files: list[Path]) -> Iterator[str]:
    """Yield the folders of a room with too many modules."""
    modules = [file for file in files if file.parts[0] in ROOMS and file.name != "__init__.py"]
    for folder in sorted({file.parent for file in modules}):
        count = sum(file.parent == folder for file in modules)
        if count > MAX_MODULES and folder.as_posix() not in LISTS:
            yield f"{folder}: {count} modules; at most {MAX_MODULES}: is there a folder in it?"


def circles(files: list[Path]) -> Iterator[str]:
    """Yield circles of files, and of folders within a room; a room's own files count singly."""
    modules = {
        ".".join(file.with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
        if file.parts[0] in ROOMS
    }
    graph = {name: imports_of(file, modules) - {name} for name, file in modules.items()}
    for circle in strongly_connected(graph):
        yield f"circle of files: {' '.join(circle)}"

    def folder(name: str) -> str:
        parent = modules[name].parent.as_posix()
        return name if parent in ROOMS else parent

    folders: Graph = {}
    for name, imported in graph.items():
        above = folders.setdefault(folder(name), set())
        above |= {folder(other) for other in imported} - {folder(name)}
    for circle in strongly_connected(folders):
        yield f"circle of folders: {' '.join(circle)}"


def imports_of(file: Path, modules: dict[str, Path]) -> set[str]:
    """Return the project's own modules that a file imports, anywhere in it."""
    imported = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                imported.add(submodule if submodule in modules else node.module)
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
    return imported & modules.keys()


def strongly_connected(graph: Graph) -> list[list[str]]:
    """Return the sets of two or more nodes that reach one another, each sorted."""

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        return seen

    reachable = {node: reach(node) for node in graph}
    groups = {
        tuple(sorted(other for other in reachable[node] if node in reachable.get(other, ())))
        for node in graph
        if node in reachable[node]
    }
    return [list(group) for group in sorted(groups) if len(group) > 1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
