"""The training room: stages and recipes as values, one loop, the run folder."""

from v2ir.training.recipes import RECIPES, load_recipe
from v2ir.training.stage import Recipe, Stage
from v2ir.training.train import TrainSettings, train

__all__ = ["RECIPES", "Recipe", "Stage", "TrainSettings", "load_recipe", "train"]
