"""Writes image-to-text models with random weights and a few thousand parameters, as folders that transformers loads."""

import pathlib

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "cat", "runs", "on", "the", "beach", "blue", "red"]


def write_tokenizer(folder):
  import transformers

  vocabulary = folder / "vocab.txt"
  vocabulary.write_text("\n".join(WORDS))
  names = ["input_ids", "attention_mask"]  # BLIP and GIT take no types of tokens
  return transformers.BertTokenizer(str(vocabulary), model_input_names=names)


def write_blip(folder: pathlib.Path):
  """Writes a BLIP."""
  import torch
  import transformers

  folder.mkdir(parents=True)
  text = {"vocab_size": len(WORDS), "hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 32}
  text |= {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32, "projection_dim": 16}
  text |= {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
  vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
  vision |= {"image_size": 32, "patch_size": 16}
  torch.manual_seed(0)
  config = transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
  model = transformers.BlipForConditionalGeneration(config)
  _save(model, folder, transformers.BlipImageProcessor(size={"height": 32, "width": 32}), "BlipProcessor")


def write_git(folder: pathlib.Path):
  """Writes a GIT, which continues the tokens of the prompt."""
  import torch
  import transformers

  folder.mkdir(parents=True)
  vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
  vision |= {"image_size": 32, "patch_size": 16}
  torch.manual_seed(0)
  config = transformers.GitConfig(
    vision_config=vision, vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
    num_attention_heads=2, max_position_embeddings=32, bos_token_id=2, eos_token_id=3, pad_token_id=0,
  )  # fmt: skip
  model = transformers.GitForCausalLM(config)
  size = {"shortest_edge": 32}
  images = transformers.CLIPImageProcessor(size=size, crop_size={"height": 32, "width": 32})
  _save(model, folder, images, "GitProcessor")


def _save(model, folder, image_processor, processor_class):
  import torch
  import transformers

  with torch.no_grad():  # otherwise all pictures get the same words
    for parameter in model.parameters():
      parameter.add_(torch.randn_like(parameter) * 0.3)
  model.save_pretrained(folder)
  getattr(transformers, processor_class)(image_processor, write_tokenizer(folder)).save_pretrained(folder)
