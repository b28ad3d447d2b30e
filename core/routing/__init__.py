"""Which deployments a name means, and in which order they are tried. Pure: no I/O, no plugins, no clock.

`table` assembles the alias table from declarations and settings; `policies` rank the candidates of a tier.
"""
