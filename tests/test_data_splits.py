"""Which scenes belong together, and where a group goes."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import scipy.fft
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from v2ir.data.fingerprints import (
    NEAR_DISTANCE,
    Fingerprint,
    distance,
    fingerprint_of,
    joined,
    near_pairs,
)
from v2ir.data.splits import GROUPERS, Item, SplitRule, draw, sequence_of
from v2ir.errors import DataError, UnknownNameError


def picture(seed: int, side: int = 64) -> np.ndarray:
    """Return a random picture with detail at several scales, HW float32 in [0, 1]."""
    rng = np.random.default_rng(seed)
    total = np.zeros((side, side), dtype=np.float32)
    for cells in (4, 8, 16, 32):
        noise = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
        total += np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC))
    return np.clip(total / 4, 0, 1)


def random_print(rng: np.random.Generator) -> Fingerprint:
    return Fingerprint(int.from_bytes(rng.bytes(32), "big"), 0.2)


def flipped(print_: Fingerprint, bits: int, rng: np.random.Generator) -> Fingerprint:
    mask = sum(1 << int(place) for place in rng.choice(256, bits, replace=False))
    return Fingerprint(print_.bits ^ mask, 0.2)


class TestFingerprint:
    def test_the_bits_are_those_of_scipys_cosine_transform(self) -> None:
        image = picture(3)
        low = scipy.fft.dctn(image.astype(np.float64))[:16, :16].ravel()
        above = low > np.median(low[1:])
        above[0] = False
        expected = int("".join("1" if bit else "0" for bit in above), 2)
        assert fingerprint_of(image).bits == expected

    @pytest.mark.parametrize("seed", range(5))
    def test_brightness_and_contrast_do_not_count(self, seed: int) -> None:
        image = picture(seed)
        other = fingerprint_of(0.4 * image + 0.3)
        assert distance(fingerprint_of(image), other) <= 2  # rounding at the median

    @pytest.mark.parametrize("seed", range(5))
    def test_noise_makes_a_near_duplicate_and_another_picture_does_not(self, seed: int) -> None:
        image = picture(seed)
        noise = np.random.default_rng(seed).normal(0, 0.01, image.shape)
        one = fingerprint_of(image)
        assert distance(one, fingerprint_of(image + noise)) <= NEAR_DISTANCE
        assert distance(one, fingerprint_of(picture(seed + 100))) > NEAR_DISTANCE

    def test_a_uniform_picture_tells_nothing(self) -> None:
        dark = np.full((64, 64), 0.03, dtype=np.float32)
        assert not fingerprint_of(dark).is_telling
        assert fingerprint_of(picture(0)).is_telling


class TestNearPairs:
    @given(seed=st.integers(0, 10_000), number=st.integers(0, 40))
    def test_they_are_those_of_brute_force(self, seed: int, number: int) -> None:
        rng = np.random.default_rng(seed)
        prints: list[Fingerprint | None] = []
        for _ in range(number):
            known = [item for item in prints if item is not None]
            if known and rng.random() < 0.6:
                origin = known[int(rng.integers(len(known)))]
                prints.append(flipped(origin, int(rng.integers(0, 90)), rng))
            else:
                prints.append(random_print(rng) if rng.random() < 0.9 else None)
        expected = {
            (i, j, distance(a, b))
            for (i, a), (j, b) in combinations(enumerate(prints), 2)
            if a and b and distance(a, b) <= NEAR_DISTANCE
        }
        found = {tuple(map(int, row)) for block in near_pairs(prints) for row in block}
        assert found == expected

    def test_pairs_across_blocks_are_found(self) -> None:
        rng = np.random.default_rng(0)
        prints = [random_print(rng) for _ in range(1100)]
        prints[1090] = flipped(prints[5], 10, rng)
        prints[600] = flipped(prints[599], 0, rng)
        found = {tuple(map(int, row)) for block in near_pairs(prints) for row in block}
        assert found == {(5, 1090, 10), (599, 600, 0)}

    def test_uniform_images_have_none(self) -> None:
        dark = Fingerprint(0, 0.001)
        assert all(len(block) == 0 for block in near_pairs([dark, dark]))


@given(
    number=st.integers(1, 25),
    pairs=st.lists(st.tuples(st.integers(0, 24), st.integers(0, 24)), max_size=30),
    cut=st.integers(0, 30),
)
def test_joined_is_the_reachable_set(number: int, pairs: list[tuple[int, int]], cut: int) -> None:
    pairs = [(a % number, b % number) for a, b in pairs]
    blocks = [np.array(part).reshape(-1, 2) for part in (pairs[:cut], pairs[cut:])]
    reach = np.eye(number, dtype=bool)
    for a, b in pairs:
        reach[a, b] = reach[b, a] = True
    for _ in range(number):
        reach = (reach.astype(int) @ reach.astype(int)) > 0
    assert list(joined(number, blocks)) == [int(np.flatnonzero(row)[0]) for row in reach]


@pytest.mark.parametrize(
    ("name", "sequence", "frame"),
    [
        ("set00/V001/I00042", "set00/V001/I", 42),
        ("msrs_00042D", "msrs_D", 42),
        ("metu_cloudy_scene_4_IM_01649", "metu_cloudy_scene_4_IM", 1649),
        ("00012", "frames", 12),
        ("house", "house", 0),
    ],
)
def test_sequences_are_told_from_names(name: str, sequence: str, frame: int) -> None:
    assert sequence_of(name) == (sequence, frame)


class TestGroupers:
    def items(self, names: list[str], seeds: list[int]) -> list[Item]:
        prints = [fingerprint_of(picture(seed)) for seed in seeds]
        return [Item(name, (one, None)) for name, one in zip(names, prints, strict=True)]

    def test_look_alikes_are_one_cluster_whatever_their_names(self) -> None:
        items = self.items(["a", "b", "c", "d"], [1, 2, 1, 3])
        assert GROUPERS["cluster"](items) == ["a", "b", "a", "d"]

    def test_a_look_alike_in_the_infrared_is_enough(self) -> None:
        one, two, three = (fingerprint_of(picture(seed)) for seed in (1, 2, 3))
        items = [Item("a", (one, three)), Item("b", (two, three)), Item("c", (None, two))]
        assert GROUPERS["cluster"](items) == ["a", "a", "c"]

    def test_successive_frames_need_less_likeness(self) -> None:
        rng = np.random.default_rng(0)
        first = random_print(rng)
        second = flipped(first, 80, rng)
        near = [Item("v_1", (first, None)), Item("v_2", (second, None))]
        far = [Item("v_1", (first, None)), Item("w_2", (second, None))]
        assert GROUPERS["cluster"](near) == ["v_1", "v_1"]
        assert GROUPERS["cluster"](far) == ["v_1", "w_2"]

    def test_auto_takes_sequences_where_the_names_have_them(self) -> None:
        names = [f"clip{letter}_{frame}" for letter in "abcdef" for frame in (1, 2)]
        groups = GROUPERS["auto"](self.items(names, list(range(12))))
        assert groups == [name.rpartition("_")[0] for name in names]

    def test_auto_joins_sequences_that_share_an_image(self) -> None:
        names = [f"clip{letter}_{frame}" for letter in "abcdef" for frame in (1, 2)]
        seeds = [*range(11), 0]  # the last frame of f is the first of a
        groups = GROUPERS["auto"](self.items(names, seeds))
        assert groups[10] == groups[11] == groups[0] == groups[1]
        assert len(set(groups)) == 5

    def test_auto_clusters_where_all_names_are_one_sequence(self) -> None:
        names = [f"IMG_{number:04d}" for number in range(8)]
        groups = GROUPERS["auto"](self.items(names, [0, 0, 1, 1, 2, 2, 3, 3]))
        assert groups == [f"IMG_{number:04d}" for number in (0, 0, 2, 2, 4, 4, 6, 6)]


class TestDraw:
    @given(
        sizes=st.lists(st.integers(1, 30), min_size=1, max_size=40),
        val=st.floats(0, 0.4),
        test=st.floats(0, 0.4),
        seed=st.integers(0, 99),
    )
    def test_every_group_gets_one_split_and_shares_are_not_overdone(
        self, sizes: list[int], val: float, test: float, seed: int
    ) -> None:
        groups = [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)]
        splits = draw(groups, {}, SplitRule(val=val, test=test, seed=seed))
        assert splits.keys() == set(groups)
        filled = Counter(splits[group] for group in groups)
        assert filled["test"] <= 2 * test * len(groups)
        assert filled["val"] <= 2 * val * len(groups)

    def test_many_small_groups_meet_the_shares(self) -> None:
        groups = [f"g{number // 3}" for number in range(3000)]
        splits = draw(groups, {}, SplitRule(val=0.1, test=0.2))
        filled = Counter(splits[group] for group in groups)
        assert abs(filled["test"] - 600) <= 3
        assert abs(filled["val"] - 300) <= 3

    def test_the_order_of_the_scenes_does_not_count_and_the_seed_does(self) -> None:
        groups = [f"g{number}" for number in range(50)]
        rule = SplitRule(val=0.2, test=0.2, seed=1)
        assert draw(groups, {}, rule) == draw(groups[::-1], {}, rule)
        assert draw(groups, {}, rule) != draw(groups, {}, SplitRule(val=0.2, test=0.2, seed=2))

    def test_known_groups_stay_and_count(self) -> None:
        groups = [f"g{number}" for number in range(10)]
        splits = draw(groups, {"g3": "test", "g4": "test"}, SplitRule(val=0, test=0.2))
        assert [group for group, split in splits.items() if split == "test"] == ["g3", "g4"]

    def test_nothing_but_training_can_be_asked_for(self) -> None:
        assert set(draw(["a", "b"], {}, SplitRule(val=0, test=0)).values()) == {"train"}


def test_wrong_rules_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean random"):
        SplitRule(by="rndom")
    with pytest.raises(DataError, match="impossible"):
        SplitRule(val=0.5, test=0.5)
