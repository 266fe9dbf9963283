"""Benchmark commands behind docs/performance.md."""

from clipvip_jax.utils.log import quiet_libtpu

quiet_libtpu()
