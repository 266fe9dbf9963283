"""Study of generated captions: loss (d) with rendered captions, with those of captioners, and V-S without captions.

The arms are those of configs/replication.py. `captioner_N` trains on an edition of the embedded corpus, with captions
of a model that was trained for N steps; `make generated-captions` writes the editions and runs the study.

| variant | effect |
|---|---|
| captioner_N | captions of a captioner trained for N steps |
| smoke | a few steps on a few clips |

Those of configs/replication.py are available as well.
"""

import functools

from ml_collections import ConfigDict

from clipvip_jax.configs import replication, variants

CAPTIONER_STEPS = (1200, 300)

STUDY = {
  "Captions, video proxies": {
    "(d), rendered captions": "vsc_fc",
    **{f"(d), captioner trained for {steps} steps": f"captioner_{steps}" for steps in CAPTIONER_STEPS},
    "V-S, no captions": "vs",
  }
}


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the recipe with the comma-separated variants of `arg` applied in order."""
  return variants.apply_variants(replication.get_config().unlock(), arg, VARIANTS)


def captioner(steps: int, config: ConfigDict) -> None:
  """Selects the edition with the captions of a captioner."""
  config.data.update({"config": f"{config.data.config}+captioner_{steps}", "prepare": False})


def smoke(config: ConfigDict) -> None:
  """A two-step run that exercises every part, on the smallest configuration or its edition."""
  _, *edition = config.data.config.partition("+")
  replication.smoke(config)
  config.data.config += "".join(edition)


VARIANTS: dict[str, variants.Variant] = {
  **replication.VARIANTS,
  **{f"captioner_{steps}": functools.partial(captioner, steps) for steps in CAPTIONER_STEPS},
  "smoke": smoke,
}
