"""The web demo: what it computes, without the page; then the page, in a real browser."""

import contextlib
import importlib
import io
import itertools
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
from typing import get_args

import pytest
import torch
from PIL import Image

import pndm
from pndm._errors import InputError
from pndm._files import sha256
from pndm.data import images
from pndm.demo.__main__ import main
from pndm.demo.compare import (
    DEFAULT_METHODS,
    FINE_STEPS,
    FRAMES,
    LEARNED,
    METHODS,
    THUMBNAIL,
    Method,
    Model,
    Setting,
    animate,
    compare,
    fine_solution,
    has_orders,
    label_columns,
    load_model,
    load_shipped,
    read_seeds,
    summary,
    thumbnail,
    tiles,
)
from pndm.models.registry import find
from pndm.schedules import Convention
from pndm.solvers import SOLVERS

QUICK = Setting("digits_linear", seeds="3-4", distance=False)


@pytest.fixture(scope="module")
def networks():
    return load_shipped()


@pytest.fixture(scope="module")
def page_module():
    """pndm.demo.page, which imports gradio."""
    pytest.importorskip("gradio", reason="needs gradio: pip install 'pndm[demo]'")
    return importlib.import_module("pndm.demo.page")


# What the page computes


def test_the_start_is_a_fair_comparison(networks):
    ddim, plms = compare(networks, DEFAULT_METHODS, Setting("digits_linear", seeds="0-3"))
    assert (ddim.name, plms.name) == ("ddim, 30 steps", "plms, 21 steps")
    assert ddim.nfe == plms.nfe == 30
    assert 0 < plms.distance < ddim.distance < 0.1
    assert ddim.seconds > 0 and plms.seconds > 0


def test_the_images_are_those_of_sample(networks):
    setting = QUICK._replace(network="digits_cosine", grid="karras", convention="diffusers")
    (result,) = compare(networks, [Method("s_pndm", 6)], setting)
    x_0 = pndm.sample(
        pndm.models.load("digits_cosine"),
        pndm.initial_noise([3, 4], (1, 8, 8)),
        solver=pndm.solvers.s_pndm(),
        schedule=pndm.schedules.cosine(convention="diffusers"),
        steps=6,
        grid="karras",
    )
    assert result.samples == images.grid(images.to_uint8(x_0), columns=2, scale=12)


def test_a_path_goes_from_the_noise_to_the_image(networks):
    (result,) = compare(networks, [Method("plms", 50)], QUICK)
    assert len(result.times) == FRAMES
    assert (result.times[0], result.times[-1]) == (980, -1)
    assert result.times == sorted(result.times, reverse=True)
    tile = 96 + 2
    strip = without_labels(result.strip)
    assert strip.size == (FRAMES * tile + 2, 2 * tile + 2)
    last = [cell(strip, FRAMES - 1, row) for row in (0, 1)]
    assert last[0] == last[1] == cell(result.samples, 0, 0)
    noise = pndm.initial_noise([3], (1, 8, 8))
    assert cell(strip, 0, 0) == cell(tiles(noise), 0, 0)

    moving = Image.open(io.BytesIO(result.animation))
    assert (moving.n_frames, moving.size) == (FRAMES, result.samples.size)
    moving.seek(FRAMES - 1)
    assert moving.convert("RGB").tobytes() == result.samples.tobytes()


def without_labels(strip):
    """The two rows of a strip, without the transparent band of labels above them."""
    rows = strip.crop((0, strip.height - 2 * 98 - 2, strip.width, strip.height))
    assert rows.getchannel("A").getextrema() == (255, 255)
    return rows.convert("RGB")


def cell(picture, column, row, tile=98):
    left, top = 2 + column * tile, 2 + row * tile
    return picture.crop((left, top, left + tile - 2, top + tile - 2))


def test_the_network_expects_the_image_of_a_single_step(networks):
    """DDIM in one step goes to what is expected."""
    (result,) = compare(networks, [Method("ddim", None)], QUICK._replace(times="999, -1"))
    assert result.name == "ddim, 1 step" and result.times == [999, -1]
    strip = without_labels(result.strip)
    assert cell(strip, 0, 1) == cell(strip, 1, 1)


def test_the_times_stand_above_the_strip(networks):
    """Each in its own column, on a transparent ground."""
    (result,) = compare(networks, [Method("ddim", None)], QUICK._replace(times="999, 12.34, -1"))
    band = result.strip.crop((0, 0, result.strip.width, result.strip.height - 198))
    assert band.getchannel("A").getextrema()[0] == 0
    expected = label_columns(without_labels(result.strip), ["t = 999", "t = 12.3", "the image"])
    assert result.strip == expected
    for i in range(3):
        left, top, right, bottom = band.crop((98 * i, 0, 98 * (i + 1), band.height)).getbbox()
        assert 0 < left < right < 98 and 0 < top < bottom < band.height


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("solver", [name for name in METHODS if name != LEARNED])
def test_every_method(networks, solver, steps):
    (result,) = compare(networks, [Method(solver, steps)], QUICK._replace(grid="trailing"))
    assert result.nfe == SOLVERS[solver]().nfe(steps)
    assert len(result.times) == steps + 1
    assert summary(solver)


def test_a_learned_plan_is_a_method(networks):
    """The shipped plan of the network, whatever the grid; refused where there is none."""
    setting = QUICK._replace(grid="karras")
    (result,) = compare(networks, [Method(LEARNED, 5)], setting)
    plan = pndm.plans.load("digits_linear-5")
    assert (result.name, result.nfe) == ("learned, 5 steps", 5)
    assert result.times == [node.time for node in plan.nodes]
    assert summary(LEARNED) and not has_orders(LEARNED)
    with pytest.raises(InputError, match="digits_linear have these numbers of steps: .*5"):
        compare(networks, [Method(LEARNED, 50)], setting)
    with pytest.raises(InputError, match="has its own times"):
        compare(networks, [Method(LEARNED, 5)], setting._replace(times="900, 0, -1"))
    with pytest.raises(InputError, match="another schedule"):
        compare(networks, [Method(LEARNED, 5)], setting._replace(convention="diffusers"))


def test_the_order_counts_where_there_is_a_choice(networks):
    methods = [Method("deis", 5, 2), Method("deis", 5, 3), Method("ddim", 5, 3), Method("ddim", 5)]
    two, three, ddim, same = compare(networks, methods, QUICK)
    assert (two.name, three.name) == ("deis, 5 steps, order 2", "deis, 5 steps, order 3")
    assert two.samples != three.samples
    assert ddim.samples == same.samples


def test_a_method_that_adds_noise_has_no_distance_but_seeds(networks, page_module):
    setting = QUICK._replace(distance=True)
    one, other = compare(networks, [Method("ddpm", 5)] * 2, setting)
    assert one.distance is other.distance is None
    assert one.samples == other.samples
    _, table, *_ = page_module.render([one, other])
    assert [line[0] for line in table] == ["ddpm, 5 steps"] * 2
    assert [line[1] for line in table] == ["5", "5"]
    assert [line[3] for line in table] == ["–", "–"]


def test_the_fine_solution_is_kept(networks):
    calls = []
    setting = QUICK._replace(seeds="77", distance=True)
    for _ in range(2):
        compare(networks, [Method("ddim", 10)], setting, lambda *call: calls.append(call))
    assert calls[FRAMES - 1] == ("the fine solution", 0, 2 * FINE_STEPS)
    assert fine_solution.cache_info().hits >= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "convention", "bound"),
    [
        *itertools.product(["digits_linear", "digits_cosine"], get_args(Convention), [4e-4]),
        ("fashion_linear", "aligned", 1.5e-3),
    ],
)
def test_the_fine_solution_is_fine(networks, name, convention, bound):
    """It lies where Heun's method at every time leads."""
    model = networks[name]
    schedule = model.build_schedule(convention)
    solver, x_T = pndm.solvers.heun(), model.initial_noise(range(2))
    whole = list(range(900, -2, -1))
    finest = pndm.sample(model.network, x_T, solver=solver, schedule=schedule, grid=whole)
    fine = fine_solution(model, schedule, (0, 1), 900, -1)
    assert (fine - finest).square().mean().sqrt() < bound


def test_large_images_are_shown_small():
    x = torch.rand(2, 3, 256, 256) * 2 - 1
    assert thumbnail(x).shape == (2, 3, THUMBNAIL, THUMBNAIL)
    assert tiles(x).size == (518, 260)
    assert len(animate([x, x])) < 100_000


def test_seeds():
    assert read_seeds("0-3, 7,9 - 9\n11") == (0, 1, 2, 3, 7, 9, 11)
    assert read_seeds("5 5") == (5, 5)


INVALID = {
    "no step": (Method("ddim", 0), {}, "steps is 0, but must be a whole number from 1 to 1000"),
    "too many steps": (Method("plms", 1001), {}, "steps is 1001"),
    "half a step": (Method("plms", 10.5), {}, "steps is 10.5"),
    "no number of steps": (Method("plms", None), {}, "plms: how many steps"),
    "order above steps": (Method("deis", 3, 4), {}, "deis of order 4 needs as many steps"),
    "an order that is not": (Method("unipc", 9, 4), {}, "order is 4, but must be 2 or 3"),
    "no inverse": (
        Method("ddim", 9),
        {"grid": "karras", "convention": "released"},
        "the released convention truncates times",
    ),
    "unsorted": (Method("ddim", 9), {"times": "900, 950, -1"}, "strictly descending"),
    "outside": (Method("ddim", 9), {"times": "1000, -1"}, r"outside \[-1, 999\]"),
    "no time": (Method("ddim", 9), {"times": "900, noon, -1"}, "times: 'noon' is no number"),
    "not a time": (Method("ddim", 9), {"times": "nan, -1"}, "strictly descending"),
    "no seed": (Method("ddim", 9), {"seeds": "one"}, "seeds: 'one' is no whole number"),
    "empty": (Method("ddim", 9), {"seeds": " "}, "seeds: '' is no whole number"),
    "negative": (Method("ddim", 9), {"seeds": "-1"}, "seeds: '-1' is no whole number"),
    "backwards": (Method("ddim", 9), {"seeds": "9-3"}, "ends before it begins"),
    "too large": (Method("ddim", 9), {"seeds": str(2**63)}, "seed 9223372036854775808"),
    "too many images": (Method("ddim", 9), {"seeds": "0-16"}, "17 images, but at most 16"),
    "far too many": (Method("ddim", 9), {"seeds": f"0-{10**18}"}, "at most 16"),
}


@pytest.mark.parametrize("case", INVALID)
def test_what_cannot_be_used_is_refused_before_anything_is_sampled(networks, case):
    method, changes, message = INVALID[case]
    calls = []
    with pytest.raises(InputError, match=message) as caught:
        compare(
            networks,
            [Method("ddim", 2), method],
            QUICK._replace(**changes),
            lambda *call: calls.append(call),
        )
    assert not calls and "\n" not in str(caught.value)


def test_an_error_is_one_line_and_no_html(page_module):
    shown = page_module.render_error(InputError("seeds: '<b>\n' is\nno number"))
    assert shown.message == "seeds: &#x27;&lt;b&gt; &#x27; is no number"
    assert not shown.print_exception


def test_a_bug_is_an_internal_error_with_a_traceback(page_module):
    shown = page_module.render_error(ValueError("shape (3,) of a <tensor>"))
    assert shown.message.startswith("internal error") and "shape" not in shown.message
    assert shown.print_exception


ORDERS = {"param_2": None, "param_5": None}
"""The usual orders; gradio's API has no default for an input whose value is None."""


@pytest.mark.slow
def test_a_bug_in_a_network(page_module, networks, capfd):
    """The caller sees an internal error; the terminal shows the traceback."""
    client = pytest.importorskip("gradio_client", reason="comes with gradio")

    def broken(x, t):
        raise ValueError("a bug <here>")

    network = type("Network", (), {"__call__": staticmethod(broken)})()
    network.arch = networks["digits_linear"].network.arch
    network.parameters = networks["digits_linear"].network.parameters
    network.provenance = networks["digits_linear"].network.provenance
    page = page_module.build({"broken": Model("broken", network, "linear")}, "cpu")
    _, url, _ = page.launch(quiet=True, prevent_thread_lock=True, ssr_mode=False)
    try:
        caller = client.Client(url, verbose=False)
        with pytest.raises(Exception, match="internal error") as caught:
            caller.predict(**ORDERS, api_name="/compare")
        assert "a bug" not in str(caught.value)
        errors = capfd.readouterr().err
        assert "in broken" in errors and "ValueError: a bug <here>" in errors
        with pytest.raises(Exception, match="17 images, but at most 16"):
            caller.predict(**ORDERS, param_8="0-16", api_name="/compare")
        assert "Traceback" not in capfd.readouterr().err
    finally:
        page.close()


def test_vp_has_one_convention(networks):
    model = Model("digits_vp", networks["digits_linear"].network, "vp")
    setting = QUICK._replace(network="digits_vp")
    (result,) = compare({"digits_vp": model}, [Method("ddim", 3)], setting)
    assert math.isfinite(result.seconds)
    with pytest.raises(ValueError, match="vp is continuous"):
        setting = setting._replace(convention="released")
        compare({"digits_vp": model}, [Method("ddim", 3)], setting)


# The command


def test_a_checkpoint_of_ones_own(tmp_path):
    shutil.copy(find("digits_cosine").path, tmp_path / "own.safetensors")
    path = str(tmp_path / "own.safetensors")
    own = load_model(path, "digits_cosine", "cosine")
    assert (own.name, own.schedule) == ("own", "cosine")
    assert load_model(path, "digits_cosine").schedule == "linear"
    assert load_model("digits_cosine").schedule == "cosine"
    (result,) = compare({"own": own}, [Method("ddim", 2)], QUICK._replace(network="own"))
    assert result.nfe == 2


def test_a_card_says_the_noise_and_what_is_predicted(tmp_path):
    card = json.loads(find("digits_linear").path.with_suffix(".json").read_text())
    path = shutil.copy(find("digits_linear").path, tmp_path / "own.safetensors")
    for more in ({"beta_end": 0.03}, {"prediction": "velocity"}):
        card |= more | {"sha256": sha256(path)}
        (tmp_path / "own.json").write_text(json.dumps(card))
        if "prediction" in more:
            with pytest.raises(InputError, match="predicts velocity: this page samples"):
                load_model(str(path), "digits_linear")
        else:
            schedule = load_model(str(path), "digits_linear").build_schedule("aligned")
            assert schedule == pndm.schedules.linear(beta_end=0.03)


def test_a_schedule_has_as_many_times_as_the_network_knows(networks):
    network = pndm.models.unet.UNet(pndm.models.registry.ARCHITECTURES["iddpm_cifar10"])
    assert Model("iddpm", network, "cosine").build_schedule("aligned").timesteps == 4000
    assert networks["digits_linear"].build_schedule("aligned") == pndm.schedules.linear()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--schedule", "cosine"], "describe a --checkpoint"),
        (["--checkpoint", "x", "--schedule", "sine"], "invalid choice"),
        (["--checkpoint", "x", "--architecture", "mine"], "invalid choice"),
        (["--port", "door"], "invalid int"),
    ],
)
def test_arguments_that_do_not_go_together(arguments, message):
    with pytest.raises(SystemExit, match=message) as caught:
        main(arguments)
    assert "\n" not in str(caught.value)


def test_without_gradio_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit, match=r"pip install 'pndm\[demo\]'"):
        main([])


@pytest.mark.parametrize(
    "checkpoint, message", [("none.ckpt", "no file"), ("ddpm_cifar10", "models fetch")]
)
def test_weights_that_are_not_there(checkpoint, message):
    pytest.importorskip("gradio", reason="needs gradio: pip install 'pndm[demo]'")
    with pytest.raises(SystemExit, match=message):
        main(["--checkpoint", checkpoint])


def test_a_port_that_is_taken():
    pytest.importorskip("gradio", reason="needs gradio: pip install 'pndm[demo]'")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(SystemExit, match=f"error: .*{port}"):
            main(["--port", port])


def test_a_port_that_does_not_exist():
    pytest.importorskip("gradio", reason="needs gradio: pip install 'pndm[demo]'")
    with pytest.raises(SystemExit, match="error: cannot serve on 127.0.0.1, port 99999"):
        main(["--port", "99999"])


# The page in a browser

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--window-size=1280,1800",
)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where the page is served, by its own process, whose output must have no traceback."""
    pytest.importorskip("gradio", reason="needs gradio: pip install 'pndm[demo]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("demo") / "log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "pndm.demo", "--port", str(port)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        give_up = time.monotonic() + 600
        while not answers(port):
            assert server.poll() is None and time.monotonic() < give_up, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)
    assert "Traceback" not in log.read_text()


def answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A headless Chromium that logs its requests."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        pytest.skip("needs chromium and chromedriver on the PATH (Debian: chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


VISIBLE = """
return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility())
"""


ERROR = "[data-testid=toast-text]"


class Page:
    """The page as a person uses it; what is read is read at once, as it may be drawn again."""

    def __init__(self, browser, address):
        self.browser = browser
        browser.get_log("performance")  # of the page before
        browser.get(address)
        self.wait_for("#compare")

    def texts(self, selector, what="e.innerText"):
        """The texts, or another property, of the visible elements of a selector."""
        return self.browser.execute_script(f"{VISIBLE}.map(e => {what})", selector)

    def wait_for(self, selector, ready=bool, what="e.innerText"):
        """The texts as soon as they are as wanted."""
        give_up = time.monotonic() + 600
        while not ready(values := self.texts(selector, what)):
            assert time.monotonic() < give_up, self.texts("body")
            time.sleep(0.1)
        return values

    def find(self, selector):
        (element,) = self.browser.execute_script(VISIBLE, selector)
        return element

    def choose(self, name, value):
        self.wait_for("[role=option]", lambda options: not options)  # of another list
        self.find(f"#{name} input").click()
        self.wait_for(f"[role=option][aria-label='{value}']")
        self.find(f"[role=option][aria-label='{value}']").click()

    def write(self, name, text):
        self.wait_for(f"#{name}")
        control, none, delete = "\ue009", "\ue000", "\ue017"
        field = self.find(f"#{name} input, #{name} textarea")
        field.send_keys(control, "a", none, delete, text)

    def compare(self):
        self.find("#compare").click()

    def results(self):
        """The names in the table, once all pictures are there."""
        self.wait_for("#results img", lambda w: len(w) == 6 and min(w) > 90, "e.naturalWidth")
        return self.numbers()[::4]

    def numbers(self):
        """The cells of the table."""
        return self.wait_for("#numbers [role=gridcell]", lambda cells: len(cells) == 8)

    def shows_error(self, message):
        """Whether the page says so in one line, and shows no results."""
        lines = self.wait_for(ERROR, lambda lines: any(message in line for line in lines))
        self.wait_for("#results img", lambda pictures: not pictures)
        return not any("\n" in line for line in lines)


@pytest.fixture
def page(chromium, address):
    return Page(chromium, address)


@pytest.mark.slow
def test_load_and_compare(page):
    assert page.texts("h1") == ["Two methods, one network, the same noise"]
    page.compare()
    assert page.results() == ["ddim, 30 steps", "plms, 21 steps"]
    assert page.texts("#results h3") == [
        "ddim, 30 steps: samples and path",
        "plms, 21 steps: samples and path",
        "ddim, 30 steps: the first image; below, what the network predicts",
        "plms, 21 steps: the first image; below, what the network predicts",
    ]
    assert page.texts("#results img", "e.alt") == [
        *["samples", "path from the noise"] * 2,
        *["strip"] * 2,
    ]
    _, nfe, _, far, _, same_nfe, _, near = page.numbers()
    assert nfe == same_nfe == "30"
    assert 0 < float(near) < float(far) < 0.1


@pytest.mark.slow
def test_another_method(page):
    assert not page.texts("#order-a")
    page.choose("solver-a", "deis")
    page.wait_for("#order-a")
    page.choose("order-a", "2")
    page.write("steps-a", "5")
    page.choose("solver-b", "unipc")
    page.choose("network", "digits_cosine, cosine")
    page.choose("grid", "uniform_lambda")
    page.write("seeds", "1, 2")
    page.compare()
    assert page.results() == ["deis, 5 steps, order 2", "unipc, 21 steps"]


@pytest.mark.slow
def test_wrong_values_are_shown_in_one_line_and_can_be_mended(page):
    page.choose("network", "digits_linear, linear")
    for name, right, wrong, message in (
        ("steps-a", "3", "0", "steps is 0, but must be a whole number from 1 to 1000"),
        ("steps-b", "3", "1001", "steps is 1001, but must be"),
        ("steps-b", "3", "", "plms: how many steps?"),
        ("seeds", "1", "one", "seeds: 'one' is no whole number"),
        ("seeds", "1", "0-99", "seeds: these are 100 images"),
    ):
        page.write(name, wrong)
        page.compare()
        assert page.shows_error(message)
        page.write(name, right)
    page.wait_for(ERROR, lambda lines: not lines)  # each leaves after some seconds
    page.compare()
    assert page.results() == ["ddim, 3 steps", "plms, 3 steps"]
    assert not page.texts(ERROR)
    page.write("seeds", "two")
    page.compare()
    assert page.shows_error("seeds: 'two' is no whole number")


@pytest.mark.slow
def test_wrong_values_that_depend_on_others(page):
    page.find("#more button").click()
    page.write("times", "100, 900, -1")
    page.compare()
    assert page.shows_error("strictly descending")
    page.write("times", "")
    page.choose("convention", "released")
    page.choose("grid", "karras")
    page.compare()
    assert page.shows_error("use grid=leading")
    page.choose("grid", "leading")
    page.choose("solver-a", "deis")
    page.wait_for("#order-a")
    page.choose("order-a", "4")
    page.write("steps-a", "3")
    page.compare()
    assert page.shows_error("deis of order 4 needs")
    assert "Traceback" not in page.browser.page_source


@pytest.mark.slow
def test_it_asks_no_other_machine(page):
    page.choose("network", "digits_linear, linear")
    page.compare()
    page.results()
    events = [
        json.loads(entry["message"])["message"] for entry in page.browser.get_log("performance")
    ]
    requests = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    web = [url for url in requests if url.startswith("http")]
    assert web and all(url.startswith("http://127.0.0.1:") for url in web)
    assert not [entry for entry in page.browser.get_log("browser") if entry["level"] == "SEVERE"]
