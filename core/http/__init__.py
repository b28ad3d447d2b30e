"""The HTTP side: thin Sanic handlers that parse, call and write."""
