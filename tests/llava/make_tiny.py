# SPDX-License-Identifier: Apache-2.0
"""Makes a tiny LLaVA with random weights, and what transformers computes with it.

    pip install torch transformers==5.23.0 pillow
    python tests/llava/make_tiny.py tests/llava/tiny

Deterministic, needs no network. README.md beside this file says what the files hold.
"""

import json
import math
import struct
import sys
from pathlib import Path

import numpy as np
import PIL
import torch
import transformers
from PIL import Image
from transformers import DynamicCache, LlavaForConditionalGeneration
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

# No two sizes that could be confused are equal: not even the decoder's width and heads * head_dim.
# 28 / 7 gives 4 x 4 patches. The encoder's fourth layer and post_layernorm are stored, but LLaVA
# never uses them: it takes the hidden state before the last layer.
VISION = dict(hidden_size=24, image_size=28, intermediate_size=50, model_type="clip_vision_model",
              num_attention_heads=3, num_hidden_layers=4, patch_size=7, projection_dim=16)
TEXT = dict(architectures=["LlamaForCausalLM"], bos_token_id=1, eos_token_id=2, head_dim=12,
            hidden_act="silu", hidden_size=40, intermediate_size=60, max_position_embeddings=256,
            model_type="llama", num_attention_heads=4, num_hidden_layers=3, num_key_value_heads=2,
            rms_norm_eps=1e-5, rope_theta=10000.0, torch_dtype="float16", vocab_size=160)
CONFIG = dict(architectures=["LlavaForConditionalGeneration"], ignore_index=-100,
              image_seq_length=16, image_token_index=150, model_type="llava", pad_token_id=151,
              projector_hidden_act="gelu", text_config=TEXT, tie_word_embeddings=False,
              torch_dtype="float16", vision_config=VISION, vision_feature_layer=-2,
              vision_feature_select_strategy="default")
PATCHES = 16
IMAGE_TOKEN = CONFIG["image_token_index"]
PROMPT = [1, 17, 93, 42, IMAGE_TOKEN, 13, 88, 7, 121, 64, 29, 5]
GENERATED = 6
ENCODER_LAYER = 2  # whose queries and keys are stored, counted from 0
DECODER_LAYER = 1
SEED = 1  # one whose greedy choices are clear and differ; see expected_values


# ---------------------------------------------------------------------------- safetensors

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
          torch.int64: "I64", torch.uint8: "U8"}


def save(path, tensors, metadata):
    """Names in order of writing, so that the same tensors give the same bytes everywhere."""
    header, blob = {"__metadata__": metadata}, b""
    for name, tensor in tensors.items():
        raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [len(blob), len(blob) + len(raw)]}
        blob += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + blob)


def save_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


# ---------------------------------------------------------------------------- weights

def random_weights(random):
    """Everything varies (norms and biases too), and so widely that no attention row is flat.

    Embeddings are small, as in real models, so that the epsilon of the norms shows.
    """

    def normal(*shape, std):
        return torch.from_numpy(random.standard_normal(shape) * std)

    def linear(name, rows, cols, gain=1.0, bias=True):
        out = {name + ".weight": normal(rows, cols, std=gain / math.sqrt(cols))}
        return out | ({name + ".bias": normal(rows, std=0.2)} if bias else {})

    def norm(name, width, bias=True):
        out = {name + ".weight": torch.from_numpy(random.uniform(0.5, 1.5, width))}
        return out | ({name + ".bias": normal(width, std=0.2)} if bias else {})

    width, ffn, patch = VISION["hidden_size"], VISION["intermediate_size"], VISION["patch_size"]
    prefix = "vision_tower.vision_model."
    vision = {
        prefix + "embeddings.class_embedding": normal(width, std=0.05),
        prefix + "embeddings.patch_embedding.weight":
            normal(width, 3, patch, patch, std=0.05 / math.sqrt(3 * patch * patch)),
        prefix + "embeddings.position_embedding.weight": normal(PATCHES + 1, width, std=0.03)}
    vision |= norm(prefix + "pre_layrnorm", width)
    for layer in range(VISION["num_hidden_layers"]):
        p = f"{prefix}encoder.layers.{layer}."
        vision |= norm(p + "layer_norm1", width)
        for which, gain in ("q", 1.6), ("k", 1.6), ("v", 1), ("out", 1):
            vision |= linear(f"{p}self_attn.{which}_proj", width, width, gain)
        vision |= norm(p + "layer_norm2", width)
        vision |= linear(p + "mlp.fc1", ffn, width) | linear(p + "mlp.fc2", width, ffn)
    vision |= norm(prefix + "post_layernorm", width)

    hidden, ffn = TEXT["hidden_size"], TEXT["intermediate_size"]
    queries = TEXT["num_attention_heads"] * TEXT["head_dim"]
    keys = TEXT["num_key_value_heads"] * TEXT["head_dim"]
    projector = linear("multi_modal_projector.linear_1", hidden, width)
    projector |= linear("multi_modal_projector.linear_2", hidden, hidden)

    prefix = "language_model.model."
    text = {prefix + "embed_tokens.weight": normal(TEXT["vocab_size"], hidden, std=0.05)}
    for layer in range(TEXT["num_hidden_layers"]):
        p = f"{prefix}layers.{layer}."
        text |= norm(p + "input_layernorm", hidden, bias=False)
        text |= linear(p + "self_attn.q_proj", queries, hidden, 1.6, bias=False)
        text |= linear(p + "self_attn.k_proj", keys, hidden, 1.6, bias=False)
        text |= linear(p + "self_attn.v_proj", keys, hidden, bias=False)
        text |= linear(p + "self_attn.o_proj", hidden, queries, bias=False)
        text |= norm(p + "post_attention_layernorm", hidden, bias=False)
        text |= linear(p + "mlp.gate_proj", ffn, hidden, bias=False)
        text |= linear(p + "mlp.up_proj", ffn, hidden, bias=False)
        text |= linear(p + "mlp.down_proj", hidden, ffn, bias=False)
    text |= norm(prefix + "norm", hidden, bias=False)
    text |= linear("language_model.lm_head", TEXT["vocab_size"], hidden, 1.5, bias=False)

    return ({name: tensor.to(torch.float32) for name, tensor in vision.items()} |
            {name: tensor.to(torch.bfloat16) for name, tensor in projector.items()} |
            {name: tensor.to(torch.float16) for name, tensor in text.items()})


def save_checkpoint(folder, weights):
    """Two shards whose border lies inside the decoder's layer 1, as borders do."""
    names = list(weights)
    border = names.index("language_model.model.layers.1.self_attn.v_proj.weight")
    files = {}
    for number, part in enumerate((names[:border], names[border:]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save(folder / file, {name: weights[name] for name in part}, {"format": "pt"})
        files |= dict.fromkeys(part, file)
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    save_json(folder / "model.safetensors.index.json",
              {"metadata": {"total_size": size}, "weight_map": dict(sorted(files.items()))})
    save_json(folder / "config.json", CONFIG)


# ---------------------------------------------------------------------------- what it computes

class Trace:
    """What one forward pass hands from module to module, without the batch axis."""

    def __init__(self, model):
        self.seen, self.handles = {}, []
        vision, text = model.model.vision_tower, model.model.language_model
        self.watch("vision_hidden_0", vision.pre_layrnorm)
        for number, layer in enumerate(vision.encoder.layers):
            self.watch(f"vision_hidden_{number + 1}", layer)
        attention = vision.encoder.layers[ENCODER_LAYER].self_attn
        self.watch(f"vision_queries_{ENCODER_LAYER}", attention.q_proj)
        self.watch(f"vision_keys_{ENCODER_LAYER}", attention.k_proj)
        self.watch("image_features", model.model.multi_modal_projector)
        for number, layer in enumerate(text.layers):
            self.watch(f"text_hidden_{number + 1}", layer)
        self.watch("text_normed", text.norm)
        attention = text.layers[DECODER_LAYER].self_attn
        self.watch("q", attention.q_proj)
        self.watch("k", attention.k_proj)
        self.handles.append(attention.register_forward_pre_hook(
            lambda _module, _args, kwargs: self.seen.update(rope=kwargs["position_embeddings"]),
            with_kwargs=True))
        self.handles.append(text.register_forward_pre_hook(
            lambda _module, _args, kwargs: self.seen.update(inputs_embeds=kwargs["inputs_embeds"]),
            with_kwargs=True))

    def watch(self, name, module):
        def hook(_module, _args, output):
            self.seen[name] = output[0] if isinstance(output, tuple) else output
        self.handles.append(module.register_forward_hook(hook))

    def results(self):
        for handle in self.handles:
            handle.remove()
        q, k = (self.seen.pop(name).unflatten(-1, (-1, TEXT["head_dim"])).transpose(1, 2)
                for name in "qk")
        q, k = apply_rotary_pos_emb(q, k, *self.seen.pop("rope"))
        self.seen |= {f"text_queries_{DECODER_LAYER}": q, f"text_keys_{DECODER_LAYER}": k}
        return {name: tensor[0] for name, tensor in self.seen.items()}


@torch.no_grad()
def run(folder, dtype, pixels, ids):
    """Loads the files as anybody would, runs the prompt and greedy decoding."""
    model, info = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", output_loading_info=True)
    for problem, names in info.items():
        assert not names, (problem, names)
    model.eval()
    inputs = dict(input_ids=ids[None], pixel_values=pixels[None].to(dtype),
                  attention_mask=torch.ones_like(ids)[None])

    trace = Trace(model)
    cache = DynamicCache(config=model.config.text_config)
    out = model(**inputs, past_key_values=cache, output_hidden_states=True, output_attentions=True)
    results = trace.results() | {"logits": out.logits[0]}

    # The hooks saw what transformers itself reports.
    between = [f"text_hidden_{n}" for n in range(1, TEXT["num_hidden_layers"])]
    names = ["inputs_embeds", *between, "text_normed"]
    for name, expected in zip(names, out.hidden_states, strict=True):
        assert torch.equal(results[name], expected[0])
    assert torch.equal(results[f"text_keys_{DECODER_LAYER}"], cache.layers[DECODER_LAYER].keys[0])
    assert torch.equal(results["image_features"], out.image_hidden_states)
    tower = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True,
                                     output_attentions=True)
    for number, expected in enumerate(tower.hidden_states):
        assert torch.equal(results[f"vision_hidden_{number}"], expected[0])
    assert torch.equal(results["image_features"],
                       model.model.multi_modal_projector(tower.hidden_states[-2][0, 1:]))
    check_spread(tower.attentions, out.attentions)

    made = model.generate(**inputs, max_new_tokens=GENERATED, do_sample=False, use_cache=True,
                          return_dict_in_generate=True, output_logits=True)
    generated = made.sequences[0, len(ids):]
    chosen_by = torch.stack([logits[0] for logits in made.logits]).to(dtype)
    results |= {"generated_ids": generated, "generated_logits": chosen_by}
    assert not {TEXT["eos_token_id"], IMAGE_TOKEN} & set(generated.tolist()), "another seed, please"

    # ... and without a cache.
    inputs |= dict(input_ids=made.sequences, attention_mask=torch.ones_like(made.sequences))
    again = model(**inputs, use_cache=False).logits[0, len(ids) - 1:-1]
    assert (again - chosen_by).abs().max() < 1e-4
    return results


def check_spread(vision_attentions, text_attentions):
    """Attention that is neither flat nor a choice of one, or a wrong scale might go unseen."""
    for name, layers in ("vision", vision_attentions), ("text", text_attentions):
        for number, attention in enumerate(layers):
            rows = attention[0][:, 1:]  # a causal first row is always one
            entropy = -(rows * rows.clamp_min(1e-30).log()).sum(-1)
            tokens = (rows > 0).sum(-1)
            share = (entropy / tokens.log()).mean().item()
            print(f"{name} layer {number}: entropy of attention {share:.2f} of a flat one's")
            assert 0.2 < share < 0.9


def expected_values(folder, random):
    pixels = torch.from_numpy(random.standard_normal((3, 28, 28))).to(torch.float32)
    ids = []
    for token in PROMPT:
        ids += [IMAGE_TOKEN] * PATCHES if token == IMAGE_TOKEN else [token]
    ids = torch.tensor(ids)

    exact = run(folder, torch.float64, pixels, ids)
    single = run(folder, torch.float32, pixels, ids)
    assert exact.keys() == single.keys()
    assert torch.equal(exact["generated_ids"], single["generated_ids"])
    worst = max((exact[name] - single[name]).abs().max().item() for name in exact)
    print(f"float32 run differs by at most {worst:.1e}")
    assert worst < 2e-5

    best, second = exact["generated_logits"].topk(2).values.T
    print("generated", exact["generated_ids"].tolist(), "margins",
          [round(m, 2) for m in (best - second).tolist()])
    assert (best - second).min() > 0.1, "a near tie"
    assert len(set(exact["generated_ids"].tolist())) > 3, "decoding repeats itself"

    stored = {"pixel_values": pixels, "prompt_ids": torch.tensor(PROMPT), "input_ids": ids}
    for name in sorted(exact):
        stored[name] = exact[name] if name == "generated_ids" else exact[name].to(torch.float32)
    return stored


# ---------------------------------------------------------------------------- preprocessing

def synthetic_picture(height, width):
    """Smooth colours with edges: a dark disc and a bright bar."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    channels = [0.5 + 0.4 * np.sin(5 * x + 2 * y), 0.3 + 0.5 * y, 0.5 + 0.4 * np.cos(4 * x * y)]
    picture = np.stack(channels, axis=-1)
    picture[(x - 0.35) ** 2 + (y - 0.4) ** 2 < 0.06] *= 0.15
    picture[(np.abs(x - 0.75) < 0.06) & (y > 0.2)] = [1.0, 0.9, 0.1]
    return np.rint(255 * picture.clip(0, 1)).astype(np.uint8)


def preprocessed(picture):
    size = VISION["image_size"]
    processor = CLIPImageProcessorPil(size={"shortest_edge": size},
                                      crop_size={"height": size, "width": size})
    out = processor(Image.fromarray(picture), return_tensors="np")["pixel_values"][0]
    return torch.from_numpy(np.ascontiguousarray(out, dtype=np.float32))


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    transformers.utils.logging.disable_progress_bar()
    random = np.random.RandomState(SEED)  # a stream that numpy promises never to change

    save_checkpoint(folder, random_weights(random))
    versions = {"transformers": transformers.__version__, "torch": torch.__version__,
                "made_by": "tests/llava/make_tiny.py"}
    save(folder / "expected.safetensors", expected_values(folder, random), versions | {
        "arithmetic": "LlavaForConditionalGeneration.from_pretrained(folder, dtype=float64, eager "
                      "attention), rounded to float32; softmax, RMS norms and rotary angles are "
                      "float32 inside, as transformers has them; the same run in float32 differs "
                      "by less than 2e-5",
        "prompt_ids": "one placeholder for the image",
        "input_ids": "the placeholder repeated for each patch; P of them",
        "vision_hidden_l": "after l encoder layers, [CLS] first; 0: after pre_layrnorm; "
                           "image_features come from 3, without [CLS]",
        f"vision_queries_{ENCODER_LAYER}": "q_proj and k_proj (keys) of the encoder layer of that "
                                           "number from 0, with bias, unscaled",
        "image_features": "after the projector",
        "inputs_embeds": "what the decoder's layer 0 gets",
        "text_hidden_l": "after l decoder layers, before the final norm",
        "text_normed": "after the final norm",
        f"text_queries_{DECODER_LAYER}": "queries and keys of the decoder layer of that number "
                                         "from 0, after RoPE, unscaled: [heads][P][head_dim]",
        "logits": "of every position of the prompt",
        "generated_ids": "greedy decoding with a KV cache",
        "generated_logits": "row i chose generated_ids[i]"})

    pictures = {}
    for name, shape in ("picture", (47, 60)), ("small_picture", (24, 20)):
        picture = synthetic_picture(*shape)
        pictures |= {name: torch.from_numpy(picture), name + "_pixel_values": preprocessed(picture)}
    versions["pillow"] = PIL.__version__
    save(folder / "picture.safetensors", pictures, versions | {
        "arithmetic": "CLIPImageProcessorPil: bicubic to shortest edge 28 (in uint8), center crop "
                      "28 x 28, / 255, CLIP's mean and standard deviation",
        "picture": "RGB [height][width][channel]; to be made smaller",
        "small_picture": "the same, to be made larger"})
    for file in sorted(folder.iterdir()):
        print(f"{file.stat().st_size:8} {file.name}")


if __name__ == "__main__":
    main()
