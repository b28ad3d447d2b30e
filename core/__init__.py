"""AI gateway: one OpenAI-compatible server in front of many model backends, each a plugin."""
