"""Recipes that fine-tune on a text-to-video benchmark, by name."""

from clipvip_jax.configs import activitynet, didemo, lsmdc, msrvtt, msvd, vatex, youcook2

FINE_TUNING = {
  "msrvtt": msrvtt,
  "didemo": didemo,
  "lsmdc": lsmdc,
  "activitynet": activitynet,
  "msvd": msvd,
  "vatex": vatex,
  "youcook2": youcook2,
}
