"""The bench: what it says follows from its clocks, and the reference is the published one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from v2ir.bench import (
    FULL_SIZE,
    PARTS,
    BenchSettings,
    Clock,
    Journal,
    Meter,
    Sample,
    Section,
    Workbench,
)
from v2ir.bench.floor import count_arithmetic, kind_of, matrix_rate
from v2ir.bench.machine import machine_facts, peak_memory, reset_peak
from v2ir.bench.pictures import draw_street, write_photographs
from v2ir.bench.pix2pix import contest, pipeline_architecture, save_pipeline_model
from v2ir.bench.reference import GUIDANCE, PublishedProcedure, combine
from v2ir.bench.scaling import time_workers
from v2ir.bench.speeds import count_evaluations, most_images
from v2ir.bench.stages import STAGES, StageClock
from v2ir.bench.timing import (
    Task,
    at_steps,
    interleave,
    least_ratio,
    median_seconds,
    paired_ratio,
)
from v2ir.bench.workbench import full_size_student
from v2ir.cli import app
from v2ir.cli.bench import show
from v2ir.errors import InputError, RunError, UnknownNameError
from v2ir.files import read_json
from v2ir.model import Guidance, Model, architecture, build_model, load_model
from v2ir.model.card import SpeedChoice
from v2ir.sampling import TranslateSettings, Translator, translate
from v2ir.sampling.annotators import Annotators
from v2ir.sampling.speeds import choose
from v2ir.sampling.translate import translate_jobs


class FakeClock(Clock):
    """Time passes only where a test says so; processor time runs at half its pace."""

    def __init__(self) -> None:
        self.now = 0.0

    def wall(self) -> float:
        return self.now

    def processor(self) -> float:
        return self.now / 2


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = build_model(
        architecture("tiny"),
        name="tiny",
        styles=("north",),
        resolution=64,
        multiple=16,
        captioner="statistics",
        segmenter="regions",
        speeds={
            "fast": SpeedChoice(solver="mean", steps=2),
            "one-step": SpeedChoice(solver="mean", steps=1),
        },
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Model:
    return load_model(tiny_folder)


@pytest.fixture
def bench(tiny_folder: Path, tmp_path: Path) -> Workbench:
    settings = BenchSettings(
        model=str(tiny_folder),
        size=64,
        images=2,
        repeats=1,
        reference_steps=1,
        sizes=(64,),
        speeds=("one-step",),
    )
    journal = Journal(tmp_path / "report", settings.deciding(), {"processor": "drawn"})
    return Workbench(settings, journal, Meter(Clock()), tmp_path / "work")


def seconds(*wall: float, images: int = 1) -> list[Sample]:
    return [Sample(value, value / 2, images) for value in wall]


# ---- arithmetic ---------------------------------------------------------------------


def test_ratios_are_medians_over_rounds_of_seconds_an_image():
    slow, fast = seconds(10, 12, 30), seconds(8, 4, 4, images=4)
    assert median_seconds(fast) == 1
    assert paired_ratio(slow, fast) == 12  # of 5, 12 and 30
    assert paired_ratio(slow, fast, "processor") == 12
    assert paired_ratio(slow, []) is None
    assert paired_ratio(slow[:1], fast) == 5  # only rounds with both
    assert least_ratio(slow, fast) == least_ratio(slow[::-1], fast) == 10  # of 10 and 1 a piece
    assert least_ratio(slow, []) is None
    assert least_ratio(slow, seconds(0)) is None


def test_scaled_steps_lie_on_the_line_through_both_points():
    # 3 s whatever the steps, and 0.5 s a step
    (scaled,) = at_steps(seconds(3 + 5), seconds(3 + 10), 10, 100)
    assert scaled.wall == pytest.approx(3 + 50)
    assert scaled.processor == pytest.approx((3 + 50) / 2)


def test_rounds_take_turns_and_start_with_another_task_each():
    clock, order = FakeClock(), []

    def work(name: str, duration: float):
        def run() -> None:
            order.append(name)
            clock.now += duration

        return run

    tasks = [Task(name, work(name, cost), 2) for name, cost in (("a", 6.0), ("b", 1.0))]
    tasks[1] = dataclasses.replace(tasks[1], warm_up=work("warm", 9), before=work("before", 9))
    told = []
    journal = Journal(None, {}, {})
    interleave(tasks, 3, journal, Meter(clock), progress=lambda *now: told.append(now))
    assert order == [*("a", "warm", "before", "b"), *("before", "b", "a"), *("a", "before", "b")]
    assert [sample.wall for sample in journal.samples("a")] == [6, 6, 6]
    assert [sample.processor for sample in journal.samples("b")] == [0.5, 0.5, 0.5]
    assert paired_ratio(journal.samples("a"), journal.samples("b")) == 6
    assert told == [(done, 6) for done in range(1, 7)]


def test_no_further_round_begins_when_time_is_over():
    clock, journal = FakeClock(), Journal(None, {}, {})
    asked = []

    def enough(spent: float) -> bool:
        asked.append(spent)
        return len(asked) == 2

    def run() -> None:
        clock.now += 3

    interleave([Task("a", run)], 9, journal, Meter(clock), enough)
    assert len(journal.samples("a")) == 2
    assert asked == [3, 3]


def test_the_time_of_a_stage_within_another_counts_once():
    clock = FakeClock()
    stages = StageClock(Meter(clock))
    with stages.stage("denoise"):
        clock.now += 5
        with stages.stage("encode"):
            clock.now += 2
        clock.now += 1
    assert stages.seconds == {"denoise": 6, "encode": 2}


# ---- the report ---------------------------------------------------------------------


def test_an_interruption_loses_no_sample_and_the_same_bench_goes_on(tmp_path):
    calls = itertools.count()

    def run() -> None:
        if next(calls) == 3:
            raise KeyboardInterrupt

    tasks = [Task("a", run), Task("b", run)]
    with pytest.raises(KeyboardInterrupt):
        interleave(tasks, 2, Journal(tmp_path, {"size": 1}, {}), Meter(Clock()))
    assert {k: len(v) for k, v in read_json(tmp_path / "bench.json")["samples"].items()} == {
        "a": 1,
        "b": 2,
    }
    journal = Journal(tmp_path, {"size": 1}, {})
    interleave(tasks, 2, journal, Meter(Clock()))
    assert next(calls) == 5  # only the missing one ran
    assert (len(journal.samples("a")), len(journal.samples("b"))) == (2, 2)
    before = (tmp_path / "bench.json").stat().st_mtime_ns
    again = Journal(tmp_path, {"size": 1}, {})
    interleave(tasks, 2, again, Meter(Clock()))
    assert not again.changed
    assert (tmp_path / "bench.json").stat().st_mtime_ns == before


def test_a_report_of_other_settings_or_another_machine_is_not_mixed_in(tmp_path):
    Journal(tmp_path, {"size": 1}, {"cores": 2}).add("a", Sample(1.0, 1.0))
    with pytest.raises(RunError, match="size 1 instead of 2"):
        Journal(tmp_path, {"size": 2}, {"cores": 2})
    with pytest.raises(RunError, match="machine"):
        Journal(tmp_path, {"size": 1}, {"cores": 4})
    assert Journal(tmp_path, {"size": 2}, {"cores": 4}, again=True).samples("a") == []


def test_sections_come_back_as_they_were(tmp_path):
    section = Section("floor", "a table", ("what", "s"), (("x", 1.5), ("y", None)), ("a note",))
    Journal(tmp_path, {}, {}).put(section)
    assert Journal(tmp_path, {}, {}).sections == [section]
    stored = read_json(tmp_path / "bench.json")["sections"]["floor"]
    assert stored["rows"] == [{"what": "x", "s": 1.5}, {"what": "y", "s": None}]


# ---- the reference ------------------------------------------------------------------


def test_the_reference_combines_as_released():
    rng = torch.Generator().manual_seed(0)
    none, mapped, seen, told = torch.randn(4, 1, 2, 3, 3, generator=rng)
    expected = -0.5 * none + 0.0 * mapped + (1.5 - 7.5) * seen + 7.5 * told
    torch.testing.assert_close(combine(none, mapped, seen, told), expected)


def test_the_reference_and_the_speeds_that_claim_it_make_the_same_picture(tiny, tmp_path):
    (path,) = write_photographs(tmp_path / "photos", 1, 72)
    sources = Annotators(captioner=_statistics(), segmenter=_regions())
    reference = PublishedProcedure(tiny, sources.captioner, sources.segmenter, 64, steps=5)
    reference([path], tmp_path / "reference")
    expected = np.asarray(Image.open(tmp_path / "reference" / "street_00000.png")).astype(int)
    assert expected.shape == (72, 72)
    assert expected.std() > 1
    for speed in ("reference", "exact"):
        settings = TranslateSettings(speed=speed, steps=5, guidance=GUIDANCE, resolution=64)
        translate(tmp_path / "photos", tmp_path / speed, Translator(tiny, settings), sources)
        made = np.asarray(Image.open(tmp_path / speed / "street_00000.png")).astype(int)
        assert abs(made - expected).max() <= 1, speed


def test_the_reference_needs_all_three_conditions():
    model = build_model(
        architecture("tiny"), name="blind", conditions=("text", "visible"), multiple=16
    )
    with pytest.raises(InputError, match="segmentation"):
        PublishedProcedure(model, None, None, 64)


def _statistics():
    from v2ir.annotation import make_captioner

    return make_captioner("statistics")


def _regions():
    from v2ir.annotation import make_segmenter

    return make_segmenter("regions")


@pytest.mark.parametrize(
    ("speed", "guidance", "expected"),
    [
        ("reference", GUIDANCE, 400),
        ("exact", GUIDANCE, 300),
        ("exact", Guidance(text=1, visible=1, segmentation=1), 100),
        ("exact", Guidance(text=7.5, visible=1.5, segmentation=2), 400),
        ("one-step", Guidance(text=1, visible=1, segmentation=1), 1),
    ],
)
def test_evaluations_are_counted(tiny, speed, guidance, expected):
    translator = Translator(tiny, TranslateSettings(speed=speed, guidance=guidance))
    assert count_evaluations(translator) == expected


# ---- against diffusers --------------------------------------------------------------


def test_diffusers_pipeline_and_ours_make_the_same_picture_of_one_folder(tmp_path, monkeypatch):
    """The contest is fair: at equal noise both sides compute the same."""
    from v2ir.sampling import solvers, translator

    sizes = pipeline_architecture(full_size=False)
    unet = {**architecture("tiny").unet, "in_channels": 8, "out_channels": 4}
    text = {**architecture("tiny").text_encoder, "vocab_size": 1000}
    sizes = sizes.model_copy(update={"unet": unet, "text_encoder": text})
    sides = contest(save_pipeline_model(tmp_path / "m", sizes), 4, 64, 2)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    for decoder in (sides.translator.model.autoencoder.decoder, sides.pipeline.vae.decoder):
        decoder.conv_out.weight.data.mul_(0.2)  # no value is clipped, in neither order
    # A solver without chance, so that only the first noise must be equal.
    monkeypatch.setattr(translator, "draw_noise", lambda *_: noise)
    sides.translator.solver = "euler"
    config = sides.translator.model.scheduler.config
    sides.pipeline.scheduler = solvers.make_scheduler("euler", config)
    pictures = [draw_street(seed, 64, 64)[0] for seed in range(2)]
    mine, theirs = sides.ours(pictures), sides.theirs(pictures, latents=noise.clone())
    for one, other in zip(mine, theirs, strict=True):
        assert one.std() > 0.001
        assert abs(one - other).max() < 1 / 255


# ---- the floor ----------------------------------------------------------------------


def test_the_multiply_adds_of_a_convolution_and_an_attention_are_exact():
    class Network(torch.nn.Module):
        """One convolution, one product of matrices and one attention of known size."""

        def __init__(self) -> None:
            super().__init__()
            self.convolution = torch.nn.Conv2d(8, 4, 3, padding=1, bias=False)
            self.linear = torch.nn.Linear(4, 4, bias=False)
            self.config = type("Config", (), {"in_channels": 8, "num_class_embeds": None})

        def forward(self, sample, timestep, encoder_hidden_states, class_labels):
            pixels = self.linear(self.convolution(sample).flatten(2).transpose(1, 2))[:, None]
            return torch.nn.functional.scaled_dot_product_attention(pixels, pixels, pixels)

    class Card:
        factor, text_length = 8, 2

    class Text:
        config = type("Config", (), {"hidden_size": 4})

    class Fake:
        unet, card, text_encoder = Network(), Card(), Text()
        device, dtype = torch.device("cpu"), torch.float32

    found = count_arithmetic(Fake(), 64)  # 8 x 8 = 64 latent pixels
    assert found.products["convolution"] == 64 * 8 * 4 * 9
    assert found.products["matrix product"] == 64 * 4 * 4
    assert found.products["attention"] == 2 * 64 * 64 * 4
    assert found.total == sum(found.products.values())


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::mkldnn_convolution", "convolution"),
        ("aten.convolution", "convolution"),
        ("aten::addmm", "matrix product"),
        ("aten::add", "sums and products"),
        ("aten::mul", "sums and products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::native_group_norm", "normalisation"),
        ("aten::silu", "activation"),
        ("aten::view", "other"),
    ],
)
def test_operators_are_of_one_kind(operator, kind):
    assert kind_of(operator) == kind


def test_the_matrix_rate_is_products_by_seconds():
    class Steady(FakeClock):
        def wall(self) -> float:
            self.now += 0.25
            return self.now

    assert matrix_rate(Meter(Steady()), torch.float32, 16) == 16**3 / 0.25


# ---- memory -------------------------------------------------------------------------


def test_the_peak_is_of_the_run_and_not_of_the_past():
    if not reset_peak():
        pytest.skip("this system cannot reset the peak")
    before = peak_memory()
    large = Meter(Clock())(lambda: np.ones(48 * 2**20, np.uint8).sum())
    small = Meter(Clock())(lambda: None)
    assert large.peak - before > 40 * 2**20
    assert large.peak - small.peak > 40 * 2**20


# ---- the parts and the verb ---------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(PARTS) - {"scaling", "instruct-pix2pix"}))
def test_every_part_gives_tables_and_measures_nothing_twice(bench, name, monkeypatch):
    sections = PARTS[name](bench, lambda *_: None)
    for section in sections:
        assert section.rows and section.title
        assert all(len(row) == len(section.columns) for row in section.rows)
        json.dumps(section.to_json())
    monkeypatch.setattr(bench.meter, "device", "no such device")  # whoever measures now fails
    assert PARTS[name](bench, lambda *_: None) == sections


def test_the_speeds_table_is_of_its_samples(bench):
    (section,) = PARTS["speeds"](bench, lambda *_: None)
    rows = {row["speed"]: row for row in section.to_json()["rows"]}
    assert list(rows) == ["reference", "one-step"]
    assert (rows["reference"]["evaluations"], rows["one-step"]["evaluations"]) == (400, 3)
    few, more = (bench.journal.samples(f"speeds/reference, {n} steps")[0] for n in (1, 2))
    if more.wall <= few.wall or more.processor <= few.processor:
        pytest.skip("on this busy machine two steps took no longer than one")
    assert rows["reference"]["ratio"] == rows["reference"]["CPU ratio"] == 1
    reference = more.wall + 98 * (more.wall - few.wall)
    (one,) = bench.journal.samples("speeds/one-step")
    assert one.images == rows["one-step"]["images"] == 2
    assert rows["reference"]["s/image"] == pytest.approx(reference)
    assert rows["one-step"]["ratio"] == pytest.approx(reference / (one.wall / 2))
    assert any(note.startswith("SCALED") for note in section.notes)


def test_what_differs_in_steps_alone_shares_its_network(bench):
    few, more, half = (
        bench.translator(speed="exact", steps=steps, precision=precision)
        for steps, precision in ((2, "float32"), (4, "float32"), (4, "bfloat16"))
    )
    assert (few.steps, few.plan.steps, more.steps, more.plan.steps) == (2, 2, 4, 4)
    assert few.model is more.model is not half.model
    assert bench.translator(speed="exact", precision="bfloat16").steps == 100


def test_each_number_format_has_a_line_of_its_own(tiny, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(Workbench, "compare", lambda self, tasks, *_: given.extend(tasks))
    settings = BenchSettings(speeds=("exact",), size=64, precisions=("float32", "bfloat16"))
    bench = Workbench(settings, Journal(None, {}, {}), Meter(Clock()), tmp_path, tiny)
    (section,) = PARTS["speeds"](bench, lambda *_: None)
    rows = [row["speed"] for row in section.to_json()["rows"]]
    assert rows == ["reference", "exact, float32", "exact, bfloat16"]
    assert len({task.name for task in given}) == 3
    with pytest.raises(UnknownNameError, match="int8"):
        BenchSettings(precisions=("int9",))


def test_the_least_times_go_before_a_disturbed_round(bench, monkeypatch):
    times = {
        "speeds/reference, 1 steps": 5.0,
        "speeds/reference, 2 steps": 7.0,
        "speeds/one-step": 2.0,
    }

    def measure(self, tasks, *_):
        for task in tasks:
            (sample,) = seconds(times[task.name], images=task.images)
            self.journal.add(task.name, sample)

    monkeypatch.setattr(Workbench, "compare", measure)
    (before,) = PARTS["speeds"](bench, lambda *_: None)
    ratio = before.to_json()["rows"][1]["least CPU"]
    assert ratio == pytest.approx((7 + 98 * 2) / (2 / 2))
    for name in times:
        times[name] *= 9
    (after,) = PARTS["speeds"](bench, lambda *_: None)
    assert after.to_json()["rows"][1]["least CPU"] == ratio


def test_the_student_at_full_size_is_its_teacher_with_folded_guidance_and_small_ways_in_and_out():
    teacher = build_model(architecture("tiny"), name="teacher", captioner=None)
    student = full_size_student(teacher)
    assert student.encoder is not None and student.decoder is not None
    assert teacher.encoder is None and teacher.decoder is None
    assert choose(student.card, "one-step").steps == 1
    assert not student.card.guidance_range.outside(teacher.card.guidance)
    weights = dict(student.unet.named_parameters())
    for name, weight in teacher.unet.named_parameters():
        assert weights[name].data_ptr() == weight.data_ptr(), name
    noisy, told = torch.randn(1, 12, 8, 8), torch.randn(1, 3, 16)
    scales = torch.zeros(1, student.unet.config.time_cond_proj_dim)
    with torch.no_grad():
        answer = student.unet(noisy, 5, told, timestep_cond=scales).sample
        torch.testing.assert_close(answer, teacher.unet(noisy, 5, told).sample)


def test_speeds_that_are_learned_are_those_of_the_student(tmp_path):
    teacher = build_model(architecture("tiny"), name="teacher", captioner=None)
    full_size_student(teacher).save(tmp_path / "student")
    settings = BenchSettings(model="tiny", student=str(tmp_path / "student"), size=64)
    journal = Journal(None, {}, {})
    bench = Workbench(settings, journal, Meter(Clock(), "cpu"), tmp_path, teacher)
    assert bench.translator(speed="exact").model.decoder is None
    one = bench.translator(speed="one-step")
    assert one.model.decoder is not None
    assert count_evaluations(one) == 1
    assert settings.deciding()["student"] == str(tmp_path / "student")


def test_a_run_at_full_size_makes_few_pictures():
    assert most_images(BenchSettings(images=8)) == 8
    assert most_images(BenchSettings(model=FULL_SIZE, images=8)) == 2
    assert most_images(BenchSettings(model=FULL_SIZE, images=1)) == 1


def test_a_batch_is_enough_to_warm_up(bench, monkeypatch):
    seen: list[int] = []

    def watched(jobs, translator, *rest):
        seen.append(len(jobs))
        return translate_jobs(jobs, translator, *rest)

    monkeypatch.setattr("v2ir.bench.workbench.translate_jobs", watched)
    task = bench.translation("warm", 3, speed="one-step", batch_size=2)
    task.warm_up()
    assert seen == [2]
    task.before()
    task.run()
    assert seen == [2, 3]


def test_stages_cover_the_work(bench):
    (section,) = PARTS["stages"](bench, lambda *_: None)
    column = {row[0]: row[1] for row in section.rows}
    assert set(column) == {*STAGES, "all"}
    assert all(column[stage] > 0 for stage in STAGES)
    assert column["all"] == pytest.approx(sum(column[stage] for stage in STAGES))


def test_settings_are_checked():
    with pytest.raises(UnknownNameError, match="one-step"):
        BenchSettings(speeds=("one-stepp",))
    with pytest.raises(InputError, match="positive"):
        BenchSettings(repeats=0)
    with pytest.raises(InputError, match="64 px"):
        BenchSettings(size=32)


def test_the_verb_measures_once_and_keeps(tiny_folder, tmp_path):
    report = tmp_path / "report"
    call = ["bench", "--model", str(tiny_folder), "--size", "64", "--speed", "one-step"]
    call += ["--reference-steps", "1", "--repeats", "2", "--images", "2", "--device", "cpu"]
    call += ["--report", str(report)]
    runner = CliRunner()
    dry = runner.invoke(app, [*call, "--dry-run"])
    assert dry.exit_code == 0 and not report.exists()
    assert "would measure speeds of one-step" in dry.output
    first = runner.invoke(app, call)
    assert first.exit_code == 0, first.output
    assert "one-step" in first.output and "SCALED" in first.output
    found = read_json(report / "bench.json")
    assert found["settings"]["size"] == 64
    assert found["machine"] == machine_facts("cpu")
    assert len(found["samples"]["speeds/one-step"]) == 2
    assert found["sections"]["speeds"]["rows"][1]["ratio"] > 0
    stamp = (report / "bench.json").stat().st_mtime_ns
    second = runner.invoke(app, call)
    assert second.exit_code == 0 and "kept as measured" in second.output
    assert (report / "bench.json").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    "wrong",
    [
        ["--speed", "exactly"],
        ["--against", "pix2pixhd"],
        ["--batch", "two"],
        ["--model", "nowhere", "--speed", "exact"],
        ["--device", "toaster"],
    ],
)
def test_wrong_use_is_refused(wrong, tmp_path):
    done = CliRunner().invoke(app, ["bench", "--report", str(tmp_path / "r"), *wrong])
    assert isinstance(done.exception, InputError | UnknownNameError)


@pytest.mark.parametrize(
    ("cell", "text"), [(None, "-"), (3, "3"), (0.01234, "0.0123"), (1234.5, "1234"), ("x", "x")]
)
def test_cells_are_short(cell, text):
    assert show(cell) == text


def test_workers_translate_their_shares_and_their_starts_are_not_counted(tiny_folder, tmp_path):
    settings = BenchSettings(model=str(tiny_folder), size=64, sizes=(64,))
    bench = Workbench(settings, Journal(None, {}, {}), Meter(Clock()), tmp_path / "work")
    jobs = bench.jobs(3, tmp_path / "out")
    began = time.perf_counter()
    seconds = time_workers(bench, "one-step", 2, jobs)
    assert 0 < seconds < time.perf_counter() - began
    assert all(job.output.is_file() for job in jobs)
