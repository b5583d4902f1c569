"""The identity of a run: two pure functions.

`image_key` is a hash of everything that determines an image, `run_name` adds what determines the
record: the number of images, and the extractor and reference of the FID. The code is part of both;
it is compared as a syntax tree, so comments, docstrings and layout do not matter.
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
from pndm import learned
from pndm.config.build import solver_code
from pndm.config.schema import Run

NOT_HASHED = (
    *("batch_size", "compile", "device", "fetch", "processes", "progress"),
    *("outputs", "overwrite", "save_images", "wandb"),
)
"""Settings of how a run is executed, which do not change its result."""

OF_RECORD = ("samples", "fid", "kid", "prc")
"""Settings of the record alone: runs that differ only in these share their images."""

IMAGE_CODE = (
    *pndm.METHOD,
    *("models", "data/images", "config/build", "runs/network", "runs/batches"),
)
"""Modules and packages that determine an image, given its configuration and weights."""

MEASURE_CODE = ("data", "evaluation", "runs/measure")
"""Modules and packages that determine an FID, given the images."""


def image_key(cfg: Run, weights: str) -> str:
    """Hash what determines an image: settings, weights, code; not the number of images.

    A learned plan counts by its numbers, not by its file.
    """
    settings = {
        key: value
        for key, value in dataclasses.asdict(cfg).items()
        if key not in (*NOT_HASHED, *OF_RECORD)
    }
    settings["dataset"] = cfg.dataset.name
    del settings["override"]
    if settings.pop("plan") is not None:
        settings["solver"] = {"plan": learned.read(str(cfg.plan)).digest}
    return _digest(settings, weights, code_hash(IMAGE_CODE), _own_code(cfg))


def _own_code(cfg: Run) -> Any:
    """The syntax of a user-defined solver; None for the package's own solvers."""
    source = solver_code(cfg.solver)
    return None if source is None else syntax(source)


def run_name(cfg: Run, weights: str, evaluation: list[str | None] | None) -> str:
    """Return plms-50-0123456789ab: solver, steps, and a hash of what determines the record.

    `evaluation` hashes the extractor and reference (`pndm.evaluation.reference.evaluation_hash`),
    None with fid=off.
    """
    record = [getattr(cfg, key) for key in OF_RECORD]
    measurement = (code_hash(MEASURE_CODE), cfg.dataset.extractor, evaluation)
    digest = _digest(image_key(cfg, weights), record, measurement)
    return f"{cfg.solver['name']}-{cfg.steps}-{digest[:12]}"


@cache
def code_hash(modules: tuple[str, ...] = IMAGE_CODE + MEASURE_CODE) -> str:
    """Hash the paths and the `syntax_hash` of modules and packages below `pndm`."""
    folder, content = Path(__file__).parents[1], []
    for module in modules:
        paths = [(folder / module).with_suffix(".py"), *sorted((folder / module).rglob("*.py"))]
        content += [
            (path.relative_to(folder).as_posix(), syntax_hash(path.read_text(encoding="utf-8")))
            for path in paths
            if path.is_file()
        ]
    return _digest(content)[:16]


@cache
def syntax_hash(source: str) -> str:
    """Hash the `syntax` of Python code, once for all hashes that it is part of."""
    return _digest(syntax(source))


def syntax(source: str) -> list[Any]:
    """Return the syntax tree of Python code as nested lists, without docstrings and layout."""
    return _plain(ast.parse(source))


def _plain(node: Any) -> Any:
    if isinstance(node, list):
        return [_plain(item) for item in node if not _is_docstring(item)]
    if isinstance(node, ast.AST):
        return [type(node).__name__, *_fields(node)]
    return repr(node)


def _fields(node: ast.AST) -> Iterator[Any]:
    """The non-empty fields: newer Python versions add empty ones."""
    for name, value in ast.iter_fields(node):
        if value is not None and value != []:
            yield name, _plain(value)


def _is_docstring(node: Any) -> bool:
    """Whether a node is a string expression statement, as docstrings are."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _digest(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
