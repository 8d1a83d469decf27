"""The ready-made list `thermal` of `v2ir ablate`: its rows, and the columns of its table."""

from __future__ import annotations

import pytest

from v2ir.ablation import STUDIES, study_of
from v2ir.ablation.tables import table_of_results
from v2ir.ablation.trials import Result
from v2ir.errors import InputError
from v2ir.evaluation import SCORES
from v2ir.training.recipes import RECIPES, load_recipe


def thermal(base: str):
    return study_of(["thermal"], load_recipe(base), load_recipe)


def test_rows_are_the_recipes_of_the_losses():
    study = thermal("mini-thermal-none")
    assert [row.name for row in study.rows][:2] == ["mini-thermal-none", "mini-thermal-mask"]
    assert all(row.recipe == RECIPES[row.name] for row in study.rows)
    assert {row.marks for row in study.rows} == {
        ("none", "corrected"), ("mask", "corrected"), ("mask", "published"),
        ("decomposition", "corrected"), ("decomposition", "published"),
    }  # fmt: skip


def test_a_whole_recipe_gets_the_network_first_and_the_loss_last():
    study = thermal("tiny")
    plain = load_recipe("tiny")
    for row in study.rows:
        first, *others, last = row.recipe.stages
        assert first.objective == "decomposition" and tuple(others) == plain.stages[:-1]
        assert (last.thermal > 0) == (row.marks[0] != "none")


def test_the_table_shows_heat():
    study = thermal("tiny")
    assert set(study.scores) <= SCORES.keys()
    means = {"all": {"hot error": 0.125, "cold error": 0.5, "hot contrast": 0.75}}
    found = {study.rows[0].name: [Result(study.rows[0].name, 0, "key", 4, means)]}
    table = table_of_results(study, found)
    assert table.columns[:2] == ("loss", "form")
    assert [SCORES[name].label in table.columns for name in study.scores] == [True] * 5
    texts = [cell.text for cells in table.rows[0][1] for cell in cells]
    assert texts[:5] == ["none", "corrected", "0.125", "0.500", "0.75"]


def test_a_recipe_that_ends_with_an_autoencoder_is_refused():
    with pytest.raises(InputError, match="last stage denoises"):
        STUDIES["thermal"](load_recipe("ir-autoencoder"))
