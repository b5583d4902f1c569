"""Unconditional and class-conditional images from a UNet of diffusers alone."""

import inspect
import json
from collections.abc import Sequence
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from pndm._errors import InputError
from pndm.integrations.diffusers.scheduler import PlanScheduler

SAVED_NAME = "pndm.integrations.diffusers.PNDMPipeline"
"""What a saved pipeline says it is: diffusers has another class named PNDMPipeline."""


class PNDMPipeline(DiffusionPipeline):
    """Images from a UNet2DModel, by classes where it has them; another scheduler is taken over.

    The images are float32 between the evaluations of a UNet of half precision too.
    `DiffusionPipeline.from_pretrained` gives this class back where this module was imported, and
    otherwise names it in its error.
    """

    __module__ = "pndm.integrations.diffusers"

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: UNet2DModel, scheduler: Any) -> None:
        super().__init__()
        if unet is None:
            raise InputError("PNDMPipeline needs a unet: pass unet=UNet2DModel(...)")
        if "encoder_hidden_states" in inspect.signature(unet.forward).parameters:
            raise InputError(
                f"a {type(unet).__name__} needs prompts: give its own pipeline "
                "scheduler=PlanScheduler.from_config(...) instead"
            )
        if not isinstance(scheduler, PlanScheduler):
            scheduler = PlanScheduler.from_config(scheduler.config)
        self.register_modules(unet=unet, scheduler=scheduler)

    def to_json_string(self) -> str:
        """The parts as JSON, under the name that leads back to this class."""
        parts = json.loads(super().to_json_string())
        if type(self) is PNDMPipeline:
            parts["_class_name"] = SAVED_NAME
        return json.dumps(parts, indent=2, sort_keys=True) + "\n"

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: int = 50,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        class_labels: Tensor | Sequence[int] | int | None = None,
        height: int | None = None,
        width: int | None = None,
        eta: float = 0.0,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Images as "pil" (the default), "np" [B, H, W, C] in [0, 1] or "pt" [B, C, H, W].

        `class_labels` are one for all images or one for each. InputError where they are missing
        or superfluous, and where neither the UNet nor `height` and `width` say a size.
        """
        if output_type not in ("pil", "np", "pt"):
            raise InputError(f"output_type={output_type} does not exist: use pil, np or pt")
        channels = self.unet.config.in_channels
        shape = (batch_size, channels, *self._size(height, width))
        conditions = self._conditions(class_labels, batch_size)
        state = torch.promote_types(self.unet.dtype, torch.float32)
        x = randn_tensor(shape, generator, self._execution_device, state)
        self.scheduler.set_timesteps(num_inference_steps, device=x.device)
        for t in self.progress_bar(self.scheduler.timesteps):
            e = self.unet(x.to(self.unet.dtype), t, **conditions).sample
            if e.shape[1] == 2 * channels:
                e = e[:, :channels]  # the rest is a learned variance
            x = self.scheduler.step(e, t, x, eta=eta, generator=generator).prev_sample
        images: Any = (x / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).float().numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """The size that is asked for, or else the UNet's own."""
        own = self.unet.config.sample_size
        if own is None and (height is None or width is None):
            raise InputError("the unet's config has no sample_size: pass height= and width=")
        of_unet = (own, own) if own is None or isinstance(own, int) else tuple(own)
        return height or of_unet[0], width or of_unet[1]

    def _conditions(
        self, class_labels: Tensor | Sequence[int] | int | None, batch_size: int
    ) -> dict[str, Tensor]:
        """The class labels [B] as the UNet takes them."""
        config = self.unet.config
        has_classes = config.num_class_embeds is not None or config.class_embed_type is not None
        if has_classes != (class_labels is not None):
            raise InputError(
                "the unet is of classes: pass class_labels="
                if has_classes
                else "the unet has no classes: leave class_labels out"
            )
        if class_labels is None:
            return {}
        labels = torch.as_tensor(class_labels, device=self._execution_device)
        labels = labels.expand(batch_size) if labels.ndim == 0 or len(labels) == 1 else labels
        if len(labels) != batch_size:
            raise InputError(f"there are {len(labels)} class_labels for batch_size={batch_size}")
        return {"class_labels": labels}


setattr(diffusers, SAVED_NAME, PNDMPipeline)  # where DiffusionPipeline looks a saved name up
