"""Hugging Face models through torch and transformers, as a backend of AI Gateway."""
