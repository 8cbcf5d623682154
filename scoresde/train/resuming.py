"""What must be there, and the same, when a run resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scoresde import checks
from scoresde.parallel.processes import differences
from scoresde.runs.folder import RunFolder
from scoresde.runs.settings import from_dict, to_dict
from scoresde.train.model_settings import ClassifierSettings, ModelSettings
from scoresde.train.settings import Training

FOLLOWS_FROM_DATA = {"range", "null_is_trained"}
"""Metadata that data and settings decide, which are compared themselves."""

OPTIONAL = {"objective"}
"""Metadata that a run has only where it differs from the default, and that are compared then."""

SCHEDULE = ("learning_rate", "warmup", "final_rate", "steps")
"""The settings that a resumed run may change, if it is told to."""

SHOWN = 5
"""The number of names that an error lists."""


def check_none_is_lost(folder: RunFolder, steps: list[int], rows: list[dict[str, Any]]) -> None:
    """Refuses to begin anew where metrics speak of a checkpoint, and there is none.

    Raises:
        ValueError: saying what there is, and how to begin anew on purpose.
    """
    known = _newest_known(rows)
    directory = folder.checkpoints.directory
    if known is None or (steps and steps[-1] >= known):
        return
    if steps:
        checks.warn(
            f"{folder.path} had a checkpoint of step {known}, by its metrics, and the newest in "
            f"{directory} is of step {steps[-1]}: training goes on from that one."
        )
        return

    found = "is missing"
    if directory.is_dir():
        names = sorted(entry.name for entry in directory.iterdir())
        found = f"holds {', '.join(names[:SHOWN]) or 'nothing'}, and no step with a manifest.json"
    raise ValueError(
        f"{folder.path} has lost its checkpoints: by its metrics it had one of step {known}, and "
        f"{directory} {found}. Put them back, or begin anew, by afresh=True in sd.fit(...), or by "
        f"--afresh behind the command of an experiment: what is there is kept, in {folder.path}"
        f"/before-DATE."
    )


def _newest_known(rows: list[dict[str, Any]]) -> int | None:
    """Returns the newest step of which the metrics show that its checkpoint was on disk."""
    steps = [row.get("checkpoint") for row in rows]
    known = [step for step in steps if isinstance(step, int)]
    if known:
        return max(known)
    # Earlier versions did not say; a save began at each validation, after that before had ended.
    validated = sorted(row["step"] for row in rows if row.get("valid_loss") is not None)
    return int(validated[-2]) if len(validated) > 1 else None


def decisive_settings(training: Training) -> dict[str, Any]:
    """Returns the settings that decide the result: a run resumes only with the same ones."""
    indifferent = ["log_every", "validate_every", "max_skipped", "steps_per_dispatch"]
    indifferent.append("shard_above")
    if training.final_rate == 1.0:
        indifferent.append("steps")  # a constant learning rate does not depend on the last step

    settings = to_dict(training)
    for name in indifferent:
        del settings[name]
    return settings


def in_full(about: dict[str, Any]) -> dict[str, Any]:
    """Returns a checkpoint's metadata with the settings that its version did not have yet.

    They have their defaults, which are what that version did.
    """
    about = dict(about)
    if about.get("model") is not None:
        kind = ClassifierSettings if about.get("classifier") else ModelSettings
        about["model"] = to_dict(from_dict(about["model"], kind))
    if "training" not in about:  # an imported checkpoint
        return about
    return about | {"training": decisive_settings(Training()) | about["training"]}


def with_schedule_of(
    new: dict[str, Any], old: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the old metadata with the schedule of the new ones, and the old and new values.

    The second is {"old": {...}, "new": {...}} of the settings that differ, empty if none does.
    """
    if "training" not in old:
        return old, {}

    before = old["training"]
    after = new["training"]
    others = {name: value for name, value in before.items() if name not in SCHEDULE}
    schedule = {name: after[name] for name in SCHEDULE if name in after}

    changed = [name for name in SCHEDULE if before.get(name) != after.get(name)]
    change = {
        "old": {name: before.get(name) for name in changed},
        "new": {name: after.get(name) for name in changed},
    }
    return old | {"training": others | schedule}, change if changed else {}


def check_same_run(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuses to resume a run whose metadata are others.

    Raises:
        ValueError: if they differ.
    """
    names = [name for name in new if name not in FOLLOWS_FROM_DATA]
    names += [name for name in OPTIONAL if name in old and name not in new]
    if "imported" in old:  # an imported checkpoint knows neither data nor key
        names = [name for name in names if name in old]

    def found(old: dict[str, Any]) -> list[str]:
        lists = [differences(old.get(name), new.get(name), name) for name in names]
        return [difference for some in lists for difference in some]

    if not found(old):
        return

    advice = "use the same settings"
    if not found(with_schedule_of(new, old)[0]):
        advice += (
            ", or take the new ones from here on, by new_schedule=True in sd.fit(...), or by "
            "--new-schedule behind the command of an experiment"
        )
    raise ValueError(
        f"{path} was made with other settings: {'; '.join(found(old))}. To resume it, {advice}; to "
        f"start again, name another folder or delete this one."
    )
