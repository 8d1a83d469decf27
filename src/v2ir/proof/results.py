"""The result of a proof as JSON and as a table. Equal results give equal bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from v2ir import __version__
from v2ir.proof.proving import Claim, Proof


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation (of a sample); 0 with one value."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def summary(proof: Proof) -> dict[str, Any]:
    """Return the proof as a JSON object; equal results give equal bytes."""
    claim = proof.claim
    heads = claim.task.heads(claim.classes)
    rows = {}
    for row, parts in claim.rows.items():
        runs = proof.of(row)
        numbers = {name: [run.scores[name] for run in runs] for name in heads}
        rows[row] = {
            "ingredients": list(parts),
            "images": runs[0].num_images,
            "scores": {
                name: {"mean": mean, "spread": spread, "runs": values}
                for name, values in numbers.items()
                for mean, spread in [mean_and_spread(values)]
            },
        }
    return {
        "v2ir": __version__,
        "method": claim.task.version,
        "labels": {
            "source": claim.labels[0],
            "version": claim.labels[1],
            **({} if claim.least_score is None else {"score": claim.least_score}),
        },
        "budget": dict(claim.budget),
        "seeds": claim.num_seeds,
        "scenes": {"train": len(claim.training), "test": len(claim.testing)},
        claim.task.counted: {label: _counts(claim, label) for label in claim.classes},
        **(
            {"chance": claim.task.chance(claim.testing, claim.classes)} if claim.task.chance else {}
        ),
        "rows": rows,
    }


def _counts(claim: Claim, label: str) -> dict[str, int]:
    sides = {"train": claim.training, "test": claim.testing}
    return {
        side: sum(scene.labels.count(label) for scene in scenes) for side, scenes in sides.items()
    }


def table(proof: Proof) -> str:
    """Return the proof in Markdown: a row of the table a row of the claim."""
    claim, values = proof.claim, summary(proof)
    heads = claim.task.heads(claim.classes)
    lines = [
        "| trained on | images | " + " | ".join(heads.values()) + " |",
        "|---|" + "---:|" * (len(heads) + 1),
    ]
    for name, row in values["rows"].items():
        cells = [f"{score['mean']:.3f} ± {score['spread']:.3f}" for score in row["scores"].values()]
        lines.append(f"| {name} | {row['images']} | " + " | ".join(cells) + " |")
    if "chance" in values:
        cells = [f"{values['chance'][score]:.3f}" for score in heads]
        lines.append("| chance | | " + " | ".join(cells) + " |")
    counted = claim.task.counted
    counts = ", ".join(
        f"{label} {count['train']} / {count['test']}" for label, count in values[counted].items()
    )
    budget = claim.budget
    lines += [
        "",
        f"Tested on {len(claim.testing)} real infrared images; {len(claim.training)} training "
        f"scenes; {counted} to train / to test on: {counts}. Labels: {claim.labels[0]} "
        f"{claim.labels[1]}. {budget['steps']} steps of {budget['batch_size']} images of "
        f"{budget['size']} px; mean ± standard deviation over {claim.num_seeds} seeds.",
    ]
    return "\n".join(lines) + "\n"
