"""The one process that starts, watches, stops and restarts replicas, and tells HTTP workers about them.

`state` decides (pure), `loop` acts, `snapshot` and `words` say how things are; `local` starts processes,
`launch` says what they are given, `watch` listens to them, `control` talks to the HTTP workers;
``python -m core.supervisor`` is the process.
"""
