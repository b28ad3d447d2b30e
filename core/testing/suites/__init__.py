"""The tests that `core.testing.EngineConformance` is made of, one subject a file."""
