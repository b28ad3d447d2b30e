"""Weights on disk -> a model that runs: checked, measured and sized. Blocks for seconds to minutes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from decoding.cpus import default_threads
from decoding.folder import end_tokens, ends_in, read_template
from decoding.kind import kind_of
from decoding.loaded import LoadedModel, check_tasks
from decoding.memory import check_weights, fitting_slots
from decoding.recipe import choose_pooling, read_recipe
from decoding.scheduler import Limits
from decoding.template import ChatTemplate
from decoding.tokens import Vocabulary
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from core.api import EngineContext, EngineInfo, EngineLoadError
from torch_backend import attention, cuda_graphs
from torch_backend.architecture import check_decoder, probe
from torch_backend.checkpoint import Checkpoint
from torch_backend.device import DeviceChoice, Dtype, choose_device, choose_dtype, find_devices
from torch_backend.encoder import CrossEncoderRunner, EncoderRunner, most_positions
from torch_backend.measure import Format, linear_shapes, measure
from torch_backend.memory import free_device_bytes, own_device_bytes
from torch_backend.packing import pack_linears
from torch_backend.pooling import make_dense
from torch_backend.runner import TorchRunner
from torch_backend.settings import TorchSettings
from torch_backend.sources import find_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["load_model"]

_MEASURED_DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
_MEASURED_ROWS = (1, 16)
# While others decode, while none does: on a CPU each prompt token costs, elsewhere a step costs much the same anyway.
_CPU_LIMITS = (64, 256)
_GPU_LIMITS = (512, 2048)
_UNBOUNDED = 1 << 30

Details = dict[str, str | int | float | bool]


def load_model(context: EngineContext, settings: TorchSettings) -> LoadedModel:
    """Load the model of a replica.

    Raises:
        EngineLoadError: it cannot be loaded; the message says why in a sentence.
    """
    transformers.utils.logging.disable_progress_bar()
    return _Loader(context, settings).load()


class _Loader:
    def __init__(self, context: EngineContext, settings: TorchSettings) -> None:
        self._spec = context.model
        self._settings = settings
        devices = find_devices()
        self._device: DeviceChoice = choose_device(settings.device, devices)
        self._dtype = choose_dtype(settings.dtype, self._device, devices)
        self._threads = settings.threads or default_threads()
        torch.set_num_threads(self._threads)
        # Which format is fastest is known only once there is a config; a GGUF file's weights fit into 16 bits.
        self._override = read_template(settings.chat_template)
        folder = _found(context.weights, self._dtype or "bfloat16", settings.cache_dir)
        name = self._spec.name
        self._checkpoint = Checkpoint(folder, name, trusted=name in settings.trust_remote_code)

    def load(self) -> LoadedModel:
        kind = kind_of(self._checkpoint.config)
        check_tasks(self._spec, kind)
        match kind:
            case "decoder":
                return self._load_decoder()
            case "encoder":
                return self._load_encoder()
            case "cross_encoder":
                return self._load_scorer()

    def _load_decoder(self) -> LoadedModel:
        settings, device = self._settings, self._device.device
        outline = self._checkpoint.outline(AutoModelForCausalLM)
        check_decoder(self._checkpoint.config, outline)
        kept, figures = self._choose_format(outline)
        weights_bytes = outline.num_parameters() * getattr(torch, kept.dtype).itemsize
        check_weights(weights_bytes, free_device_bytes(device), remedy="set dtype to one of 16 bits")
        model = self._checkpoint.weights(AutoModelForCausalLM, kept.dtype, device)
        probed = probe(model)
        if kept.packed:
            pack_linears(model)

        text = self._checkpoint.config.get_text_config(decoder=True)
        context_tokens = min(self._spec.context_tokens, getattr(text, "max_position_embeddings", None) or _UNBOUNDED)
        token_bytes = sum(shape.numbers for shape in probed.shapes) * model.dtype.itemsize
        slots = fitting_slots(
            slots=settings.slots,
            context_tokens=context_tokens,
            token_bytes=token_bytes,
            free_bytes=free_device_bytes(device),
            share=settings.memory_share,
        )
        kernel = attention.choose(settings.attention, device)
        graphs = cuda_graphs.usable(device, wanted=settings.cuda_graphs)
        runner = TorchRunner(
            model,
            probed.shapes,
            slots=slots,
            context_tokens=context_tokens,
            kernel=kernel,
            pooling=choose_pooling(settings.pooling, self._checkpoint.folder),
            graphs=graphs,
        )
        probed.check(runner, model.dtype)

        kv_bytes = slots * context_tokens * token_bytes
        tokenizer = self._checkpoint.tokenizer()
        ends = end_tokens(ends_in(self._checkpoint.folder, self._checkpoint.config), tokenizer)
        return self._loaded(
            tokenizer,
            Vocabulary(tokenizer, ends, size=runner.vocab_size),
            runner=runner,
            embedder=runner,
            context_tokens=context_tokens,
            slots=slots,
            memory_bytes=weights_bytes + kv_bytes,
            details={
                **self._details(model, kept),
                "measured": figures,
                "attention": kernel.__name__,
                "cuda_graphs": graphs,
                "slots_requested": settings.slots,
                "weights_bytes": weights_bytes,
                "kv_bytes": kv_bytes,
                "kv_bytes_per_token": token_bytes,
                "parameters": outline.num_parameters(),
            },
        )

    def _load_encoder(self) -> LoadedModel:
        recipe = read_recipe(self._checkpoint.folder, self._settings.pooling)
        model, tokenizer, context_tokens = self._load_reader(AutoModel)
        context_tokens = min(context_tokens, recipe.max_tokens or _UNBOUNDED)
        return self._loaded(
            tokenizer,
            Vocabulary(tokenizer, ()),
            embedder=EncoderRunner(
                model, context_tokens=context_tokens, pooling=recipe.way, dense=make_dense(recipe.dense)
            ),
            context_tokens=context_tokens,
            memory_bytes=model.get_memory_footprint(),
            details={**self._details(model, Format(self._dtype or "float32", packed=False)), "pooling": recipe.way},
        )

    def _load_scorer(self) -> LoadedModel:
        model, tokenizer, context_tokens = self._load_reader(AutoModelForSequenceClassification)
        vocabulary = Vocabulary(tokenizer, ())  # from here on the tokenizer neither pads nor truncates
        scorer = CrossEncoderRunner(
            model,
            tokenizer.backend_tokenizer,
            context_tokens=context_tokens,
            takes_types="token_type_ids" in tokenizer.model_input_names,
        )
        return self._loaded(
            tokenizer,
            vocabulary,
            scorer=scorer,
            context_tokens=context_tokens,
            memory_bytes=model.get_memory_footprint(),
            details=self._details(model, Format(self._dtype or "float32", packed=False)),
        )

    def _load_reader(self, auto: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, int]:
        """A model that reads whole texts, its tokenizer, and how long they may be."""
        # Vectors are kept and compared for years: nothing is rounded where that is not what makes it fast.
        model = self._checkpoint.weights(auto, self._dtype or "float32", self._device.device)
        tokenizer = self._checkpoint.tokenizer()
        return (
            model,
            tokenizer,
            min(self._spec.context_tokens, most_positions(model) or _UNBOUNDED, tokenizer.model_max_length),
        )

    def _choose_format(self, outline: PreTrainedModel) -> tuple[Format, str]:
        """How to keep the weights, and the figures that say so."""
        if self._device.kind != "cpu":
            return Format(self._dtype or "float16", packed=False), ""
        dtypes = _MEASURED_DTYPES if self._dtype is None else (self._dtype,)
        measured = measure(linear_shapes(outline), dtypes, _MEASURED_ROWS, pack=self._settings.pack_weights)
        return measured.fastest, str(measured)

    def _details(self, model: PreTrainedModel, kept: Format) -> Details:
        return {
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
            "architecture": type(model).__name__,
            "dtype": kept.dtype,
            "packed_weights": kept.packed,
            "threads": self._threads,
        }

    def _loaded(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocabulary: Vocabulary,
        *,
        runner: TorchRunner | None = None,
        embedder: TorchRunner | EncoderRunner | None = None,
        scorer: CrossEncoderRunner | None = None,
        context_tokens: int,
        slots: int | None = None,
        memory_bytes: int,
        details: Details,
    ) -> LoadedModel:
        settings = self._settings
        together, alone = _CPU_LIMITS if self._device.kind == "cpu" else _GPU_LIMITS
        together = settings.prefill_tokens or together
        limits = Limits(prefill_tokens=together, prefill_tokens_alone=max(alone, together))
        return LoadedModel(
            vocabulary=vocabulary,
            template=ChatTemplate(tokenizer, self._override),
            limits=limits,
            runner=runner,
            embedder=embedder,
            scorer=scorer,
            info=EngineInfo(
                device_requested=settings.device,
                device=self._device.device,
                device_reason=self._device.reason,
                context_tokens=context_tokens,
                slots=settings.slots if slots is None else slots,
                memory_bytes=memory_bytes,
                details={**details, "prefill_tokens": limits.prefill_tokens},
                device_memory_bytes=own_device_bytes(self._device.device),
            ),
        )


def _found(weights: Path | None, gguf_dtype: Dtype, cache_dir: Path | None) -> Path:
    try:
        return find_folder(weights, gguf_dtype, cache_dir)
    except OSError as error:
        msg = (
            f"'{error.filename or cache_dir}' cannot be used: {error.strerror}. Is cache_dir a folder with room in it?"
        )
        raise EngineLoadError(msg) from error
