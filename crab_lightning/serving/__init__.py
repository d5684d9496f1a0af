"""The server, which answers OpenAI-compatible requests with a trained run."""
