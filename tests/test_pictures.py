"""Pictures: what is drawn is what was measured, what is kept comes back, and what is looked at is what the net does."""

import json
import math
import re
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import TransformerConfig
from lm.exits import Unusable
from lm.look import heads_taken_out, look
from lm.models import build
from lm.report.html import write_report
from lm.report.pictures import HeatMap, Lines, add_pictures, draw, from_json, read_pictures, to_json
from lm.report.svg import Series, standalone
from lm.types import Batch
from scripts.results import render, save, speed

EVIL = "</svg><script>alert(1)</script> & \"quoted\" 'text'"
MAP = HeatMap("Success", [[0.0, 0.5], [None, 1.0]], ["r 10", EVIL], ["300", "1,000"], "width", "samples", percent=True)
CLOUD = Lines(
    "Rates", (Series("a", [1, 10], [1e-3, 0.1]), Series("b", [100], [math.nan])), "x", "y", True, True, joined=False
)
PICTURES = {
    "map": MAP,
    "wide": HeatMap("Wide", np.eye(40).tolist(), high=1.0),
    "flat": HeatMap("Flat", [[0.0]]),
    "cloud": CLOUD,
    "interval": Lines("I", (Series("a", [0, 1], [0.1, 0.2], [0.0, 0.1], [0.2, 0.3]),), "x", "y", percent=True),
    "trained": Lines("T", (Series("a", [2, 5], [0.1, 0.2]),), "x", "y", shaded=(1, 3)),
}


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES.keys())
def test_a_picture_comes_back_and_is_drawn_the_same(picture):
    again = from_json(json.loads(json.dumps(to_json(picture), allow_nan=False)))
    assert draw(again) == draw(picture)
    assert type(again) is type(picture) and again.title == picture.title
    ElementTree.fromstring(standalone(draw(picture)))
    assert "nan" not in draw(picture) and "<script" not in draw(picture)


def test_a_heat_map_is_as_dark_as_its_values():
    drawn = draw(MAP)
    opacity = {title: float(dark) for dark, title in re.findall(r"fill-opacity:([\d.]+)\"><title>([^<]*)<", drawn)}
    assert list(opacity.values()) == [0.04, 0.52, 1.0], "one cell each, none where nothing was measured"
    assert [title.split(", ")[-1] for title in opacity] == ["300: 0", "1,000: 0.5", "1,000: 1"]
    assert re.findall(r">([\d.]+)</text>", drawn)[:3] == ["0", "50", "100"]
    scaled = draw(HeatMap("Scaled", [[1.0, 3.0]], low=1.0, high=5.0))
    assert re.findall(r"fill-opacity:([\d.]+)", scaled) == ["0.04", "0.52"]


def test_a_cloud_has_points_on_logarithmic_axes_and_no_line():
    drawn = draw(CLOUD)
    assert "<polyline" not in drawn and drawn.count("<circle") == 2


@pytest.mark.parametrize(
    "values,rows,columns", [([], [], []), ([[]], [], []), ([[1], [1, 2]], [], []), ([[1]], "ab", "")]
)
def test_a_map_that_is_no_rectangle_is_refused(values, rows, columns):
    with pytest.raises(ValueError, match="T: "):
        HeatMap("T", values, rows, columns)


def test_a_run_folder_keeps_pictures_by_section_and_shows_them(tmp_path):
    assert read_pictures(tmp_path) == {}
    add_pictures(tmp_path, EVIL, [MAP, CLOUD])
    add_pictures(tmp_path, "Heads", [PICTURES["flat"]])
    add_pictures(tmp_path, "Heads", [PICTURES["wide"]])
    assert {name: [p.title for p in found] for name, found in read_pictures(tmp_path).items()} == {
        EVIL: ["Success", "Rates"],
        "Heads": ["Wide"],
    }
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert page.count("<figure>") == 3 and "<script" not in page and "<h3>Wide</h3>" in page


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"a": [{}]}', '{"a": [{"kind": "HeatMap"}]}', '{"a": [{"kind": "Lines"}]}', '{"a": 3}']
)
def test_damaged_pictures_are_one_line(tmp_path, text):
    (tmp_path / "pictures.json").write_text(text)
    with pytest.raises(Unusable, match="does not hold pictures"):
        write_report(tmp_path)


def test_speed_stands_in_one_table():
    ratio = {
        "statement": "Training step, tiny, against torch==2.13.0, eager | compiled: ratio",
        "paper_value": "",
        "metric": "tiny_ratio",
        "measured": [1.5, 1.7],
        "value": 1.6,
        "bar": ">= 1.5",
        "passed": True,
    }
    memory = ratio | {
        "statement": "GiB a chip",
        "metric": "gib",
        "paper_value": "2.07",
        "measured": [2.5],
        "value": 2.5,
    }
    figures = {
        "tiny_ratio": [1.5, 1.7],
        "tiny_ratio_low": [1.4, 1.6],
        "tiny_ratio_high": [1.55, 1.8],
        "tiny_floor_ms": [100.0, 102.0, 90.0],
        "tiny_gap": [2.5],
    }
    results = [
        {"name": "speed_step", "claims": [ratio], "figures": figures},
        {"name": "majority_kernels", "claims": [ratio], "figures": figures},  # a paper, not a bench
        {"name": "plans", "claims": [memory | {"passed": False}], "figures": {"gib": [2.5]}},
    ]
    assert speed(results).splitlines()[-2:] == [
        "| `speed_step` | Training step, tiny: ratio | torch==2.13.0, eager \\| compiled | 1.6 (1.4 to 1.8) | >= 1.5 "
        "| holds | 100 ms | 2.5 x |",
        "| `plans` | GiB a chip | 2.07 | 2.5 | >= 1.5 | **missed** |  |  |",
    ]
    assert speed(results[1:2]) == ""


def test_results_have_their_pictures_beside_them(tmp_path):
    result = {"name": "toy", "paper": "Toy", "scale": "cpu", "claims": [], "figures": {}, "commit": "c" * 40}
    result |= {"command": "toy", "hardware": "an abacus", "versions": {"jax": "0"}, "date": "2026-01-01"}
    result |= {"wall_seconds": 1.0, "pictures": [to_json(MAP), to_json(CLOUD)]}
    save(result, tmp_path)
    save({**result, "pictures": [to_json(CLOUD)]}, tmp_path)
    assert [path.name for path in sorted((tmp_path / "results").glob("*.svg"))] == ["toy.cpu.1.svg"]
    assert "![Rates](results/toy.cpu.1.svg)" in render(tmp_path / "results")
    ElementTree.parse(tmp_path / "results" / "toy.cpu.1.svg")


def one_head_copies(config):
    """Return parameters of one layer of two heads of which the second alone matters, and a batch it gets right."""
    params = build(config).init(jax.random.key(0))
    params = jax.tree.map(lambda x: x, params)
    tokens_BL = jax.random.randint(jax.random.key(1), (64, 6), 0, config.vocabulary)
    output = params["blocks"]["attention"]["output"]
    output["kernel"] = output["kernel"].at[:, : config.width // 2].set(0)
    positions_BL = jnp.broadcast_to(jnp.arange(6), (64, 6))
    batch = Batch(tokens_BL, tokens_BL, jnp.ones((64, 6)), positions_BL, {})
    said_BL = jnp.argmax(build(config).apply(jax.tree.map(lambda x: x * 4, params), batch).logits, axis=-1)
    return jax.tree.map(lambda x: x * 4, params), batch._replace(targets=said_BL)


def test_the_head_that_does_nothing_is_worth_nothing():
    config = TransformerConfig(vocabulary=7, depth=1, width=16, heads=2)
    params, batch = one_head_copies(config)
    whole, lost_NH = heads_taken_out(config, params, batch)
    assert whole == 1 and lost_NH.shape == (1, 2)
    assert lost_NH[0, 0] == 0 and lost_NH[0, 1] > 0.05


def test_looking_gives_heads_probes_and_the_maps_of_the_heads_worth_most():
    config = TransformerConfig(vocabulary=7, depth=1, width=16, heads=2)
    params, batch = one_head_copies(config)
    found, pictures = look(config, params, batch, jax.random.key(2), lambda tokens: f"<{tokens[0]}>", maps=1)
    assert [len(found.probes), len(pictures)] == [2, 3]
    assert "head 2" in pictures[2].title
    rows = np.array(pictures[2].values)
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-5)
    assert not np.triu(rows, 1).any() and pictures[2].rows[0] == f"<{int(batch.inputs[0, 0])}>"


def test_a_transformer_that_reads_numbers_can_be_looked_into():
    config = TransformerConfig(vocabulary=2, depth=1, width=16, heads=2, inputs=3, tied=False)
    x_BLE = jax.random.normal(jax.random.key(0), (32, 5, 3))
    said_BL = (x_BLE[..., 0] > 0).astype(jnp.int32)
    batch = Batch(x_BLE, said_BL, jnp.ones((32, 5)), jnp.broadcast_to(jnp.arange(5), (32, 5)), {})
    found, pictures = look(config, build(config).init(jax.random.key(1)), batch, jax.random.key(2), str, maps=2)
    assert len(found.probes) == 2 and pictures[-1].rows == ["0", "1", "2", "3", "4"]
