"""Serve the web demo.

pip install 'pndm[demo]'
python -m pndm.demo                                         # digits, on this machine alone
python -m pndm.demo --checkpoint FILE --architecture ddpm_cifar10
"""

import argparse
import os
import sys
from collections.abc import Sequence

from pndm._devices import resolve_device
from pndm._errors import PndmError, one_line
from pndm.demo.compare import (
    load_digits,
    load_model,
)
from pndm.demo.page import (
    LOOK,
    build,
)
from pndm.models.registry import ARCHITECTURES
from pndm.schedules import SCHEDULES


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the page until it is interrupted; SystemExit with one line if it cannot."""
    parser = argparse.ArgumentParser(
        "python -m pndm.demo", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for other machines to see it")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--checkpoint", help="a file of weights, or a name known to pndm.models")
    parser.add_argument("--architecture", choices=ARCHITECTURES, help="that of a file")
    parser.add_argument("--schedule", choices=SCHEDULES, help="what it was trained on (linear)")
    chosen = parser.parse_args(arguments)
    if chosen.checkpoint is None and (chosen.architecture or chosen.schedule):
        parser.error("--architecture and --schedule describe a --checkpoint, and there is none")
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}
    try:
        import gradio as gr
    except ImportError:
        sys.exit("error: the page is made with gradio: pip install 'pndm[demo]'")
    try:
        networks = (
            load_model(chosen.checkpoint, chosen.architecture, chosen.schedule)
            if chosen.checkpoint
            else load_digits()
        )
        device = resolve_device("auto")
        for model in networks.values():
            model.network.to(device)
        theme = gr.themes.Default(
            primary_hue="blue",
            neutral_hue="slate",
            font=["system-ui", "sans-serif"],
            font_mono=["monospace"],
        )
        print(f"http://{chosen.host}:{chosen.port} is the page, until Ctrl-C", flush=True)
        build(networks, device).launch(
            quiet=True,
            server_name=chosen.host,
            server_port=chosen.port,
            share=False,
            ssr_mode=False,
            footer_links=[],
            theme=theme,
            css=LOOK,
        )
    except PndmError as error:
        sys.exit(f"error: {one_line(error)}")


if __name__ == "__main__":
    main()
