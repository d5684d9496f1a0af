"""Sizes of LLM+V+A and V-LLM+A, which have connectors between encoders and a language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from crab_lightning.adapters import AdapterConfig
from crab_lightning.compat import from_config
from crab_lightning.planning.shape import ConnectorShape, Shape, adapted, count, known_config, shape_of

if TYPE_CHECKING:
    from crab_lightning.models import LlmVaModule, VllmAModule

FRAMES, SECONDS = 10, 10
"""Number of frames and seconds of sound in a usual sample."""
LONG_SECONDS = 20
"""Seconds of sound in the longest samples (MUSIC-AVQA)."""
NATIVE_TOKENS, NATIVE_LONGEST, NATIVE_PER_S = 725, 1350, 25
"""Native architecture: mean and largest tokens of a sample of AV-UIE v2, and tokens of 1 s of sound."""


def measure_llm_va(init: Any, adapter: AdapterConfig | None, module: type[LlmVaModule]) -> Shape:
    """Build LLM+V+A on the meta device, and return its sizes.

    Args:
        init: ``model.init_args`` of the config.
        adapter: The adapters; ``None`` for stage 1.
        module: Class that reads the checkpoint.
    """
    from transformers import CLIPVisionConfig, LlamaConfig

    from crab_lightning.encoders import BeatsAudio, ClipVision
    from crab_lightning.models.connectors import ConnectorConfig
    from crab_lightning.models.llm_va import LlmVaModel

    text, source = known_config(
        "composite", "model.pretrained", str(init.pretrained), LlamaConfig, module.processor_class
    )
    visual = _encoder(init, "visual_encoder")
    if visual is None:
        visual = ClipVision(str(init.vision))
        # A folder of CLIP's vision half says so in its config.
        whole, _ = known_config("composite", "model.vision", visual.pretrained, CLIPVisionConfig, part=True)
        visual.config = getattr(whole, "vision_config", whole)
    audio = _encoder(init, "audio_encoder") or BeatsAudio(str(init.beats))
    sizes = ConnectorConfig(**dict(init.connector))
    with torch.device("meta"):
        language_model: Any = from_config(module.model_class, text)
        towers: Any = {"visual": visual.build(), "audio": audio.build()}
        model = LlmVaModel(language_model, towers, visual, audio, sizes)
    # BEATs makes 48 tokens of one second of sound if it reads that second alone.
    heard = SECONDS * (audio.cut or 48)
    return _measured(
        source,
        model,
        language_model,
        list(towers.values()),
        {"visual": model.visual_connector, "audio": model.audio_connector},
        {"visual": (FRAMES * visual.tokens, FRAMES), "audio": (heard, SECONDS)},
        init,
        adapter,
        vision=(visual.width(towers["visual"]), visual.ffn),
        audio=(audio.width(towers["audio"]), audio.ffn),
        per_second=sizes.queries,
        patches=FRAMES * (visual.tokens + 1),
    )


def measure_vllm_a(init: Any, adapter: AdapterConfig | None, module: type[VllmAModule]) -> Shape:
    """Build V-LLM+A on the meta device, and return its sizes.

    Args:
        init: ``model.init_args`` of the config.
        adapter: The adapters; ``None`` for stage 1.
        module: Class that reads the checkpoint.
    """
    from crab_lightning.encoders import BeatsAudio
    from crab_lightning.models.connectors import ConnectorConfig
    from crab_lightning.models.vllm_a import VllmAModel

    config, source = known_config(
        "composite",
        "model.pretrained",
        str(init.pretrained),
        module.model_class.config_class,
        module.processor_class,
    )
    audio = _encoder(init, "audio_encoder") or BeatsAudio(str(init.beats))
    sizes = ConnectorConfig(**dict(init.connector))
    with torch.device("meta"):
        language_model: Any = from_config(module.model_class, config)
        tower = audio.build()
        model = VllmAModel(language_model, tower, audio, sizes)
    windows = int(SECONDS * audio.tokens_per_s) // sizes.window_tokens
    return _measured(
        source,
        model,
        language_model,
        [language_model.model.visual, tower],
        {"audio": model.audio_connector},
        {"audio": (windows * sizes.window_tokens, windows)},
        init,
        adapter,
        vision=(config.vision_config.hidden_size, config.vision_config.intermediate_size),
        audio=(audio.width(tower), audio.ffn),
        per_second=round(audio.tokens_per_s / sizes.window_tokens * sizes.queries),
        patches=1280,
    )


def _measured(
    source: str,
    model: nn.Module,
    language_model: Any,
    towers: list[nn.Module],
    connectors: dict[str, Any],
    features: dict[str, tuple[int, int]],
    init: Any,
    adapter: AdapterConfig | None,
    *,
    vision: tuple[int, int],
    audio: tuple[int, int],
    per_second: int,
    patches: int,
) -> Shape:
    """Freeze weights and insert adapters as ``CompositeModule`` does, and return the sizes."""
    model.requires_grad_(False)
    decoder = language_model.get_decoder()
    seen, heard = (count(tower.parameters()) for tower in towers)
    trained = {name: connectors[name] for name in init.train_connectors}
    base = adapted(model, decoder, towers, adapter, list(trained.values()))
    for connector in trained.values():
        connector.requires_grad_(True)
    shapes = tuple(
        ConnectorShape(one.config, one.encoder_width, *features[name], one.width)
        for name, one in trained.items()
    )
    more = per_second - NATIVE_PER_S
    return shape_of(
        source,
        model,
        language_model.config.get_text_config(),
        decoder,
        towers,
        adapter,
        base=base,
        vision=(*vision, seen),
        audio=(*audio, heard),
        connectors=shapes,
        sample_tokens=(NATIVE_TOKENS + SECONDS * more, NATIVE_LONGEST + LONG_SECONDS * more),
        patches=patches,
    )


def _encoder(init: Any, key: str) -> Any:
    """Return the encoder that a parsed config names under a key, or ``None`` if it names none."""
    from crab_lightning.configuration.objects import class_of

    named = init.get(key) if hasattr(init, "get") else getattr(init, key, None)
    return None if named is None else class_of(named.class_path)(**dict(named.get("init_args") or {}))
