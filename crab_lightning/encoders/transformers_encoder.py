"""The base classes of encoders whose module is a class of transformers, and the loading of its weights."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import nn

from crab_lightning.encoders.base import Encoder, VisualEncoder
from crab_lightning.files import refuse_no_checkpoint


class TransformersEncoder(Encoder):
    """An encoder whose module is a class of transformers.

    Args:
        pretrained: Folder or hub name of the checkpoint.
    """

    families: ClassVar[tuple[str, ...]]
    """Allowed values of ``model_type`` in the config.json of a checkpoint."""
    part: ClassVar[tuple[str, ...]] = ()
    """Keys that lead to the encoder's config inside the config of a larger model, the outermost key first."""

    library_class: ClassVar[str] = ""
    """Name of the class in transformers; a subclass with several classes overrides ``kind`` instead."""

    def kind(self) -> Any:
        """Return the class of transformers; transformers is imported only here."""
        import transformers

        return getattr(transformers, self.library_class)

    @cached_property
    def config(self) -> Any:
        """Config of the encoder, read from the checkpoint's config.json.

        Raises:
            ValueError: If the checkpoint is of another family.
        """
        from transformers import AutoConfig, PreTrainedConfig

        refuse_no_checkpoint(self.pretrained, f"model.{self.key}")
        found = PreTrainedConfig.get_config_dict(self.pretrained)[0].get("model_type")
        if found not in self.families:
            raise ValueError(
                f"model.{self.key} {self.pretrained}: the model_type of its config.json is {found!r}; "
                f"{self.name} reads {' or '.join(self.families)}. Choose the class that reads this family, "
                "or give another checkpoint"
            )
        config: Any = AutoConfig.from_pretrained(self.pretrained, trust_remote_code=False)
        for key in self.part:
            config = getattr(config, key, config)
        return config

    @property
    def ffn(self) -> int:
        """Width inside the feed-forward layers."""
        return int(getattr(self.config, "intermediate_size", 4 * self.config.hidden_size))

    def build(self) -> nn.Module:
        """Return the module with random weights."""
        from crab_lightning.compat import from_config

        module: nn.Module = from_config(self.kind(), self.config)
        return module

    def load(self, dtype: torch.dtype) -> nn.Module:
        """Return the module with the checkpoint's weights."""
        _ = self.config  # raises for another family before weights are read
        module: nn.Module = load_complete(self.kind(), self.pretrained, f"encoder {self.name}", dtype=dtype)
        return module

    def width(self, tower: nn.Module) -> int:
        """Return the width of the features."""
        return int(self.config.hidden_size)


class PatchVision(TransformersEncoder, VisualEncoder):
    """A vision encoder of transformers that computes one feature for each square patch of a frame."""

    @property
    def tokens(self) -> int:
        """Number of patches of a frame."""
        return int((self.side_px // self.config.patch_size) ** 2)


def load_complete(kind: Any, name: str, what: str, **options: Any) -> Any:
    """Load a transformers model, and raise an error if the checkpoint lacks weights.

    Args:
        kind: Class of the model.
        name: Folder or hub name of the checkpoint.
        what: Name of the part of the model, for the error message.
        options: Options of ``from_pretrained``.

    Returns:
        The model.

    Raises:
        ValueError: If weights are missing or have another shape, so that they would keep random values.
    """
    from crab_lightning.compat import load_with_info

    model, info = load_with_info(kind, name, **options)
    missing, wrong = sorted(info["missing_keys"]), sorted(map(str, info["mismatched_keys"]))
    if missing or wrong:
        raise ValueError(
            f"{name}: {len(missing)} weights of the {what} are missing (first: {missing[:1]}), {len(wrong)} "
            f"have another shape (first: {wrong[:1]}). They would keep random values. Use a complete"
            f" checkpoint."
        )
    return model
