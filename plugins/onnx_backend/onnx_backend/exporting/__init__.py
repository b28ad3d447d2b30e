"""Runs in the environment for exports alone: knows torch and transformers, and nothing of the gateway."""
