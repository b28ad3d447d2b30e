"""The replica process: `python -m core.engine` hosts one engine behind a unix socket."""
