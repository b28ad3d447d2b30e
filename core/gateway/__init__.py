"""Carries a request from a route to an answer.

`fleet` is the live view of replicas, `search` finds an `answer` among them, `metrics` counts and
`exposition` reads back.
"""
