"""Tuned settings per environment, used by the command line unless an option says otherwise."""

from typing import NamedTuple

from trpo_jax.config import HParams, TRPOConfig


class Preset(NamedTuple):
    """Settings that train one environment well."""

    config: TRPOConfig
    """Static settings."""
    hparams: HParams
    """Traced settings."""
    total_steps: int
    """Environment steps after which it has been seen to be trained."""


DEFAULT = Preset(TRPOConfig(), HParams(), total_steps=500_000)

_PRESETS: dict[str, Preset] = {}


def get_preset(env_id: str) -> Preset:
    """The preset of an environment id, with or without its suite; `DEFAULT` if there is none."""
    return _PRESETS.get(env_id.rpartition("/")[2], DEFAULT)


def list_presets() -> list[str]:
    """Names of the environments that have a preset of their own."""
    return sorted(_PRESETS)
