"""A run on Weights & Biases, next to its record: optional, never fatal, the only user of wandb."""

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from pndm._files import make_folder

INIT_SECONDS = 5
"""How long the server may take to answer before the run is logged offline."""

ENVIRONMENT = {
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",  # which waits half a minute for a server that is silent
}
"""What wandb reads from the environment alone; the user's own values stay."""

SETTINGS: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "init_timeout": INIT_SECONDS,
    "finish_timeout": 60,  # seconds to upload at the end, for ever without it
    "finish_timeout_raises": True,
}
"""Settings of a run that the user's environment may overrule, as WANDB_CONSOLE does."""

NAMES = {"name": "WANDB_NAME", "group": "WANDB_RUN_GROUP"}
"""What a run is called, where the user's environment does not say it."""


class WandbLogger:
    """A W&B run for the length of a `with` block; whatever fails inside it is one warning.

    `mode` is online (falls back to offline), offline (`wandb sync` uploads it later) or disabled.
    """

    def __init__(self, mode: str, folder: Path, **settings: Any) -> None:
        self.mode, self.folder, self.settings = mode, folder, settings
        self.run: Any = None
        self._before: dict[str, str] = {}

    def __enter__(self) -> "WandbLogger":
        modes: dict[str, tuple[Literal["online", "offline"], ...]]
        modes = {"online": ("online", "offline"), "offline": ("offline",)}
        self._before = _of_wandb()
        for mode in modes.get(self.mode, ()):
            if self.run is None:
                self.run = self._try(partial(self._start, mode))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.run is not None:
            self._try(lambda: self.run.finish(exit_code=0 if kind is None else 1))
        for name in _of_wandb():
            del os.environ[name]
        os.environ |= self._before

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Add these to the run's history and summary."""
        if self.run is not None:
            self._try(lambda: self.run.log(dict(metrics)))

    def image(self, name: str, path: Path) -> None:
        """Add a picture."""
        if self.run is not None:
            import wandb

            self._try(lambda: self.run.log({name: wandb.Image(str(path))}))

    def table(self, name: str, seeds: Sequence[int], images: Iterable[np.ndarray]) -> None:
        """Add a table of images, uint8 [C, H, W], by their seeds."""
        if self.run is not None:
            import wandb

            def table() -> Any:
                pairs = zip(seeds, images, strict=False)
                rows = [[seed, wandb.Image(image.transpose(1, 2, 0))] for seed, image in pairs]
                return wandb.Table(columns=["seed", "image"], data=rows)

            self._try(lambda: self.run.log({name: table()}))

    @property
    def sync(self) -> str | None:
        """The command that uploads an offline run."""
        if self.run is None or not self.run.settings.mode.startswith("offline"):
            return None
        folder = Path(self.run.dir).parent
        return f"wandb sync {os.path.relpath(folder)}"

    def _start(self, mode: Literal["online", "offline"]) -> Any:
        data = self.folder.resolve() / "wandb"  # not the user's home
        os.environ |= {**ENVIRONMENT, "WANDB_DATA_DIR": str(data), **os.environ}
        import wandb

        make_folder(self.folder)
        place = os.environ.get("WANDB_DIR") or str(self.folder)
        own = {k: v for k, v in SETTINGS.items() if f"WANDB_{k.upper()}" not in self._before}
        named = {k: v for k, v in self.settings.items() if NAMES.get(k) not in self._before}
        return wandb.init(mode=mode, dir=place, settings=wandb.Settings(**own), **named)

    def _try(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # logging must never end a run, whatever wandb raises
            reason = " ".join(str(error).split())[:200]
            warnings.warn(f"W&B ({self.mode}) failed, the run goes on: {reason}", stacklevel=3)
            return None


def _of_wandb() -> dict[str, str]:
    """The environment variables of wandb, its own ones of a running process too."""
    return {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
