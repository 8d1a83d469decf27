"""Protocols that refuse, the nearest training image, slices, and the page."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from conftest import street
from v2ir.cli import app
from v2ir.errors import DataError, InputError, UnknownNameError
from v2ir.evaluation import METRICS
from v2ir.evaluation.cases import Knowledge, plan_comparison
from v2ir.evaluation.comparison import BRIGHT, DARK, Evaluation, Row, evaluate
from v2ir.evaluation.context import Selection, context_of_data
from v2ir.evaluation.nearest import NEAREST, build_gallery
from v2ir.evaluation.protocols import PROTOCOLS, Protocol
from v2ir.evaluation.protocols.choosing import context_of_protocol, protocol_of, refuse_other
from v2ir.evaluation.protocols.record import hash_of_names
from v2ir.evaluation.slices import with_slices
from v2ir.evaluation.statistics import measure_reference
from v2ir.evaluation.tables import intervals_of, ranking_table
from v2ir.files import write_jsonl
from v2ir.images import read_infrared, write_image
from v2ir.records import Scene


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write an indexed data set: four training and six test streets, two of them at night."""
    folder, scenes = tmp_path / "data", []
    for index in range(10):
        visible, infrared = street(index)
        name = f"street_{index}{'N' if index in (6, 8) else 'D'}"
        if name.endswith("N"):
            visible = visible // 8
        write_image(folder / "rgb" / f"{name}.png", visible)
        write_image(folder / "ir" / f"{name}.png", infrared)
        write_image(folder / "seg" / f"{name}.png", (infrared > 100).astype(np.uint8) * 255)
        split = "train" if index < 4 else "test"
        scenes.append(
            Scene(
                name,
                split,  # type: ignore[arg-type]
                f"group_{index // 2}",
                96,
                80,
                f"rgb/{name}.png",
                f"ir/{name}.png",
            )
        )
    write_jsonl(folder / "scenes.jsonl", (scene.to_json() for scene in scenes))
    return folder


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result.exit_code, result.output


def names_of(data: Path, split: str) -> frozenset[str]:
    rows = (json.loads(line) for line in (data / "scenes.jsonl").read_text().splitlines())
    return frozenset(row["name"] for row in rows if row["split"] == split)


# Protocols


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_has_its_own_hash_and_survives_json(name: str) -> None:
    protocol = protocol_of(name)
    assert protocol.name == name
    assert protocol.num_images and protocol.num_training
    assert [p.hash for p in PROTOCOLS.values()].count(protocol.hash) == 1
    assert json.loads(json.dumps(protocol.to_json()))["num_images"] == protocol.num_images


def test_the_hash_changes_with_whatever_changes_the_numbers() -> None:
    base = Protocol("p", "s")
    for change in (
        {"resize": (256, 256)},
        {"crop": "centre"},
        {"num_images": 3},
        {"seeds": (1,)},
        {"samples": 2},
        {"scores": (("psnr", 2),)},
        {"names_hash": "x"},
    ):
        assert dataclasses.replace(base, **change).hash != base.hash
    assert Protocol("p", "s").hash == base.hash


def test_protocols_refuse_other_counts_and_other_names(data: Path) -> None:
    right = Protocol(
        "p", "s", num_images=6, num_training=4, names_hash=hash_of_names(names_of(data, "test"))
    )
    assert context_of_protocol(right, data).selected == names_of(data, "test")
    for change, message in (
        ({"num_images": 650}, "does not have the images.*6, not 650"),
        ({"num_training": 3550}, "does not have the training pairs.*4, not 3550"),
        ({"names_hash": "0" * 64}, "other images"),
    ):
        with pytest.raises(DataError, match=message):
            context_of_protocol(dataclasses.replace(right, **change), data)
    with pytest.raises(UnknownNameError, match="m3fd-diffv2ir"):
        protocol_of("m3fd")


def test_lists_in_the_data_set_override_the_split_of_the_index(data: Path) -> None:
    protocol = Protocol("p", "s", num_images=2)
    (data / "test.txt").write_text("street_0D.png\nstreet_1D\n")
    (data / "train.txt").write_text("street_4D\n\n")
    context = context_of_protocol(protocol, data)
    assert context.selected == {"street_0D", "street_1D"}
    assert [image.path.stem for image in context.training] == ["street_4D"]
    (data / "train.txt").write_text("street_0D\n")
    with pytest.raises(DataError, match="two lists"):
        context_of_protocol(protocol, data)
    (data / "train.txt").write_text("street_99D\n")
    with pytest.raises(DataError, match=r"not in the data set.*street_99D"):
        context_of_protocol(protocol, data)


def test_a_protocol_s_size_and_crop_reach_the_numbers(data: Path) -> None:
    context = context_of_data(data, Selection())
    protocol = Protocol("p", "s", resize=(48, 48), crop="centre")
    result = evaluate(plan_comparison(data / "rgb", data, context, protocol))
    name = sorted(names_of(data, "test"))[0]
    pair = [protocol.prepared(read_infrared(data / part / f"{name}.png")) for part in ("rgb", "ir")]
    assert pair[0].shape == (48, 48)
    # 96x80 is cut to the middle 80 columns first: a stripe beyond them leaves no trace.
    striped = np.zeros((80, 96), np.float32)
    striped[:, :8] = 1
    assert protocol.prepared(striped).max() == 0
    found = result.values("prediction", "psnr")[name]
    assert found == pytest.approx(METRICS["psnr"].function(*pair))


def test_results_of_another_protocol_or_of_other_images_are_refused() -> None:
    protocol = Protocol("p", "s")
    own = {"protocol": {"name": "p", "hash": protocol.hash}, "names_hash": "n"}
    refuse_other(protocol, "n", own)
    with pytest.raises(InputError, match=r"another protocol.*q"):
        refuse_other(protocol, "n", {**own, "protocol": {"name": "q", "hash": "0" * 64}})
    with pytest.raises(InputError, match="other images"):
        refuse_other(protocol, "m", own)


def test_an_earlier_report_joins_the_table_only_under_its_protocol(
    data: Path, tmp_path: Path
) -> None:
    assert run(data / "rgb", data, "--report", tmp_path / "first")[0] == 0
    status, output = run(data / "ir", data, "--earlier", f"copy={tmp_path / 'first'}")
    assert status == 0
    rows = [re.search(rf"^ *{n} +(\S.*)$", output, re.MULTILINE) for n in ("copy", "grey")]
    assert rows[0] and rows[1] and rows[0].group(1) == rows[1].group(1)
    with pytest.raises(InputError, match="another protocol"):
        run(data / "ir", data, "--split", "all", "--earlier", f"copy={tmp_path / 'first'}")


# Baselines, slices, ranking


def test_the_nearest_training_image_is_that_of_the_most_similar_photograph(data: Path) -> None:
    context = context_of_data(data, Selection())
    gallery, failures = build_gallery(context.training)
    assert failures == []
    # A brighter copy of a training photograph finds its partner.
    copy = data.parent / "copy.png"
    visible, _ = street(2)
    write_image(copy, (visible * 0.7 + 60).astype(np.uint8))
    assert gallery.nearest(copy, None).stem == "street_2D"
    image = gallery.image(copy, None, (40, 50))
    assert image.shape == (40, 50)
    reference = measure_reference(context.training)[0]
    plan = plan_comparison(data / "rgb", data, context)
    result = evaluate(plan, Knowledge(reference, gallery))
    assert result.methods[-1] == NEAREST
    chosen = {p.stem for p in gallery.paths}
    assert chosen == {f"street_{i}D" for i in range(4)}
    for case in plan.cases:
        found = gallery.nearest(data / "rgb" / f"{case.name}.png", None)
        expected = METRICS["psnr"].function(read_infrared(found), read_infrared(case.truth))
        assert result.values(NEAREST, "psnr")[case.name] == pytest.approx(expected)


def test_dark_photographs_and_named_slices_have_their_own_means(data: Path) -> None:
    result = evaluate(plan_comparison(data / "rgb", data, context_of_data(data, Selection())))
    assert result.slices[DARK] == {"street_6N", "street_8N"}
    assert result.slices[DARK] | result.slices[BRIGHT] == names_of(data, "test")
    named = with_slices(result, {"night": "N$"})
    assert named.slices["night"] == result.slices[DARK]
    values = result.values("prediction", "psnr")
    expected = (values["street_6N"] + values["street_8N"]) / 2
    mean = named.mean("prediction", "psnr", names=named.slices["night"])
    assert mean == pytest.approx(expected)
    with pytest.raises(InputError, match="no image belongs"):
        with_slices(result, {"fog": "fog"})
    with pytest.raises(InputError, match="no regular expression"):
        with_slices(result, {"bad": "("})


def test_the_ranking_is_sorted_and_marks_first_and_second() -> None:
    rows = tuple(
        Row(str(i), "s", method, {"psnr": value + i, "ssim": 0.5})
        for method, value in (("a", 10.0), ("b", 30.0), ("c", 20.0))
        for i in range(3)
    )
    result = Evaluation(("a", "b", "c"), 3, rows)
    table = ranking_table(result, intervals_of(result))
    assert [name for name, _ in table.rows] == ["b", "c", "a"]
    first = [cells[0][0] for _, cells in table.rows]
    assert [(c.is_best, c.is_second) for c in first] == [
        (True, False), (False, True), (False, False),
    ]  # fmt: skip
    assert first[0].text.startswith("31.00 [30")
    # Equal values share the first place; none is second.
    assert all(cells[1][0].is_best and not cells[1][0].is_second for _, cells in table.rows)


# The page


class Page(html.parser.HTMLParser):
    """Collects what a browser would load, and checks that tags are closed in order."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            v or "" for k, v in attrs if k in {"src", "href", "srcset", "data", "poster"}
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture
def report(data: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "report"
    # A name that would be markup if it were not escaped.
    status, _ = run(
        data / "rgb", data, "--methods", f"<b>&x={data / 'ir'}", "--report", folder,
        "--features", "random-convolutions", "--slice", "night=N$",
    )  # fmt: skip
    assert status == 0
    return folder


def test_the_page_stands_alone_and_shows_everything(report: Path) -> None:
    text = (report / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert page.links and all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    assert "http" not in re.sub(r'"data:[^"]*"', "", text)
    assert "url(" not in text and "script" not in page.tags
    shown = " ".join(page.text)
    for expected in (
        "<b>&x",
        "Frechet distance (random-convolutions)",
        "real half against real half (3)",
        "nearest training image",
        "dark photograph (2)",
        "night (2)",
        "worst scene groups",
        "Grey levels of all pixels",
        "unnamed",
        "small sets (6 images",
    ):
        assert expected in shown, expected
    assert "FID" not in shown
    assert {"table", "svg", "img", "polygon"} <= set(page.tags)


def test_the_summary_carries_protocol_versions_intervals_and_sets(report: Path) -> None:
    values = json.loads((report / "summary.json").read_text())
    assert values["protocol"]["name"] == "unnamed"
    assert len(values["protocol"]["hash"]) == 64
    assert values["libraries"]["random-convolutions"] == "1"
    low, high = values["intervals"]["prediction"]["ssim"]
    assert low < values["means"]["prediction"]["all"]["ssim"] < high
    assert values["means"]["truth"]["all"]["grey correlation"] is not None
    assert [row["method"] for row in values["sets"]["scores"]][:2] == ["prediction", "<b>&x"]
    assert values["sets"]["scores"][1]["frechet"] == pytest.approx(0, abs=1e-6)


def test_the_page_opens_in_a_real_browser(report: Path, tmp_path: Path) -> None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")
    browser = next((path for name in names if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is installed")
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
            f"--user-data-dir={tmp_path / 'profile'}", (report / "report.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "nearest training image" in done.stdout
