"""Measurements that docs/performance.md reports, each a command of its own."""

from clipvip_jax.utils.log import quiet_libtpu

quiet_libtpu()
