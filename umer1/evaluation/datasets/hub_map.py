"""Map files: where the data sets that a benchmark names lie on this machine.

YAML or JSON:

    VLM2Vec/MSR-VTT: /data/msrvtt                # a repository's folder, or a table
    Video-MME: [tables/videomme, null, test]     # folder, config, split
    ViDoRe_arxivqa: {path: arxivqa, split: test}

or a Python file with VLM2Vec's dictionary EVAL_DATASET_HF_PATH (dataset_hflocal_path.py), which is
read and never run. Keys are data set names or repositories; relative paths are below the map's own
directory, or else below the data directory.
"""

import ast
from dataclasses import dataclass
from pathlib import Path

PYTHON_NAMES = ("EVAL_DATASET_HF_PATH", "EVAL_DATASET_LOCAL_PATH")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a data set lies, and which of its configs and splits is meant."""

    path: Path
    config: str | None = None
    split: str | None = None


def read_map(path: Path, basedir: Path) -> dict[str, Place]:
    """Key -> place. Raises ValueError naming the file and the entry."""
    if not path.is_file():
        raise ValueError(f"hub map {path}: no such file or directory")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"hub map {path}: not a text file") from None
    content = _python(path, text) if path.suffix == ".py" else _yaml(path, text)
    if not isinstance(content, dict):
        raise ValueError(f"hub map {path}: got {type(content).__name__}, need names and places")
    return {str(key): _place(path, basedir, key, value) for key, value in content.items()}


def _place(map_path, basedir, key, value):
    parts = {"path": value} if isinstance(value, str) else value
    if isinstance(value, list | tuple) and 1 <= len(value) <= 3:
        parts = dict(zip(("path", "config", "split"), value))
    known = isinstance(parts, dict) and set(parts) <= {"path", "config", "split"}
    words = known and all(isinstance(part, str | None) for part in parts.values())
    if not words or not parts.get("path"):
        raise ValueError(
            f"hub map {map_path}: {key}: got {value!r}, need a path, [path, config, split] or "
            "{path:, config:, split:}"
        )
    given = Path(parts["path"]).expanduser()
    beside = map_path.parent / given
    where = beside if beside.exists() else basedir / given
    return Place(where, parts.get("config"), parts.get("split"))


def _yaml(path, text):
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"hub map {path}: not YAML ({error})") from None


def _python(path, text):
    """The dictionary's value from the syntax tree: strings, tuples, names of strings and
    os.path.join are understood.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"hub map {path}: not Python ({error})") from None
    known, refused = {}, {}
    for statement in tree.body:
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
            continue
        name = statement.targets[0].id
        try:
            known[name] = _value(statement.value, known)
        except ValueError as error:
            # only the map itself has to be understood
            refused[name] = error
    for name in PYTHON_NAMES:
        if name in known:
            return known[name]
        if name in refused:
            raise ValueError(f"hub map {path}: {name}: {refused[name]}")
    raise ValueError(f"hub map {path}: no {' or '.join(PYTHON_NAMES)}")


def _value(node, known):
    if isinstance(node, ast.Constant) and isinstance(node.value, str | None):
        return node.value
    if isinstance(node, ast.Name) and node.id in known:
        return known[node.id]
    if isinstance(node, ast.Tuple | ast.List):
        return [_value(element, known) for element in node.elts]
    if isinstance(node, ast.Dict):
        return {
            _value(key, known): _value(value, known)
            for key, value in zip(node.keys, node.values, strict=True)
        }
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "os.path.join":
        return str(Path(*(_value(part, known) for part in node.args)))
    raise ValueError(
        f"line {node.lineno}: {ast.unparse(node)[:60]!r} is not a string, a tuple or os.path.join"
    )
