# syntax=docker/dockerfile:1
# Images with the console command for CPUs, NVIDIA GPUs and TPUs:
#   docker build --target=cuda --tag=clipvip_jax:cuda .
# Dependencies are installed before the code, so that a change of the code rebuilds one small layer. A run as any user
# writes to /work only. tests/test_installation.py executes the steps of target cpu in an empty environment.

FROM python:3.13.15-slim-trixie@sha256:9d2e5553305c7c7b0097999bb17187c69b921ccd6bc9d40e4bb5ebe652c00285 AS base
LABEL org.opencontainers.image.title="clipvip_jax" \
      org.opencontainers.image.description="CLIP-ViP in JAX and Flax: adapt image-text models to video" \
      org.opencontainers.image.licenses="Apache-2.0 AND MIT"
ENV VIRTUAL_ENV=/opt/venv \
    PATH=/opt/venv/bin:$PATH \
    UV_CACHE_DIR=/var/cache/uv \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/work
RUN useradd --uid=1000 --home-dir=/work --shell=/bin/bash clipvip \
    && install --directory --mode=1777 /work
WORKDIR /src
RUN pip install --no-cache-dir uv==0.13.9 \
    && uv venv "${VIRTUAL_ENV}"
ENTRYPOINT ["clipvip"]
CMD ["--help"]

FROM base AS wheel
COPY pyproject.toml MANIFEST.in requirements.txt README.md LICENSE ./
COPY configs configs
COPY data data
COPY clipvip_jax clipvip_jax
RUN uv build --wheel

FROM base AS packages
COPY requirements.txt requirements.lock ./
RUN --mount=type=cache,target=/var/cache/uv \
    uv pip install --constraint=requirements.lock --requirement=requirements.txt gcsfs s3fs

# NVIDIA's container toolkit provides the driver; CUDA itself is among the packages.
FROM packages AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN --mount=type=cache,target=/var/cache/uv \
    uv pip install --constraint=requirements.lock "jax[cuda13]"
RUN --mount=type=bind,from=wheel,source=/src/dist,target=/src/dist \
    uv pip install --no-deps dist/*.whl
WORKDIR /work
USER 1000

FROM packages AS tpu
RUN --mount=type=cache,target=/var/cache/uv \
    uv pip install --constraint=requirements.lock "jax[tpu]"
RUN --mount=type=bind,from=wheel,source=/src/dist,target=/src/dist \
    uv pip install --no-deps dist/*.whl
WORKDIR /work
USER 1000

# For .devcontainer: the tools of `make`, which installs the packages into the clone.
FROM base AS dev
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /work
USER 1000
ENTRYPOINT []
CMD ["bash"]

# The last target is the default.
FROM packages AS cpu
RUN --mount=type=bind,from=wheel,source=/src/dist,target=/src/dist \
    uv pip install --no-deps dist/*.whl
WORKDIR /work
USER 1000
