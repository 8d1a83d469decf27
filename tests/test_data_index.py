"""Indexing: which scenes are found, what is written, what stays."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from v2ir.cli import app
from v2ir.data import LAYOUTS, STYLE_RULES, SplitRule, index, load_scenes
from v2ir.errors import DataError, UnknownNameError
from v2ir.records import Scene

MakePairs = Callable[..., Path]


def save(path: Path, seed: int = 0, size: tuple[int, int] = (48, 40)) -> Path:
    """Write a random smooth image, different for every seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (9, 9), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return time and content of every file, to see whether anything was touched."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def by_name(scenes: list[Scene]) -> dict[str, Scene]:
    return {scene.name: scene for scene in scenes}


def test_a_pair_is_indexed_with_hashes_and_size(tmp_path: Path) -> None:
    visible = save(tmp_path / "rgb" / "a.png", 1, (48, 40))
    infrared = save(tmp_path / "ir" / "a.jpg", 2, (48, 40))
    report = index(tmp_path, style="boson")
    assert report.changed
    assert report.failures == ()
    (scene,) = load_scenes(tmp_path)
    assert scene == Scene(
        name="a",
        split="train",
        group="a",
        width=48,
        height=40,
        visible="rgb/a.png",
        infrared="ir/a.jpg",
        visible_hash=hashlib.sha256(visible.read_bytes()).hexdigest(),
        infrared_hash=hashlib.sha256(infrared.read_bytes()).hexdigest(),
        style="boson",
    )


def test_nested_folders_are_part_of_the_name(tmp_path: Path) -> None:
    save(tmp_path / "rgb" / "day" / "s.1.png")
    save(tmp_path / "ir" / "day" / "s.1.tiff", 1)
    save(tmp_path / "ir" / "night" / "s.1.png", 2)
    index(tmp_path, style=STYLE_RULES["folder"])
    scenes = by_name(load_scenes(tmp_path))
    assert scenes.keys() == {"day/s.1", "night/s.1"}
    assert scenes["day/s.1"].is_pair
    assert scenes["night/s.1"].visible is None
    assert {scene.style for scene in scenes.values()} == {"day", "night"}


@pytest.mark.parametrize("kind", ["rgb", "ir"])
def test_one_side_alone_is_a_data_set(tmp_path: Path, kind: str) -> None:
    save(tmp_path / kind / "x.png")
    index(tmp_path)
    (scene,) = load_scenes(tmp_path)
    assert (scene.visible is not None) == (kind == "rgb")
    assert (scene.infrared is not None) == (kind == "ir")


def test_indexing_again_changes_no_file(make_pairs: MakePairs) -> None:
    data = make_pairs(5)
    assert index(data).changed
    before = snapshot(data)
    report = index(data)
    assert not report.changed
    assert report.kept == 5
    assert snapshot(data) == before


def test_a_dry_run_writes_nothing(make_pairs: MakePairs, tmp_path: Path) -> None:
    data = make_pairs(2)
    report = index(tmp_path / "light", source=data, dry_run=True)
    assert report.changed
    assert len(report.scenes) == 2
    assert not (tmp_path / "light").exists()
    assert not (data / "scenes.jsonl").exists()


def test_a_dry_run_tells_what_the_real_run_writes(make_pairs: MakePairs, tmp_path: Path) -> None:
    data = make_pairs(3)
    told = index(tmp_path / "light", source=data, dry_run=True).scenes
    assert list(told) == list(index(tmp_path / "light", source=data).scenes)


def test_unreadable_files_are_listed_and_the_rest_is_indexed(make_pairs: MakePairs) -> None:
    data = make_pairs(3)
    cut = data / "rgb" / "street_00.png"
    cut.write_bytes(cut.read_bytes()[:-200])
    (data / "ir" / "street_01.png").write_text("not an image")
    report = index(data)
    failed = dict(report.failures)
    assert failed.keys() == {str(cut), str(data / "ir" / "street_01.png")}
    assert all(path not in reason for path, reason in failed.items())
    scenes = by_name(load_scenes(data))
    assert scenes["street_00"].visible is None
    assert scenes["street_01"].infrared is None
    assert scenes["street_02"].is_pair


def test_two_files_of_one_stem_are_told(tmp_path: Path) -> None:
    save(tmp_path / "ir" / "a.jpg")
    save(tmp_path / "ir" / "a.png")
    ((path, reason),) = index(tmp_path).failures
    assert path.endswith("a.png")
    assert "a.jpg" in reason
    assert len(load_scenes(tmp_path)) == 1


def test_a_light_data_set_links_and_leaves_the_source_alone(
    make_pairs: MakePairs, tmp_path: Path
) -> None:
    source, light = make_pairs(2), tmp_path / "light"
    save(source / "seg" / "street_00.png")
    (source / "captions").mkdir()
    (source / "captions" / "street_00.txt").write_text("a street")
    (source / "captions.jsonl").write_text('{"name": "street_01", "caption": "a road"}\n')
    before = snapshot(source)
    index(light, source=source)
    assert snapshot(source) == before
    link = light / "rgb" / "street_00.png"
    assert link.is_symlink()
    assert link.readlink().is_absolute()
    assert link.read_bytes() == (source / "rgb" / "street_00.png").read_bytes()
    assert (light / "seg" / "street_00.png").is_symlink()
    assert (light / "captions" / "street_00.txt").read_text() == "a street"
    assert "a road" in (light / "captions.jsonl").read_text()
    written = snapshot(light)
    assert not index(light, source=source).changed
    assert snapshot(light) == written


def test_own_maps_of_a_light_data_set_stay(make_pairs: MakePairs, tmp_path: Path) -> None:
    source, light = make_pairs(1), tmp_path / "light"
    index(light, source=source)
    own = save(light / "seg" / "street_00.png", 7)
    save(source / "seg" / "street_00.png", 8)
    content = own.read_bytes()
    index(light, source=source)
    assert own.read_bytes() == content
    assert not own.is_symlink()


def test_two_sources_become_one_data_set(make_pairs: MakePairs, tmp_path: Path) -> None:
    light, alone = tmp_path / "light", tmp_path / "alone"
    for number in range(3):
        save(alone / f"hit_uav_{number}.png", 50 + number)
    index(light, source=make_pairs(3), style="street")
    index(light, source=alone, layout="infrared", style=STYLE_RULES["prefix"])
    scenes = load_scenes(light)
    assert [scene.name for scene in scenes] == sorted(scene.name for scene in scenes)
    assert {(scene.style, scene.is_pair) for scene in scenes} == {("street", True), ("hit", False)}
    before = snapshot(light)
    index(light, source=alone, layout="infrared", style=STYLE_RULES["prefix"])
    assert snapshot(light) == before


@pytest.mark.parametrize("layout", ["infrared", "visible"])
def test_an_equal_name_from_two_sources_is_refused(
    make_pairs: MakePairs, tmp_path: Path, layout: str
) -> None:
    light, alone = tmp_path / "light", tmp_path / "alone"
    index(light, source=make_pairs(1))
    save(alone / "street_00.png", 9)
    before = snapshot(light)
    with pytest.raises(DataError, match="a name that"):
        index(light, source=alone, layout=layout)
    assert snapshot(light) == before


def test_halves_of_two_sources_do_not_become_a_pair(tmp_path: Path) -> None:
    save(tmp_path / "one" / "a.png", 1)
    save(tmp_path / "two" / "a.png", 2)
    index(tmp_path / "light", source=tmp_path / "one", layout="visible")
    with pytest.raises(DataError, match="a name that"):
        index(tmp_path / "light", source=tmp_path / "two", layout="infrared")


def test_a_source_within_the_data_set_is_refused(make_pairs: MakePairs) -> None:
    data = make_pairs(1)
    with pytest.raises(DataError, match="lie in each other"):
        index(data / "light", source=data)


def test_scenes_that_vanish_leave_the_index(make_pairs: MakePairs, tmp_path: Path) -> None:
    source, light = make_pairs(3), tmp_path / "light"
    index(light, source=source)
    for kind in ("rgb", "ir"):
        (source / kind / "street_01.png").unlink()
    report = index(light, source=source)
    assert report.dropped == ("street_01",)
    assert by_name(load_scenes(light)).keys() == {"street_00", "street_02"}


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_every_layout_refuses_an_empty_folder_with_a_cure(tmp_path: Path, layout: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="to do"):
        LAYOUTS[layout](tmp_path / "empty")


def test_a_flat_folder_is_pointed_to_its_layout(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    with pytest.raises(DataError, match="--layout infrared"):
        index(tmp_path)
    with pytest.raises(DataError, match="--into"):
        index(tmp_path, layout="infrared")


def test_an_unknown_layout_lists_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean folders"):
        index(tmp_path, layout="folder")


class TestTable:
    def test_the_table_gives_group_split_style_and_alignment(self, make_pairs: MakePairs) -> None:
        data = make_pairs(3)
        (data / "scenes.csv").write_text(
            "name,source,scene,split,alignment,width\n"
            "street_00.png,flir,g1,test,strict,1\n"
            "street_01,flir,g1,,near,1\n"
            "street_02,lynred,g2,validation,,1\n"
        )
        index(data)
        scenes = by_name(load_scenes(data))
        told = {n: (s.style, s.group, s.split, s.alignment) for n, s in scenes.items()}
        assert told == {
            "street_00": ("flir", "g1", "test", "strict"),
            "street_01": ("flir", "g1", "test", "near"),  # its group's split
            "street_02": ("lynred", "g2", "val", None),
        }

    def test_a_group_in_two_splits_is_refused(self, make_pairs: MakePairs, tmp_path: Path) -> None:
        table = tmp_path / "t.csv"
        table.write_text("name,group,split\nstreet_00,g,train\nstreet_01,g,test\n")
        with pytest.raises(DataError, match="scene group g into two splits"):
            index(make_pairs(2), groups=table)

    def test_splits_without_groups_stand_and_do_not_share_groups(
        self, make_pairs: MakePairs
    ) -> None:
        data = make_pairs(4)
        (data / "scenes.csv").write_text(
            "name,split\nstreet_00,train\nstreet_01,test\nstreet_02,train\nstreet_03,test\n"
        )
        index(data)
        scenes = load_scenes(data)
        assert [scene.split for scene in scenes] == ["train", "test", "train", "test"]
        groups = {
            split: {s.group for s in scenes if s.split == split} for split in ("train", "test")
        }
        assert not groups["train"] & groups["test"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("file,split\nstreet_00,train\n", "no column `name`"),
            ("name,split\nstreet_00,tset\n", "split that does not exist"),
            ("name,group\nstreet_00,a\nstreet_00,b\n", "twice"),
            ("name,group\nroad_7,a\n", "names none of the scenes"),
        ],
    )
    def test_a_wrong_table_is_told(self, make_pairs: MakePairs, text: str, message: str) -> None:
        data = make_pairs(1)
        (data / "scenes.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            index(data)

    def test_a_random_split_asked_by_name_overrides_the_table(
        self, make_pairs: MakePairs, caplog: pytest.LogCaptureFixture
    ) -> None:
        data = make_pairs(4)
        rows = "".join(f"street_{n:02d},g,test\n" for n in range(4))
        (data / "scenes.csv").write_text(f"name,group,split\n{rows}")
        index(data, split=SplitRule(by="random", val=0.25, test=0.25))
        scenes = load_scenes(data)
        assert sorted(s.split for s in scenes) == ["test", "train", "train", "val"]
        assert "45.89" in caplog.text


class TestSeeds:
    def test_seeds_are_list_and_order(self, make_pairs: MakePairs) -> None:
        data = make_pairs(4)
        (data / "seeds.json").write_text(json.dumps([["street_03.png"], ["street_01.jpg"]]))
        index(data)
        assert [scene.name for scene in load_scenes(data)] == ["street_03", "street_01"]
        (data / "seeds.json").write_text(json.dumps([["street_01.png"]]))
        assert [scene.name for scene in load_scenes(data)] == ["street_01"]

    def test_a_name_that_was_not_indexed_is_told(self, make_pairs: MakePairs) -> None:
        data = make_pairs(2)
        index(data)
        (data / "seeds.json").write_text(json.dumps([["street_00.png"], ["gone.png"]]))
        with pytest.raises(DataError, match=r"gone.*v2ir index"):
            load_scenes(data)
        ((where, _),) = index(data).failures
        assert "gone" in where

    def test_the_published_split_cuts_the_list(self, tmp_path: Path) -> None:
        names = [f"f{n:02d}" for n in range(20)]
        for number, name in enumerate(names):
            save(tmp_path / "ir" / f"{name}.png", number, (16, 16))
        shuffled = names[::-1]
        (tmp_path / "seeds.json").write_text(json.dumps([[f"{name}.png"] for name in shuffled]))
        index(tmp_path, split=SplitRule(by="list"))
        scenes = load_scenes(tmp_path)
        assert [s.name for s in scenes] == shuffled
        assert [s.split for s in scenes] == ["train"] * 18 + ["val", "test"]

    @pytest.mark.parametrize("text", ["{}", "[[1]]", "[[]]", "no json"])
    def test_other_contents_are_refused(self, make_pairs: MakePairs, text: str) -> None:
        data = make_pairs(1)
        (data / "seeds.json").write_text(text)
        with pytest.raises(DataError, match=r"seeds\.json"):
            index(data)


class TestLoading:
    def test_a_folder_without_index_names_the_cure(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=f"v2ir index {tmp_path}"):
            load_scenes(tmp_path)

    @pytest.mark.parametrize("row", ['{"name": "a"}', '{"name": "a", "split": "x"}'])
    def test_a_row_that_is_no_scene_is_told(self, tmp_path: Path, row: str) -> None:
        (tmp_path / "scenes.jsonl").write_text(row + "\n")
        with pytest.raises(DataError, match="not a scene"):
            load_scenes(tmp_path)

    def test_a_wrong_split_is_told(self, make_pairs: MakePairs) -> None:
        data = make_pairs(1)
        path = index(data).path
        path.write_text(path.read_text().replace('"train"', '"trian"'))
        with pytest.raises(DataError, match="trian"):
            load_scenes(data)


class TestKeptSplits:
    def test_new_scenes_do_not_move_known_ones(self, tmp_path: Path) -> None:
        rule = SplitRule(by="random", val=0.2, test=0.3)
        for number in range(20):
            save(tmp_path / "ir" / f"n{number}x.png", number, (16, 16))
        index(tmp_path, split=rule)
        before = {scene.name: scene.split for scene in load_scenes(tmp_path)}
        for number in range(20, 40):
            save(tmp_path / "ir" / f"n{number}x.png", number, (16, 16))
        report = index(tmp_path, split=rule)
        after = {scene.name: scene.split for scene in load_scenes(tmp_path)}
        assert report.kept == 20
        assert {name: after[name] for name in before} == before
        assert sum(split == "test" for split in after.values()) == 12  # 0.3 of all 40

    @pytest.mark.parametrize("first", ["train", "test"])
    def test_groups_that_grow_together_go_to_training(self, tmp_path: Path, first: str) -> None:
        second = "test" if first == "train" else "train"
        for number, name in enumerate(("a", "b")):
            save(tmp_path / "ir" / f"{name}.png", number)
        table = tmp_path / "scenes.csv"
        table.write_text(f"name,group,split\na,g1,{first}\nb,g2,{second}\n")
        index(tmp_path)
        table.write_text("name,group\na,g\nb,g\n")
        index(tmp_path)
        assert {scene.split for scene in load_scenes(tmp_path)} == {"train"}

    def test_a_broken_index_names_its_cure(self, make_pairs: MakePairs) -> None:
        data = make_pairs(1)
        (data / "scenes.jsonl").write_text("{}\n")
        with pytest.raises(DataError, match="delete it"):
            index(data)

    def test_redraw_draws_anew(self, tmp_path: Path) -> None:
        for number in range(20):
            save(tmp_path / "ir" / f"n{number}x.png", number, (16, 16))
        index(tmp_path, split=SplitRule(by="random", test=0.3, seed=1))
        first = [scene.split for scene in load_scenes(tmp_path)]
        index(tmp_path, split=SplitRule(by="random", test=0.3, seed=2))
        assert [scene.split for scene in load_scenes(tmp_path)] == first
        index(tmp_path, split=SplitRule(by="random", test=0.3, seed=2, redraw=True))
        assert [scene.split for scene in load_scenes(tmp_path)] != first


class TestVerb:
    def test_it_writes_and_says_so(self, make_pairs: MakePairs, tmp_path: Path) -> None:
        light = tmp_path / "light"
        result = CliRunner().invoke(
            app, ["index", str(make_pairs(3)), "--into", str(light), "--style", "flir"]
        )
        assert result.exit_code == 0, result.output
        assert {scene.style for scene in load_scenes(light)} == {"flir"}
        assert "written" in result.output

    def test_failed_files_exit_1(self, make_pairs: MakePairs) -> None:
        data = make_pairs(2)
        (data / "rgb" / "street_00.png").write_bytes(b"text")
        result = CliRunner().invoke(app, ["index", str(data)])
        assert result.exit_code == 1
        assert "street_00.png" in result.output
        assert len(load_scenes(data)) == 2

    def test_style_options_exclude_each_other(self, make_pairs: MakePairs) -> None:
        data = str(make_pairs(1))
        result = CliRunner().invoke(app, ["index", data, "--style", "a", "--style-from", "prefix"])
        assert "both --style and --style-from" in str(result.exception)
        result = CliRunner().invoke(app, ["index", data, "--style-from", "sufix"])
        assert isinstance(result.exception, UnknownNameError)


def test_real_pairs_keep_the_split_of_their_table(real_data: Path, tmp_path: Path) -> None:
    pairs, some = real_data / "pairs", tmp_path / "some"
    chosen = sorted((pairs / "rgb").iterdir())[::24]
    for kind in ("rgb", "ir"):
        (some / kind).mkdir(parents=True)
        for image in chosen:
            (some / kind / image.name).symlink_to(pairs / kind / image.name)
    (some / "scenes.csv").write_bytes((pairs / "scenes.csv").read_bytes())
    report = index(tmp_path / "data", source=some)
    rows = csv.DictReader((pairs / "scenes.csv").read_text().splitlines())
    table = {row["name"]: row for row in rows}
    assert report.failures == ()
    assert len(report.scenes) == len(chosen)
    for scene in report.scenes:
        row = table[scene.name]
        assert (scene.split, scene.group) == (row["split"], row["scene"])
        assert (scene.style, scene.alignment) == (row["source"], row["alignment"])
        assert (scene.width, scene.height) == (int(row["width"]), int(row["height"]))
