"""Serve the web demo.

pip install 'pndm[demo]'
python -m pndm.demo                            # the shipped networks, on this machine alone
python -m pndm.demo --checkpoint FILE --architecture ddpm_cifar10
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from pndm._devices import resolve_device
from pndm._errors import InputError, Parser, PndmError, one_line, prepare_console
from pndm.demo.compare import load_model, load_shipped
from pndm.models.download import fetch
from pndm.models.registry import ARCHITECTURES, WEIGHTS
from pndm.runs.processes import without_proxy
from pndm.schedules import SCHEDULES


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the page until it is interrupted; SystemExit with one line if it cannot."""
    prepare_console()
    parser = Parser("python -m pndm.demo", description="Serve the web demo.")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: other machines see it too")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--checkpoint", help="a weight file, or a name known to pndm.models")
    parser.add_argument("--architecture", choices=ARCHITECTURES, help="of a weight file")
    parser.add_argument("--schedule", choices=SCHEDULES, help="it was trained on (linear)")
    options = parser.parse_args(arguments)
    if options.checkpoint is None and (options.architecture or options.schedule):
        parser.error("--architecture and --schedule describe a --checkpoint, and there is none")
    if find_spec("gradio") is None:
        sys.exit("error: the page is made with gradio: pip install 'pndm[demo]'")
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}
    os.environ |= without_proxy()  # gradio asks its own page whether it is there
    try:
        serve(options)
    except PndmError as error:
        sys.exit(f"error: {one_line(error)}")


def serve(options: argparse.Namespace) -> None:
    """Load the networks and serve the page; InputError for a port that cannot be used."""
    from pndm.demo.page import CSS, THEME, build

    if options.checkpoint in WEIGHTS:
        fetch(WEIGHTS[options.checkpoint])
    if options.checkpoint:
        model = load_model(options.checkpoint, options.architecture, options.schedule)
        networks = {model.name: model}
    else:
        networks = load_shipped()
    device = resolve_device("auto")
    for model in networks.values():
        model.network.to(device)
    page = build(networks, device)
    print(f"http://{options.host}:{options.port} is the page, until Ctrl-C", flush=True)
    try:
        page.launch(
            quiet=True,
            server_name=options.host,
            server_port=options.port,
            share=False,
            ssr_mode=False,
            footer_links=[],
            theme=THEME,
            css=CSS,
        )
    except (OSError, OverflowError) as error:
        message = f"cannot serve on {options.host}, port {options.port}; use another"
        raise InputError(message) from error


if __name__ == "__main__":
    main()
