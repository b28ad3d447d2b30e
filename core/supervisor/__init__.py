"""The one process that starts, watches, stops and restarts replicas, and tells HTTP workers about them.

`state` decides about one replica (pure; `orders`, `making_room` and `steps` are parts of it), `loop` acts, `slots` has
the life of each process, `places` what the configuration wants; `memory` and `room` find memory; `admin` does what
operators command, with `overrides` and `reload` (pure), `store` and `events`; `snapshot` and `words` say how things
are; `local` starts processes, `launch` says what they are given, `watch` listens to them, `control` talks to HTTP
workers and operators; ``python -m core.supervisor`` is the process.
"""
