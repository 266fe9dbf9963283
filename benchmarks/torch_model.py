"""CLIP-ViP in PyTorch, with the arithmetic and parameter names of the public implementation, for comparisons of speed.

Requires an environment with PyTorch (about 4 GB) and NumPy; `torch_blocks.py` and `torch_step.py` run it.

Letters: B clips or texts, M proxies, T frames, L patches per frame, S tokens of a text, H heads, D width, d = D / H, E
embedding size.
"""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclasses.dataclass(frozen=True)
class Tower:
  """Sizes of a transformer."""

  width: int
  layers: int
  heads: int
  mlp: int


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of a model."""

  image_size: int
  patch_size: int
  vision: Tower
  text: Tower
  embed_dim: int
  vocab_size: int = 49_408
  positions: int = 77
  added_proxies: int = 3
  time_positions: int = 12

  @property
  def patches(self) -> int:
    """L."""
    return (self.image_size // self.patch_size) ** 2


_TEXT = Tower(512, 12, 8, 2048)
SIZES = {
  "b32": Sizes(224, 32, Tower(768, 12, 12, 3072), _TEXT, 512),
  "b16": Sizes(224, 16, Tower(768, 12, 12, 3072), _TEXT, 512),
  "l14": Sizes(224, 14, Tower(1024, 24, 16, 4096), Tower(768, 12, 12, 3072), 768),
  "tiny": Sizes(32, 8, Tower(32, 2, 2, 64), Tower(32, 2, 2, 64), 32, vocab_size=512),
}


class Attention(nn.Module):
  """Projections and attention; subclasses decide which token attends to which."""

  def __init__(self, width: int, heads: int, fused: bool):
    super().__init__()
    self.heads, self.fused = heads, fused
    self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

  def attend(self, query: Tensor, key: Tensor, value: Tensor, causal: bool = False) -> Tensor:
    """Attends with scaled queries: [B, X, d], [B, Y, d], [B, Y, d] -> [B, X, d]."""
    if self.fused:
      inputs = (x[:, None] for x in (query, key, value))  # fused kernels need four axes
      return functional.scaled_dot_product_attention(*inputs, is_causal=causal, scale=1.0)[:, 0]
    scores = torch.bmm(query, key.transpose(1, 2))
    if causal:
      scores = scores + torch.full(scores.shape[1:], torch.finfo(scores.dtype).min, device=scores.device).triu(1)
    return torch.bmm(scores.softmax(-1), value)

  def by_heads(self, x: Tensor) -> Tensor:
    """Splits heads: [B, N, D] -> [B H, N, d]."""
    batch, tokens, _ = x.shape
    return x.view(batch, tokens, self.heads, -1).transpose(1, 2).contiguous().view(batch * self.heads, tokens, -1)

  def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Mixes tokens: [B H, N, d] each -> [B, N, D]."""
    raise NotImplementedError

  def forward(self, x: Tensor) -> Tensor:
    """Attends from all tokens: [B, N, D] -> [B, N, D]."""
    scale = (x.shape[-1] // self.heads) ** -0.5
    query, key, value = (self.by_heads(y) for y in (self.q_proj(x) * scale, self.k_proj(x), self.v_proj(x)))
    return self.out_proj(self.mix(query, key, value))


class CausalAttention(Attention):
  """Attention of the text tower."""

  def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    y = self.attend(query, key, value, causal=True)
    return y.view(-1, self.heads, *y.shape[1:]).transpose(1, 2).flatten(2)


class ProxyAttention(Attention):
  """Frames attend to the proxies and to themselves, proxies to all tokens `[M proxies, frame 0's L patches, ...]`."""

  def __init__(self, width: int, heads: int, fused: bool, proxies: int, patches: int):
    super().__init__(width, heads, fused)
    self.proxies, self.patches = proxies, patches

  def frame_context(self, x: Tensor) -> Tensor:
    """Gathers the proxies and the patches of each frame: [B H, N, d] -> [B H T, M + L, d]."""
    head, frames = x.shape[-1], (x.shape[1] - self.proxies) // self.patches
    proxies = x[:, : self.proxies].repeat(1, frames, 1).reshape(-1, self.proxies, head)
    return torch.cat([proxies, x[:, self.proxies :].reshape(-1, self.patches, head)], 1)

  def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    batch, head = len(query) // self.heads, query.shape[-1]
    queries = query[:, self.proxies :].reshape(-1, self.patches, head)
    frames = self.attend(queries, self.frame_context(key), self.frame_context(value))
    frames = frames.view(batch, self.heads, -1, self.patches, head).permute(0, 2, 3, 1, 4)
    proxies = self.attend(query[:, : self.proxies], key, value).view(batch, self.heads, -1, head).transpose(1, 2)
    return torch.cat([proxies.flatten(2), frames.reshape(batch, -1, self.heads * head)], 1)


class Mlp(nn.Module):
  """Feed-forward half of a block, with quick-GELU."""

  def __init__(self, width: int, hidden: int):
    super().__init__()
    self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

  def forward(self, x: Tensor) -> Tensor:
    """[B, N, D] -> [B, N, D]."""
    y = self.fc1(x)
    return self.fc2(y * torch.sigmoid(1.702 * y))


class Block(nn.Module):
  """Residual attention block: x + attention(norm(x)), then x + mlp(norm(x)), [B, N, D] -> [B, N, D]."""

  def __init__(self, tower: Tower, attention: Attention):
    super().__init__()
    self.self_attn = attention
    self.layer_norm1, self.layer_norm2 = nn.LayerNorm(tower.width), nn.LayerNorm(tower.width)
    self.mlp = Mlp(tower.width, tower.mlp)

  def forward(self, x: Tensor) -> Tensor:
    """Computes all tokens."""
    x = x + self.self_attn(self.layer_norm1(x))
    return x + self.mlp(self.layer_norm2(x))


def vision_blocks(sizes: Sizes, fused: bool) -> nn.ModuleList:
  """Creates the blocks of the video tower."""
  tower, proxies = sizes.vision, 1 + sizes.added_proxies
  return nn.ModuleList(
    Block(tower, ProxyAttention(tower.width, tower.heads, fused, proxies, sizes.patches)) for _ in range(tower.layers)
  )


class Encoder(nn.Module):
  """Blocks in sequence."""

  def __init__(self, layers: nn.ModuleList):
    super().__init__()
    self.layers = layers

  def forward(self, x: Tensor) -> Tensor:
    """[B, N, D] -> [B, N, D]."""
    for layer in self.layers:
      x = layer(x)
    return x


class VisionEmbeddings(nn.Module):
  """Pixels [B, T, 3, H, W] -> tokens [B, M + T L, D]."""

  def __init__(self, sizes: Sizes):
    super().__init__()
    width = sizes.vision.width
    self.class_embedding = nn.Parameter(torch.randn(width))
    self.added_cls = nn.Parameter(torch.randn(sizes.added_proxies, width))
    self.patch_embedding = nn.Conv2d(3, width, sizes.patch_size, sizes.patch_size, bias=False)
    self.position_embedding = nn.Embedding(1 + sizes.patches, width)
    self.temporal_embedding = nn.Parameter(torch.zeros(1, sizes.time_positions, width))

  def forward(self, video: Tensor) -> Tensor:
    """Adds position and time embeddings; all proxies have the position of the class token."""
    batch, frames = video.shape[:2]
    position = self.position_embedding.weight
    patches = self.patch_embedding(video.flatten(0, 1)).flatten(2).transpose(1, 2) + position[1:]
    time = functional.interpolate(self.temporal_embedding.transpose(1, 2), size=frames, mode="linear")
    patches = patches.view(batch, frames, *patches.shape[1:]) + time.transpose(1, 2)[:, :, None]
    proxies = torch.cat([self.class_embedding[None], self.added_cls]) + position[0]
    return torch.cat([proxies.expand(batch, -1, -1), patches.flatten(1, 2)], 1)


class VisionModel(nn.Module):
  """Pixels [B, T, 3, H, W] -> the class token [B, D]."""

  def __init__(self, sizes: Sizes, fused: bool):
    super().__init__()
    self.embeddings = VisionEmbeddings(sizes)
    self.pre_layrnorm = nn.LayerNorm(sizes.vision.width)  # sic, in every published checkpoint
    self.encoder = Encoder(vision_blocks(sizes, fused))
    self.post_layernorm = nn.LayerNorm(sizes.vision.width)

  def forward(self, video: Tensor) -> Tensor:
    """Computes all tokens and reads the first."""
    return self.post_layernorm(self.encoder(self.pre_layrnorm(self.embeddings(video)))[:, 0])


class TextEmbeddings(nn.Module):
  """Token ids [B, S] -> [B, S, D]."""

  def __init__(self, sizes: Sizes):
    super().__init__()
    self.token_embedding = nn.Embedding(sizes.vocab_size, sizes.text.width)
    self.position_embedding = nn.Embedding(sizes.positions, sizes.text.width)

  def forward(self, ids: Tensor) -> Tensor:
    """Adds position embeddings."""
    return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]


class TextModel(nn.Module):
  """Token ids [B, S] -> the end token [B, D], the first position of the largest id."""

  def __init__(self, sizes: Sizes, fused: bool):
    super().__init__()
    tower = sizes.text
    self.embeddings = TextEmbeddings(sizes)
    blocks = (Block(tower, CausalAttention(tower.width, tower.heads, fused)) for _ in range(tower.layers))
    self.encoder = Encoder(nn.ModuleList(blocks))
    self.final_layer_norm = nn.LayerNorm(tower.width)

  def forward(self, ids: Tensor) -> Tensor:
    """Computes all tokens and reads the end token."""
    x = self.final_layer_norm(self.encoder(self.embeddings(ids)))
    return x[torch.arange(len(ids), device=ids.device), ids.argmax(1)]


class ClipVip(nn.Module):
  """Both towers and the temperature."""

  def __init__(self, sizes: Sizes, fused: bool):
    super().__init__()
    self.vision_model, self.text_model = VisionModel(sizes, fused), TextModel(sizes, fused)
    self.visual_projection = nn.Linear(sizes.vision.width, sizes.embed_dim, bias=False)
    self.text_projection = nn.Linear(sizes.text.width, sizes.embed_dim, bias=False)
    self.logit_scale = nn.Parameter(torch.tensor(4.6))

  def embed_video(self, video: Tensor) -> Tensor:
    """Computes float32 features of unit length: [B, T, 3, H, W] -> [B, E]."""
    return functional.normalize(self.visual_projection(self.vision_model(video)).float(), dim=-1)

  def embed_text(self, ids: Tensor) -> Tensor:
    """Computes float32 features of unit length: [B, S] -> [B, E]."""
    return functional.normalize(self.text_projection(self.text_model(ids)).float(), dim=-1)

  def forward(self, video: Tensor, frame: Tensor, subtitle: Tensor, caption: Tensor) -> Tensor:
    """Computes loss (d) of clips, their middle frames [B, 3, H, W], subtitles and captions."""
    subtitles, captions = self.embed_text(torch.cat([subtitle, caption])).chunk(2)
    return loss_d(self.embed_video(video), self.embed_video(frame[:, None]), subtitles, captions, self.logit_scale)


def loss_d(video: Tensor, frame: Tensor, subtitle: Tensor, caption: Tensor, logit_scale: Tensor) -> Tensor:
  """Computes V-S,C + F-C of features [B, E], all texts present."""
  scale = logit_scale.exp()
  video_subtitle, video_caption = scale * video @ subtitle.T, scale * video @ caption.T
  frame_caption = scale * frame @ caption.T
  own = torch.eye(len(video), dtype=torch.bool, device=video.device)

  def contrast(positives: Tensor, *negatives: Tensor) -> Tensor:
    others = [logits.masked_fill(own, float("-inf")) for logits in negatives]
    return (torch.cat([positives, *others], 1).logsumexp(1) - positives.diagonal()).mean()

  both = contrast(video_subtitle, video_caption) + contrast(video_caption, video_subtitle)
  texts = contrast(video_subtitle.T) + contrast(video_caption.T)
  return both + texts + contrast(frame_caption) + contrast(frame_caption.T)
