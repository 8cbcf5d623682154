"""Defaults of a command's options that the run's own config.yaml gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scoresde.runs.settings import ConfigError, from_dict
from scoresde.runs.yaml_files import load_yaml
from scoresde.sampling.choices import AnySampler


def defaults_of_run(command: str, run: str, arguments: list[str]) -> dict[str, Any]:
    """Returns the defaults of a command's options in the config.yaml of a run, by field.

    Raises:
        ConfigError: if they cannot be read, unless the arguments give the options anyway.
    """
    if command == "sample":
        read = _sampler_defaults
        options = {"sampler"}
    elif command == "likelihood":
        read = _likelihood_defaults
        options = {"--tolerance", "--t-min"}
    else:
        return {}

    path = Path(run).expanduser() / "config.yaml"
    given = {word.partition("=")[0].partition(":")[0] for word in arguments}
    try:
        return read(path, load_yaml(path, inside=path.parent) if path.exists() else {})
    except ConfigError:
        if options <= given:
            return {}
        raise


def _sampler_defaults(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Returns the sampler that a run draws with."""
    sampler = config.get("sampler")
    if sampler is None:
        return {}
    return {"sampler": from_dict(sampler, AnySampler, f"{path}: sampler")}


def _likelihood_defaults(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Returns the tolerance and the t_min of a run's likelihoods."""
    values = {
        "tolerance": config.get("likelihood_tolerance"),
        "t_min": config.get("likelihood_t_min"),
    }
    return {
        option: from_dict(value, float, f"{path}: {option}")
        for option, value in values.items()
        if value
    }
