"""Launchers: the command of one machine on TPU slices, under SLURM and on Kubernetes. See docs/scale.md."""
