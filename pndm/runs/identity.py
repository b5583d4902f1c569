"""What names a run: two pure functions.

`image_key` is a hash of what determines an image, `run_name` adds what determines the record:
how many images there are, and what their FID is measured with. The code is part of both; it is
compared as a syntax tree, so comments, docstrings and layout do not matter.
"""

import ast
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pndm
from pndm.config.build import solver_code
from pndm.config.schema import Run

NOT_HASHED = (
    *("batch_size", "compile", "device", "processes", "progress"),
    *("outputs", "overwrite", "save_images", "wandb"),
)
"""Settings that say how a run is made, not what comes out of it."""

OF_RECORD = ("samples", "fid", "kid", "prc")
"""Settings that belong to the record alone: runs that differ in these share their images."""

IMAGE_CODE = (
    *pndm.METHOD,
    *("models", "data/images", "config/build", "runs/network", "runs/batches"),
)
"""Modules and packages that determine an image, given its configuration and weights."""

MEASURE_CODE = ("data", "evaluation", "runs/measure")
"""Modules and packages that determine an FID, given the images."""


def image_key(cfg: Run, weights: str) -> str:
    """A hash of what determines an image: settings, the weights' hash, code; not their number."""
    settings = {
        key: value
        for key, value in dataclasses.asdict(cfg).items()
        if key not in (*NOT_HASHED, *OF_RECORD)
    }
    settings["dataset"] = cfg.dataset.name
    return _digest(settings, weights, code_hash(IMAGE_CODE), _own_code(cfg))


def _own_code(cfg: Run) -> Any:
    """The code of a solver of the user's own."""
    source = solver_code(cfg.solver)
    return None if source is None else syntax(source)


def run_name(cfg: Run, weights: str, evaluation: list[str | None] | None) -> str:
    """plms-50-0123456789ab: solver, steps, and a hash of what determines the record.

    `evaluation` is what FID is measured with (`pndm.evaluation.reference.evaluation_hash`), None
    where it is not asked for.
    """
    record = [getattr(cfg, key) for key in OF_RECORD]
    measured = (code_hash(MEASURE_CODE), cfg.dataset.extractor, evaluation)
    digest = _digest(image_key(cfg, weights), record, measured)
    return f"{cfg.solver['name']}-{cfg.steps}-{digest[:12]}"


@cache
def code_hash(modules: tuple[str, ...] = IMAGE_CODE + MEASURE_CODE) -> str:
    """A hash of the code of modules and packages below `pndm`, as `syntax` sees it."""
    folder, content = Path(__file__).parents[1], []
    for module in modules:
        paths = [(folder / module).with_suffix(".py"), *sorted((folder / module).rglob("*.py"))]
        content += [
            (path.relative_to(folder).as_posix(), syntax(path.read_text(encoding="utf-8")))
            for path in paths
            if path.is_file()
        ]
    return _digest(content)[:16]


def syntax(source: str) -> list[Any]:
    """The syntax tree of Python code as nested lists, without docstrings, comments and layout."""
    return _plain(ast.parse(source))


def _plain(node: Any) -> Any:
    if isinstance(node, list):
        return [_plain(item) for item in node if not _is_docstring(item)]
    if isinstance(node, ast.AST):
        return [type(node).__name__, *_fields(node)]
    return repr(node)


def _fields(node: ast.AST) -> Iterator[Any]:
    """The fields that say something: newer Pythons add empty ones."""
    for name, value in ast.iter_fields(node):
        if value is not None and value != []:
            yield name, _plain(value)


def _is_docstring(node: Any) -> bool:
    """Whether it is a string that stands by itself, after a definition or an attribute."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _digest(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
