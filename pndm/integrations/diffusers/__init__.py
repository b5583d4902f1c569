"""Every method of this package as a scheduler of diffusers, and a pipeline around it.

    from pndm.integrations.diffusers import PlanScheduler
    pipe.scheduler = PlanScheduler.from_config(pipe.scheduler.config, solver="plms")

`scheduler` runs plans row by row, `config` reads the settings of diffusers' schedulers, `pipeline`
samples from a UNet alone.
"""

from diffusers import SchedulerMixin

from pndm.integrations.diffusers.config import PREDICTIONS
from pndm.integrations.diffusers.pipeline import PNDMPipeline
from pndm.integrations.diffusers.scheduler import PlanScheduler

__all__ = ["PREDICTIONS", "PNDMPipeline", "PlanScheduler", "SchedulerMixin"]
# A saved pipeline names this module; diffusers looks in it for the class and for its base, too.
