"""Carries a request from a route to an answer.

`fleet` is the live view of replicas, `dispatch` finds an answer among them, `metrics` counts.
"""
