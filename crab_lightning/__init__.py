"""Fine-tune, evaluate and understand one audio-visual LLM on many audio-visual tasks."""

__version__ = "0.1.0"
__all__ = ["__version__"]
