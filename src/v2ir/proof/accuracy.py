"""How well classes of images are told, whatever their shares in the test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from v2ir.proof.scenes import ProofScene


def score(
    scenes: Sequence[ProofScene], answers: Mapping[str, str], classes: tuple[str, ...]
) -> dict[str, float]:
    """Compare answers with the scenes' own labels.

    Args:
        scenes: Test scenes, at least one of each class.
        answers: Class told for each scene, by its name.
        classes: Names of the classes.

    Returns:
        `accuracy`, the mean recall over the classes; `f1`, the mean over the classes of the
        harmonic mean of precision and recall; and `recall CLASS` of each; all in [0, 1].
    """
    truth = [str(scene.label) for scene in scenes]
    return _scores(truth, [answers[scene.name] for scene in scenes], classes)


def chance(scenes: Sequence[ProofScene], classes: tuple[str, ...]) -> dict[str, float]:
    """Return the scores of telling every class equally often without looking.

    They are those of the table of answers that such guessing is expected to give, in
    which each test image counts for each class by an equal share.
    """
    truth = [str(scene.label) for scene in scenes for _ in classes]
    return _scores(truth, [label for _ in scenes for label in classes], classes)


def _scores(
    truth: Sequence[str], told: Sequence[str], classes: tuple[str, ...]
) -> dict[str, float]:
    from sklearn.metrics import precision_recall_fscore_support

    _, recalls, f1, _ = precision_recall_fscore_support(
        truth, told, labels=classes, average=None, zero_division=0.0
    )
    by_class = {f"recall {c}": float(r) for c, r in zip(classes, recalls, strict=True)}
    return {"accuracy": float(recalls.mean()), "f1": float(f1.mean()), **by_class}
