"""Which file of a folder is loaded, what it is, and what is told of it; what cannot be served is refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnx_backend.graph import DecoderGraph, read_decoder
from onnx_backend.layout import find_graph, graph_kind, read_documents
from onnx_backend.operators import operators
from onnx_backend.testing import make_decoder
from onnx_backend.testing_growing import HEADS, LAYERS, SIZE, VOCABULARY, make_growing

from core.api import EngineLoadError

INT64, FLOAT = TensorProto.INT64, TensorProto.FLOAT


def put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def genai(folder: Path, **decoder: Any) -> None:
    (folder / "genai_config.json").write_text(json.dumps({"model": {"decoder": decoder}}))


def session_of(file: Path) -> ort.InferenceSession:
    return ort.InferenceSession(file, providers=["CPUExecutionProvider"])


def read(file: Path) -> DecoderGraph:
    return read_decoder(session_of(file), file, file.parent)


def refusal(file: Path) -> str:
    with pytest.raises(EngineLoadError) as refused:
        read(file)
    assert refused.value.permanent
    return str(refused.value)


def echo(folder: Path, inputs: list[tuple[str, int, list[Any]]], outputs: list[tuple[str, int, list[Any]]]) -> Path:
    """A graph of the given signature, which computes nothing of sense."""
    nodes = []
    for number, (name, kind, shape) in enumerate(outputs):
        nodes.append(helper.make_node("Shape", [inputs[0][0]], [f"s{number}"]))
        nodes.append(helper.make_node("ConstantOfShape", [f"s{number}"], [f"c{number}"]))
        nodes.append(helper.make_node("Cast", [f"c{number}"], [f"k{number}"], to=kind))
        axes = helper.make_node("Constant", [], [f"a{number}"], value_ints=[1] * len(shape))
        nodes += [axes, helper.make_node("Expand", [f"k{number}", f"a{number}"], [name])]
    infos = [[helper.make_tensor_value_info(*one) for one in side] for side in (inputs, outputs)]
    made = helper.make_graph(nodes, "echo", *infos)
    file = folder / "model.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), file)
    return file


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["decoder.onnx"], "decoder.onnx"),
        (["deep/er/q4.onnx"], "deep/er/q4.onnx"),
        (["model.onnx", "model_quantized.onnx", "onnx/model.onnx"], "model.onnx"),
        (["onnx/model.onnx", "onnx/model_q4.onnx"], "onnx/model.onnx"),
        (
            ["decoder_model.onnx", "decoder_with_past_model.onnx", "decoder_model_merged.onnx"],
            "decoder_model_merged.onnx",
        ),
        (["decode.onnx", "prefill.onnx"], "decode.onnx"),
    ],
)
def test_the_usual_layouts(tmp_path: Path, names: list[str], found: str) -> None:
    """The only file, or the one that has the usual name."""
    assert find_graph(put(tmp_path, *names), None) == tmp_path / found


def test_what_the_operator_and_genai_config_name(tmp_path: Path) -> None:
    """The operator's word comes before the files', and these before usual names; a file stands for itself."""
    put(tmp_path, "model.onnx", "onnx/q4.onnx", "a.onnx", "weights.bin")
    genai(tmp_path, filename="a.onnx")
    assert find_graph(tmp_path, "onnx/q4.onnx") == tmp_path / "onnx/q4.onnx"
    assert find_graph(tmp_path, None) == tmp_path / "a.onnx"
    assert find_graph(tmp_path / "model.onnx", None) == tmp_path / "model.onnx"
    with pytest.raises(EngineLoadError, match=r"is no \.onnx file"):
        find_graph(tmp_path / "weights.bin", None)


def test_no_and_several_graphs(tmp_path: Path) -> None:
    """Without a hint the candidates are named, and the setting that tells them apart."""
    with pytest.raises(EngineLoadError, match=r"has no \.onnx file"):
        find_graph(tmp_path, None)
    with pytest.raises(EngineLoadError, match=r"set `graph` to one of a\.onnx, sub/b\.onnx\.") as refused:
        find_graph(put(tmp_path, "a.onnx", "sub/b.onnx"), None)
    assert refused.value.permanent
    with pytest.raises(EngineLoadError, match=r"graph = 'c\.onnx' is not in .*, which has a\.onnx, sub/b\.onnx"):
        find_graph(tmp_path, "c.onnx")


@pytest.mark.parametrize(
    "name", ["../out.onnx", "sub/../../out.onnx", "/out.onnx", "..\\out.onnx", "C:\\out.onnx", "x.bin"]
)
def test_nothing_outside_of_the_folder(tmp_path: Path, name: str) -> None:
    """Neither the setting nor a file of the repository leads out of its folder."""
    folder = put(tmp_path, "out.onnx", "in/sub/x.onnx", "in/x.bin") / "in"
    with pytest.raises(EngineLoadError, match="inside"):
        find_graph(folder, name)
    genai(folder, filename=name)
    with pytest.raises(EngineLoadError, match=r"genai_config\.json names.*inside"):
        find_graph(folder, None)


def test_a_link_is_a_file_of_the_folder(tmp_path: Path) -> None:
    """What the model hub's client keeps are links into its own store."""
    put(tmp_path, "store/blob", "snapshot/other.onnx")
    (tmp_path / "snapshot" / "model.onnx").symlink_to(tmp_path / "store" / "blob")
    assert find_graph(tmp_path / "snapshot", None).name == "model.onnx"


def test_a_grown_cache(tmp_path: Path) -> None:
    """What optimum writes: names, sizes, formats, and that nothing is shared."""
    graph = read(make_growing(tmp_path))
    assert [layer.past_key for layer in graph.layers] == [f"past_key_values.{n}.key" for n in range(LAYERS)]
    assert [layer.present_value for layer in graph.layers] == [f"present.{n}.value" for n in range(LAYERS)]
    assert {(layer.heads, layer.key_size, layer.value_size) for layer in graph.layers} == {(HEADS, SIZE, SIZE)}
    assert (graph.vocab_size, graph.logits, graph.last_logits_only) == (VOCABULARY, "logits", False)
    assert (graph.hidden, graph.hidden_format, graph.cache_format) == ("hidden_states", np.float32, np.float32)
    assert graph.takes_mask
    assert graph.takes_positions
    assert not any((graph.shares_buffer, graph.rounds, graph.mixes_rows, graph.constants))


def test_a_shared_buffer(tmp_path: Path) -> None:
    """What the builder of onnxruntime-genai writes, in float16."""
    graph = read(make_decoder(tmp_path, dtype=np.float16, hidden=False))
    assert graph.shares_buffer
    assert graph.last_logits_only
    assert graph.hidden is None
    assert (graph.cache_format, graph.logits_format) == (np.float16, np.float16)
    assert not graph.takes_positions


@pytest.mark.parametrize(
    ("past", "present"),
    [
        ("past.{}.{}", "present.{}.{}"),
        ("past_key_values.{}.{}", "present_key_values.{}.{}"),
        ("input.past_key_values.layers.{}.{}s", "output.past_key_values.layers.{}.{}s"),
    ],
)
def test_other_names(tmp_path: Path, past: str, present: str) -> None:
    """Names of other exporters."""
    graph = read(make_growing(tmp_path, past=past, present=present))
    assert graph.layers[1].past_key == past.format(1, "key")
    assert graph.layers[1].present_value == present.format(1, "value")


def test_names_by_genai_config(tmp_path: Path) -> None:
    """Any names, if the file beside the graph tells them."""
    file = make_growing(tmp_path, past="kept_{}_{}_in", present="kept_{}_{}_out")
    assert "no KV cache" in refusal(file)
    genai(
        tmp_path,
        inputs={"past_key_names": "kept_%d_key_in", "past_value_names": "kept_%d_value_in"},
        outputs={"present_key_names": "kept_%d_key_out", "present_value_names": "kept_%d_value_out"},
    )
    graph = read(file)
    assert [layer.past_value for layer in graph.layers] == ["kept_0_value_in", "kept_1_value_in"]
    assert [layer.present_key for layer in graph.layers] == ["kept_0_key_out", "kept_1_key_out"]


def signature(heads: Any, size: Any, vocabulary: Any) -> tuple[list[Any], list[Any]]:
    inputs = [("input_ids", INT64, ["rows", "new"])]
    outputs = [("logits", FLOAT, ["rows", "new", vocabulary])]
    for half in ("key", "value"):
        inputs.append((f"past_key_values.0.{half}", FLOAT, ["rows", heads, "past", size]))
        outputs.append((f"present.0.{half}", FLOAT, ["rows", heads, "kept", size]))
    return inputs, outputs


@pytest.mark.parametrize(
    "config",
    [
        {"num_key_value_heads": 3, "head_dim": 5, "hidden_size": 700, "num_attention_heads": 7, "vocab_size": 11},
        {"num_attention_heads": 3, "hidden_size": 15, "vocab_size": 11},
        {"n_head": 3, "n_embd": 15, "vocab_size": 11},
        {"hidden_size": 1, "text_config": {"num_key_value_heads": 3, "head_dim": 5, "vocab_size": 11}},
    ],
)
def test_sizes_that_the_graph_leaves_open(tmp_path: Path, config: dict[str, Any]) -> None:
    """They are config.json's; genai_config.json's come first; what neither has is asked for by name."""
    file = echo(tmp_path, *signature("heads", "kv_cache_dim", "words"))
    assert "num_key_value_heads" in refusal(file)
    (tmp_path / "config.json").write_text(json.dumps(config))
    graph = read(file)
    assert (graph.layers[0].heads, graph.layers[0].key_size, graph.vocab_size) == (3, 5, 11)
    genai(tmp_path, head_size=9)
    assert read(file).layers[0].value_size == 9


def test_the_config_of_the_folder_above(tmp_path: Path) -> None:
    """Hub repositories keep graphs one folder below their config.json."""
    (tmp_path / "onnx").mkdir()
    file = echo(tmp_path / "onnx", *signature(2, "size", 7))
    (tmp_path / "config.json").write_text('{"head_dim": 6}')
    assert read_decoder(session_of(file), file, tmp_path).layers[0].key_size == 6
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(EngineLoadError, match="something else than a table"):
        read_decoder(session_of(file), file, tmp_path)


@pytest.mark.parametrize(
    ("name", "written", "where"),
    [
        ("genai_config.json", '{"model": [1]}', "model"),
        ("genai_config.json", '{"model": {"decoder": "x"}}', "model.decoder"),
        ("config.json", '{"text_config": "x"}', "text_config"),
    ],
)
def test_a_part_of_a_config_that_is_no_table(tmp_path: Path, name: str, written: str, where: str) -> None:
    """It is said which part; null says as much as nothing."""
    (tmp_path / "model.onnx").touch()
    (tmp_path / "genai_config.json").write_text('{"model": null}')
    assert find_graph(tmp_path, None).name == "model.onnx"
    (tmp_path / name).write_text(written)
    with pytest.raises(EngineLoadError, match=f"something else than a table as its {where}") as raised:
        read_documents(tmp_path / "model.onnx", tmp_path)
    assert raised.value.permanent


def test_inputs_that_never_change(tmp_path: Path) -> None:
    """The switch of merged graphs, and how many logits are wanted, are given in every call."""
    graph = read(make_growing(tmp_path, extra=["use_cache_branch:bool", "num_logits_to_keep"]))
    assert {name: value.tolist() for name, value in graph.constants.items()} == {
        "use_cache_branch": [True],
        "num_logits_to_keep": [1],
    }
    assert graph.last_logits_only
    graph.session.run(None, graph.whole([1, 2]))


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("encoder_hidden_states", "an encoder and a decoder"),
        ("inputs_embeds", "vectors instead of tokens"),
        ("past_conv_state.0", "recurrent state"),
        ("cache_indirection", "beam search"),
        ("something_new", "it needs something_new."),
    ],
)
def test_unknown_inputs(tmp_path: Path, extra: str, said: str) -> None:
    """They are named, with what they betray."""
    message = refusal(make_growing(tmp_path, extra=[extra]))
    assert extra in message
    assert said in message


def test_forms_that_are_refused(tmp_path: Path) -> None:
    """A cache of another rank or format, positions of three kinds, an output that is missing."""
    inputs, outputs = signature(2, 4, 7)
    kinds = {"past_key_values.0.key": TensorProto.INT8}
    quantised = [(name, kinds.get(name, kind), shape) for name, kind, shape in inputs]
    assert "not float32 or float16" in refusal(echo(tmp_path, quantised, outputs))
    assert "it gives no logits" in refusal(echo(tmp_path, inputs, outputs[1:]))
    assert "no new cache for past_key_values.0.value" in refusal(echo(tmp_path, inputs, outputs[:2]))
    places = ("position_ids", INT64, [3, "rows", "new"])
    assert "position_ids is tensor(int64)" in refusal(echo(tmp_path, [*inputs, places], outputs))
    flat = [inputs[0], *((name, kind, ["rows", "past", 8]) for name, kind, _ in inputs[1:])]
    assert "is not [rows, heads, positions, size]" in refusal(echo(tmp_path, flat, outputs))


class _Config:
    def __init__(self, architecture: str, labels: int = 1) -> None:
        self.architectures = [architecture]
        self.is_encoder_decoder = False
        self.num_labels = labels
        self.model_type = "bert"


def kind(file: Path, config: Any = None) -> str:
    return graph_kind(session_of(file), file, config)


def test_kinds(tmp_path: Path) -> None:
    """The signature comes first, then the architecture; a decoder without a cache is refused with the remedy."""
    tokens = [("input_ids", INT64, ["rows", "new"])]
    assert kind(make_growing(tmp_path), _Config("BertModel")) == "decoder"
    vectors = echo(tmp_path, tokens, [("last_hidden_state", FLOAT, ["rows", "new", 8])])
    assert kind(vectors) == "encoder"
    assert kind(vectors, _Config("LlamaForCausalLM")) == "encoder"
    logits = echo(tmp_path, tokens, [("logits", FLOAT, ["rows", 1])])
    assert kind(logits, _Config("BertForSequenceClassification")) == "cross_encoder"
    with pytest.raises(EngineLoadError, match="3 labels"):
        kind(logits, _Config("BertForSequenceClassification", labels=3))
    with pytest.raises(EngineLoadError, match=r"no KV cache.*text-generation-with-past"):
        kind(logits, _Config("LlamaForCausalLM"))


def test_operators(tmp_path: Path) -> None:
    """All of them, those of inner graphs too; weights and names are no operators."""
    then, other = (
        helper.make_graph(
            [helper.make_node(operator, ["x"], ["y"])], operator, [], [helper.make_tensor_value_info("y", FLOAT, [1])]
        )
        for operator in ("Tanh", "MatMulNBits")
    )
    nodes = [
        helper.make_node("If", ["c"], ["z"], then_branch=then, else_branch=other),
        helper.make_node("Add", ["z", "w"], ["out"], name="GroupQueryAttention"),
    ]
    weight = helper.make_tensor("w", FLOAT, [300], np.arange(300, dtype=np.float32).tobytes(), raw=True)
    infos = [helper.make_tensor_value_info("x", FLOAT, [1]), helper.make_tensor_value_info("c", TensorProto.BOOL, [])]
    made = helper.make_graph(nodes, "Softmax", infos, [helper.make_tensor_value_info("out", FLOAT, [300])], [weight])
    file = tmp_path / "m.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)]), file)
    assert operators(file) == {"If", "Add", "Tanh", "MatMulNBits"}
    whole = file.read_bytes()
    for broken in (whole[:-1], whole[: len(whole) // 2], b"{}", b"\xff" * 30):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match="is no"):
            operators(file)
