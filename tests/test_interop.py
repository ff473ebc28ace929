"""Laws of models in Hugging Face's layout: the scores of `transformers`, exact round trips, damage named in one line.

The scores it must match lie in golden/interop.npz; golden/make_interop.py writes them with the extra `parity`.
"""

import importlib
import json
import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from lm.config import RNNConfig, Sinusoidal, TransformerConfig
from lm.data.codec import PIECE, Codec
from lm.exits import Unusable, UserError, main_guard
from lm.interop import export_model, load_model
from lm.interop.config_json import read_config
from lm.interop.layout import flat
from lm.models import build
from lm.models.transformer import resolve
from lm.strict import ConfigError
from lm.trained import load
from lm.types import Batch
from scripts.runs import read_recipe
from tasks.interop.parity import INTEROP, TEXTS, load_transformers, ours
from tasks.interop.tiny import TINY, tokens, write_tiny

GOLDEN = np.load(Path(__file__).parent / "golden" / "interop.npz")
every_model = pytest.mark.parametrize("name", TINY)


@pytest.fixture
def tiny(tmp_path):
    """Return a function that writes a tiny model and returns its folder."""

    def write(name="llama"):
        write_tiny(name, tmp_path / "model")
        return tmp_path / "model"

    return write


def change_config(folder, **changes):
    path = folder / "config.json"
    kept = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in kept.items() if value != "absent"}))


def change_tensors(folder, change, file="model.safetensors"):
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file, metadata={"format": "pt"})


def assert_same_bits(a, b):
    a, b = flat(a), flat(b)
    assert a.keys() == b.keys()
    for path, leaf in a.items():
        other = np.asarray(b[path])
        assert (leaf.dtype, leaf.shape, leaf.tobytes()) == (other.dtype, other.shape, other.tobytes()), path


@every_model
def test_scores_and_greedy_texts_are_those_of_transformers(name, tiny):
    told = ours(tiny(name), tokens(1))
    np.testing.assert_allclose(told.logits[0], GOLDEN[f"{name}: logits"], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(told.text[0], GOLDEN[f"{name}: text"])


@pytest.mark.parametrize("name", ["llama, scaled", "mistral, window", "phi3, long", "gpt_neox", "gpt2"])
def test_cached_scores_are_those_of_transformers(name, tiny):
    config, params = load_model(tiny(name))
    net, found = build(config), []
    state, given = net.cache(1, tokens().shape[1]), jnp.asarray(tokens(1))
    for part in (slice(0, 9), slice(9, 10), slice(10, 20)):
        batch = Batch(given[:, part], None, None, jnp.arange(20)[None, part], {})
        outputs, state = jax.jit(net.extend)(params, batch, state)
        found.append(outputs.logits[0])
    np.testing.assert_allclose(np.concatenate(found), GOLDEN[f"{name}: logits"], rtol=0, atol=1e-4)


@every_model
def test_what_is_exported_is_what_was_read_bit_for_bit(name, tiny, tmp_path):
    folder = tiny(name)
    (folder / "tokenizer.json").write_text("{}")
    config, params = load_model(folder)
    assert export_model(config, params, tmp_path / "whole", tokenizer_from=folder) == TINY[name]["model_type"]
    assert_same_bits(load_file(folder / "model.safetensors"), load_file(tmp_path / "whole" / "model.safetensors"))
    assert (tmp_path / "whole" / "tokenizer.json").read_text() == "{}"

    _, half = load_model(folder, "bfloat16")
    export_model(config, half, tmp_path / "parts", dtype="bfloat16", tokenizer_from=folder, shard_bytes=4000)
    parts = [safe_open(path, "numpy") for path in (tmp_path / "parts").glob("*.safetensors")]
    assert len(parts) > 2
    assert {part.get_slice(each).get_dtype() for part in parts for each in part.keys()} == {"BF16"}  # noqa: SIM118
    again, found = load_model(tmp_path / "parts", "bfloat16")
    assert resolve(again) == resolve(config) == resolve(load_model(tmp_path / "whole")[0])
    assert_same_bits(half, found)


def as_saved_by_newer_versions(folder):
    settings = {"rope_theta": 500.0, "partial_rotary_factor": 0.34, "rope_type": "default"}
    change_config(folder, rope_parameters=settings, rotary_pct="absent", rotary_emb_base="absent")


def with_buffers_and_no_prefix(folder):
    def change(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = np.ones((1, 1, 4, 4), np.uint8)

    change_tensors(folder, change)


def in_float16(folder):
    change_tensors(folder, lambda tensors: tensors.update({k: v.astype(np.float16) for k, v in tensors.items()}))


def with_a_copy_of_the_embedding(folder):
    name = "model.embed_tokens.weight"
    change_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": tensors[name].copy()}))


@pytest.mark.parametrize(
    ("name", "change", "tolerance"),
    [
        ("gpt_neox", as_saved_by_newer_versions, None),
        ("gpt2", with_buffers_and_no_prefix, 0),
        ("llama", in_float16, 2**-11),
        ("llama, tied", with_a_copy_of_the_embedding, 0),
    ],
)
def test_files_of_other_versions_are_read_too(name, change, tolerance, tiny):
    config, params = load_model(folder := tiny(name))
    change(folder)
    found, again = load_model(folder)
    if tolerance is None:
        assert found.positions.base == 500.0
    else:
        assert found == config
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance), params, again)


V_PROJ = "model.layers.1.self_attn.v_proj.weight"
SHARD, INDEX = "model-00001-of-00002.safetensors", "model.safetensors.index.json"


def sharded(folder, names, **index):
    """Split the file into one shard and an index that names these files."""
    (folder / "model.safetensors").rename(folder / SHARD)
    places = dict(enumerate(names))
    (folder / INDEX).write_text(json.dumps({"weight_map": places, **index}))


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def twice(folder):
    shutil.copyfile(folder / "model.safetensors", folder / "more.safetensors")
    sharded(folder, [SHARD, "more.safetensors"])


def outside(folder):
    sharded(folder, [f"../{SHARD}"])
    (folder / SHARD).rename(folder.parent / SHARD)


def tensors(change):
    return lambda folder: change_tensors(folder, change)


def config(**changes):
    return lambda folder: change_config(folder, **changes)


YARN = {"rope_type": "yarn", "factor": 4.0}
DAMAGE = [
    ("llama", tensors(lambda t: t.pop(V_PROJ)), f"tensor {V_PROJ} is missing"),
    ("llama", tensors(lambda t: t.update({"model.x": np.ones(3)})), "tensor model.x is none that"),
    (
        "llama",
        tensors(lambda t: t.update({V_PROJ: t[V_PROJ].T.copy()})),
        r"v_proj.weight is \[24, 12\] where .* \[12, 24\]",
    ),
    ("llama", tensors(lambda t: t.update({V_PROJ: t[V_PROJ].astype(np.int8)})), "v_proj.weight holds I8; F32"),
    ("llama, tied", tensors(lambda t: t.update({"lm_head.weight": np.zeros((31, 24), "f")})), "head.* differs from"),
    ("gpt2", tensors(lambda t: t.update({"wte.weight": np.zeros(1)})), "wte.weight a second time"),
    ("llama", truncated, "model.safetensors cannot be read"),
    ("llama", pickled, "pytorch_model.bin is a pickle, which is never opened"),
    ("llama", twice, "a second time"),
    ("llama", outside, "is no safetensors file in that folder"),
    ("llama", lambda folder: sharded(folder, ["gone.safetensors"]), "names gone.safetensors, which is no"),
    ("llama", lambda folder: sharded(folder, [], weight_map=3), "has no weight_map"),
    ("llama", lambda folder: (folder / "config.json").write_text("{"), "is not valid JSON"),
    ("llama", lambda folder: (folder / "config.json").write_text("[]"), "holds no JSON object"),
    ("llama", lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    ("llama", shutil.rmtree, "no folder"),
    (
        "llama",
        config(architectures=["LlamaForSequence"]),
        "'LlamaForSequence'.* is none .*did you mean LlamaForCausalLM",
    ),
    ("llama", config(hidden_act="absent"), "lacks hidden_act"),
    ("llama", config(hidden_act="mish"), "hidden_act 'mish' is not one of silu"),
    ("llama", config(hidden_size="24"), "describes no model: model.width: '24'"),
    ("llama", config(hidden_size=-24), "describes no model: model.width must be positive"),
    ("llama", config(vocab_size=10**12), "vocab_size 1000000000000 is beyond any model"),
    ("llama", config(rms_norm_eps=float("nan")), "rms_norm_eps nan is beyond any model"),
    ("llama", config(num_hidden_layers=10**9), "asks for 1000000000 layers, the files hold"),
    ("llama", config(attention_bias=True), "attention_bias True is not supported"),
    ("llama", config(sliding_window=8), "sliding_window 8 is not understood"),
    ("llama", config(quantization_config={"bits": 4}), "quantization_config .* is not understood"),
    ("llama", config(partial_rotary_factor=0.5), "partial_rotary_factor 0.5 is not supported"),
    ("llama", config(rope_scaling=YARN), r"scaling \['yarn'\] is not one of default, llama3, longrope"),
    ("llama", config(rope_scaling={"rope_type": "llama3", "factor": 8.0}), "llama3 scaling needs exactly"),
    ("phi3, long", config(original_max_position_embeddings=128), "original must lie between 2 and longest 64"),
    ("phi3, long", config(head_dim=8), "short must hold 4 positive numbers"),
    ("qwen2", config(use_sliding_window=True), "use_sliding_window True is not supported"),
    ("qwen2", config(layer_types=["full_attention", "sliding_attention"]), "layer_types is not full_attention in each"),
    ("phi", config(qk_layernorm=True), "qk_layernorm True is not supported"),
    ("gpt2", config(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx True is not supported"),
    ("gpt_neox", config(rope_theta=500), "rope_theta 500 contradicts rotary_emb_base 10000"),
]


@pytest.mark.parametrize(("name", "damage", "said"), DAMAGE, ids=[said for _, _, said in DAMAGE])
def test_damage_and_what_is_not_computed_here_is_one_sentence(name, damage, said, tiny):
    damage(folder := tiny(name))
    with pytest.raises((Unusable, UserError)) as error:
        load_model(folder)
    assert re.search(said, str(error.value)), str(error.value)


WEIRD = (None, True, 0, -1, 1, 2**40, 1e30, float("nan"), "", "x", [], [1], {}, {"type": []}, {"rope_type": "su"})


@every_model
def test_whatever_a_key_of_config_json_holds_it_is_read_or_refused_in_one_sentence(name):
    for key in (*TINY[name], "rope_scaling", "layer_types"):
        for value in WEIRD:
            try:
                _, found = read_config({**TINY[name], key: value}, "config.json")
            except Unusable as error:
                assert "\n" not in str(error)
            else:
                resolve(found)


OWN = TransformerConfig(31, width=24, kv_heads=2, activation="swiglu")


@pytest.mark.parametrize(
    ("changes", "settings", "said"),
    [
        ({"norm_place": "both"}, {}, "llama, the nearest family, does not express model.norm_place 'both'"),
        ({"initialisation": "t5"}, {}, "model.initialisation 't5'"),
        ({"positions": Sinusoidal()}, {}, "model.positions Sinusoidal"),
        ({"window": 8}, {"family": "qwen2"}, "qwen2.* does not express model.qkv_bias False, model.window 8"),
        ({}, {"family": "lama"}, "did you mean llama"),
        ({}, {"dtype": "int8"}, "dtype must be one of float32, bfloat16"),
        ({"feedforward": 80}, {}, r"blocks/feedforward/down/kernel has shape \(2, 64, 24\), .* \(2, 80, 24\)"),
    ],
)
def test_a_model_that_no_family_expresses_is_refused(changes, settings, said, tmp_path):
    params = jax.tree.map(np.asarray, build(OWN).init(jax.random.key(0)))
    with pytest.raises((UserError, ConfigError), match=said):
        export_model(replace(OWN, **changes), params, tmp_path / "out", **settings)
    assert not list(tmp_path.iterdir())


def test_what_is_no_transformer_is_refused(tmp_path):
    with pytest.raises(UserError, match="no transformer but a RNNConfig"):
        export_model(RNNConfig(), {}, tmp_path / "out")


def test_an_export_overwrites_nothing(tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        export_model(OWN, build(OWN).init(jax.random.key(0)), tmp_path)


def test_an_exported_codec_splits_text_as_the_codec_does():
    from tokenizers import Tokenizer

    codec = Codec.train(TEXTS, 300)
    exported = Tokenizer.from_str(codec.tokenizer_json())
    signs = [chr(i) for i in (*range(0x250), *range(0x300, 0xD800, 7), *range(0x1F300, 0x1FAFF, 5))]
    for text in (
        *TEXTS,
        *(f"a{sign} {sign}_{sign}1{sign}{sign}b" for sign in signs if sign.isprintable() or sign < "\xff"),
    ):
        assert exported.encode(text).ids == codec.encode(text)
        spans = [span for _, span in exported.pre_tokenizer.pre_tokenize_str(text)]
        assert [text[slice(*span)] for span in spans] == PIECE.findall(text)


def test_a_grown_run_with_majority_kernels_is_exported_settled_with_its_codec(tmp_path, monkeypatch, capsys):
    def call(script, line):
        monkeypatch.setattr(sys, "argv", [f"scripts/{script}.py", *shlex.split(line)])
        with pytest.raises(SystemExit) as end:
            main_guard(importlib.import_module(f"scripts.{script}").main)
        assert end.value.code == 0
        return capsys.readouterr().out

    run, out = tmp_path / "run", tmp_path / "out"
    small = "--train.steps 3 --train.batch_size 2 --model.width 16 --data.problems 100 --task.test_count 2"
    small += " --model.depth 2 --growth.depths 1 2"
    call("train", f"tinygsm_grown_cpu --workdir {run} {small} --transforms majoritykernels:factor=2")
    assert "as a llama in" in call("convert", f"export --workdir {run} --out {out} --dtype float32")
    trained = load(read_recipe(run), run)
    config, params = load_model(out)
    assert resolve(config) == resolve(replace(trained.recipe.model, dropout=0.0))
    assert_same_bits(params, jax.device_get(trained.params))
    codec, settings = trained.source.codec, json.loads((out / "config.json").read_text())
    assert (settings["bos_token_id"], settings["eos_token_id"]) == (codec.bos, codec.eos)
    assert "parameters" in call("convert", f"inspect --model {out}")
    assert read_config(settings, "config.json")[0].model_type == "llama"


@pytest.mark.slow
def test_models_texts_and_tokenizers_are_those_of_transformers_now(tmp_path):
    try:
        version = load_transformers().__version__
    except UserError as error:
        pytest.skip(str(error))
    figures = INTEROP.run(tmp_path, "cpu", 0)
    failed = {claim.metric: figures[claim.metric] for claim in INTEROP.claims if figures[claim.metric] > claim.at_most}
    assert not failed, f"transformers {version}; the golden scores are of {GOLDEN['transformers']}"
