"""Kernels of proxy-guided attention, interpreted on the CPU, and compiled for absent TPUs and GPUs."""

import functools
import json
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import AbstractDevice, AbstractMesh, AxisType
from numeric import assert_close
from optional_packages import needs_libtpu
from project_paths import ROOT

from clipvip_jax.distributed import sharding
from clipvip_jax.models import attention, clip_vip, proxy_attention, proxy_kernel
from clipvip_jax.utils.errors import UserError

NAMES = ("attended", "query", "key", "value")
SLOW = pytest.mark.slow


def inputs(proxies, patches, frames, width, dtype=np.float32, heads=1, batch=1):
  """Query, key, value and gradient, [B, N, H d] each."""
  shape = (4, batch, proxies + frames * patches, heads * width)
  query, key, value, gradient = np.random.default_rng(0).normal(size=shape)
  return [jnp.asarray(x, dtype) for x in (2 * query * width**-0.5, key, value, gradient)]


def with_gradients(function):
  """(query, key, value, gradient) -> (attended, the gradients of query, key and value)."""

  def apply(*tokens):
    attended, pull_back = jax.vjp(function, *tokens[:3])
    return attended, *pull_back(tokens[3])

  # The programs are small, so that optimising them takes longer than running them.
  return jax.jit(apply, compiler_options={"xla_backend_optimization_level": 0})


def interpreted(platform, proxies, frames, width, **options):
  kernel = proxy_kernel.ProxyKernel(platform, proxies, frames, width, interpret=True, **options)
  return with_gradients(functools.partial(proxy_kernel.fused_proxy_guided, kernel))


def reference(proxies, frames, width):
  def attend(*tokens):
    heads = (x.reshape(*x.shape[:2], -1, width) for x in tokens)
    attended = proxy_attention.proxy_guided(*heads, num_proxies=proxies, num_frames=frames)
    return attended.reshape(tokens[0].shape)

  return with_gradients(attend)


@pytest.mark.parametrize(
  ("platform", "proxies", "patches", "frames", "width", "heads"),
  [
    ("tpu", 1, 49, 1, 64, 1),
    ("tpu", 4, 49, 2, 80, 1),
    pytest.param("tpu", 4, 9, 3, 64, 4, marks=SLOW),  # two heads in a program
    ("gpu", 4, 49, 12, 64, 1),
    pytest.param("tpu", 4, 49, 12, 64, 2, marks=SLOW),
    pytest.param("tpu", 4, 196, 12, 64, 1, marks=SLOW),
    pytest.param("tpu", 1, 196, 2, 80, 1, marks=SLOW),
    pytest.param("tpu", 4, 257, 12, 64, 1, marks=SLOW),
    pytest.param("tpu", 1, 257, 1, 80, 1, marks=SLOW),
    pytest.param("tpu", 1, 49, 32, 64, 1, marks=SLOW),
    pytest.param("tpu", 8, 257, 32, 80, 1, marks=SLOW),
    pytest.param("tpu", 8, 49, 1, 80, 8, marks=SLOW),  # eight heads of 80 are a multiple of 128 lanes
    pytest.param("tpu", 17, 10, 3, 24, 2, marks=SLOW),  # proxies fill more than one row of registers
    pytest.param("gpu", 1, 49, 1, 80, 2, marks=SLOW),
    pytest.param("gpu", 8, 49, 32, 80, 1, marks=SLOW),
    pytest.param("gpu", 8, 5, 2, 8, 1, marks=SLOW),
  ],
)
def test_kernel_equals_the_unfused_path(platform, proxies, patches, frames, width, heads):
  tokens = inputs(proxies, patches, frames, width, heads=heads)
  actual = interpreted(platform, proxies, frames, width)(*tokens)
  for name, x, y in zip(NAMES, actual, reference(proxies, frames, width)(*tokens), strict=True):
    assert_close(x, y, 1e-5, name)


def exact_and_magnitude(query, key, value, gradient, proxies, patches):
  """Results in float64 of one head, and the sums of the magnitudes that are added to each of them."""
  frame = np.concatenate([np.full(proxies, -1), np.arange(len(query) - proxies) // patches])
  allowed = (frame[:, None] == frame) | (frame[:, None] == -1) | (frame == -1)
  weights = np.where(allowed, np.exp(query @ key.T), 0.0)
  weights /= weights.sum(1, keepdims=True)
  attended = weights @ value
  score_grads = weights * (gradient @ value.T - (attended * gradient).sum(1, keepdims=True))
  magnitude = abs(gradient) @ abs(value.T) + (abs(attended) * abs(gradient)).sum(1, keepdims=True)
  magnitude = weights * magnitude
  return [
    (attended, weights @ abs(value)),
    (score_grads @ key, magnitude @ abs(key)),
    (score_grads.T @ query, magnitude.T @ abs(query)),
    (weights.T @ gradient, weights.T @ abs(gradient)),
  ]


@pytest.mark.parametrize(
  ("platform", "proxies", "patches", "frames", "width"),
  [
    ("tpu", 4, 49, 2, 64),
    pytest.param("tpu", 8, 257, 2, 80, marks=SLOW),
    pytest.param("tpu", 1, 196, 12, 64, marks=SLOW),
    pytest.param("gpu", 4, 49, 12, 80, marks=SLOW),
  ],
)
def test_kernel_in_bfloat16_is_within_its_rounding(platform, proxies, patches, frames, width):
  tokens = inputs(proxies, patches, frames, width, jnp.bfloat16)
  actual = interpreted(platform, proxies, frames, width)(*tokens)
  expected = exact_and_magnitude(*(np.asarray(x[0], np.float64) for x in tokens), proxies, patches)
  # Three roundings of 2**-9: the weights or their gradients, the proxies' attended values within these, the result.
  for name, x, (exact, magnitude) in zip(NAMES, actual, expected, strict=True):
    assert x.dtype == jnp.bfloat16
    assert (abs(np.asarray(x[0], np.float64) - exact) <= 3.1 * 2.0**-9 * magnitude).all(), name


def test_kernels_of_eight_devices_equal_the_unfused_path():
  """Clips over data and fsdp, heads over tensor."""
  mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2}, jax.devices()[:8])
  split = sharding.heads_sharding(mesh)
  tokens = inputs(2, 5, 2, 8, heads=4, batch=4)
  placed = [jax.device_put(x, split) for x in tokens]
  actual = interpreted("tpu", 2, 2, 8, sharding=split)(*placed)
  for name, x, y in zip(NAMES, actual, reference(2, 2, 8)(*tokens), strict=True):
    assert x.sharding == split, name
    assert_close(x, y, 1e-5, name)


@pytest.fixture
def interpreted_models(monkeypatch):
  """Models with attention="pallas" run on the CPU as on a TPU."""
  device = types.SimpleNamespace(platform="tpu", device_kind="TPU v5 lite")
  for module in (attention, proxy_attention):
    monkeypatch.setattr(module, "default_device", lambda: device)
  kernel = functools.partial(proxy_kernel.ProxyKernel, interpret=True)
  monkeypatch.setattr(proxy_kernel, "ProxyKernel", kernel)


@pytest.mark.slow
def test_model_with_kernels_equals_the_model_without(interpreted_models):
  params = tiny.random_params(tiny.model())
  video = np.random.default_rng(0).normal(size=(8, 2, 32, 32, 3)).astype(np.float32)
  fused = tiny.model(attention="pallas")
  mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2}, jax.devices()[:8])
  on_mesh = clip_vip.with_heads_sharding(fused, sharding.heads_sharding(mesh))

  def value_and_grads(model):
    embed = functools.partial(model.apply, method="embed_video")
    return jax.jit(jax.value_and_grad(lambda params, video: embed({"params": params}, video)[:, 0].sum()))

  expected = value_and_grads(tiny.model())(params, video)
  replicated = jax.device_put(params, sharding.replicated(mesh))
  for actual in (
    value_and_grads(fused)(params, video),
    value_and_grads(on_mesh)(replicated, jax.device_put(video, sharding.batch_sharding(mesh))),
  ):
    assert_close(actual[0], expected[0], 1e-5)
    largest = max(np.abs(x).max() for x in jax.tree.leaves(expected[1]))
    errors = jax.tree.map(lambda x, y: np.abs(x - y).max(), actual[1], expected[1])
    assert max(jax.tree.leaves(errors)) <= 1e-5 * largest


def test_kernels_are_rejected_where_no_device_compiles_them():
  with pytest.raises(UserError, match=r"model\.attention=pallas needs a TPU or a GPU, .* on cpu; use model\.attention"):
    jax.eval_shape(tiny.model(attention="pallas").init, jax.random.key(0), np.zeros((1, 1, 32, 32, 3)), np.ones((1, 4)))


def test_sizes_without_a_kernel_use_the_unfused_path(monkeypatch):
  monkeypatch.setattr(proxy_kernel, "fused_proxy_guided", None)
  tokens = [x.reshape(1, -1, 1, 8) for x in inputs(4, 196, 1, 8)[:3]]  # scores that a GPU's registers do not hold
  monkeypatch.setattr(proxy_attention, "default_device", lambda: types.SimpleNamespace(platform="gpu"))
  attend = functools.partial(proxy_attention.proxy_guided, *tokens, num_proxies=4, num_frames=1)
  np.testing.assert_array_equal(attend(implementation="pallas"), attend())


def test_kernels_lower_to_triton_for_an_absent_gpu():
  """Lowered, not compiled: XLA compiles Triton's programs on the GPU only."""
  device = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=None, platform="gpu")
  mesh = AbstractMesh((1,), ("x",), axis_types=(AxisType.Auto,), abstract_device=device)
  tokens = inputs(4, 49, 2, 64, jnp.bfloat16, heads=2)
  kernel = proxy_kernel.ProxyKernel("gpu", 4, 2, 64)
  attend = with_gradients(functools.partial(proxy_kernel.fused_proxy_guided, kernel))
  with jax.sharding.use_abstract_mesh(mesh):
    lowered = attend.trace(*tokens).lower(lowering_platforms=("cuda",)).as_text()
  assert lowered.count("__gpu$xla.gpu.triton") == 2


PROGRAMS = """
import json, sys
from clipvip_jax.cost_model import chips, hbm_traffic
device = chips.devices(sys.argv[1])[0]
import jax, jax.numpy as jnp
from clipvip_jax.models.proxy_kernel import ProxyKernel, fused_proxy_guided
results = []
for proxies, patches, frames, width, heads in json.loads(sys.argv[2]):
  kernel = ProxyKernel("tpu", proxies, frames, width)
  shape = (8, proxies + frames * patches, heads * width)
  tokens = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=jax.sharding.SingleDeviceSharding(device))
  assert kernel.fits(tokens)
  def attend(query, key, value, gradient):
    attended, pull_back = jax.vjp(lambda *tokens: fused_proxy_guided(kernel, *tokens), query, key, value)
    return attended, pull_back(gradient)
  program = jax.jit(attend).lower(*(tokens,) * 4).compile()
  results.append([
    sum(hbm_traffic.by_module(program.as_text()).values()), program.memory_analysis().temp_size_in_bytes,
    tokens.size * 2, program.cost_analysis()["flops"],
  ])
print(json.dumps(results))
"""
SIZES = [(4, 49, 12, 64, 12), (4, 256, 2, 80, 8), (1, 257, 1, 64, 2)]  # B/32, and frames of H/14 and of mean pooling


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("topology", ["v5e:2x2", "v6e:2x2"])
def test_compiled_kernels_move_their_arguments_and_results_alone(topology):
  # In a subprocess: libtpu holds its locks until the process ends.
  command = [sys.executable, "-c", PROGRAMS, topology, json.dumps(SIZES)]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
  assert done.returncode == 0, done.stderr
  for (proxies, patches, frames, width, heads), (moved, temporary, array, flops) in zip(
    SIZES, json.loads(done.stdout), strict=True
  ):
    scores = 8 * heads * frames * patches * (proxies + patches)
    # Four arrays in the forward pass, seven in the backward pass; layouts of arguments may be changed once.
    assert moved <= 2.2 * 11 * array
    assert temporary < 4 * scores  # of one array of scores in float32
    assert flops >= 7 * 2 * width * scores
