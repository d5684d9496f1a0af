"""A trained run behind an OpenAI-compatible address."""
