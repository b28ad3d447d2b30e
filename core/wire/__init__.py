"""How processes of the gateway talk: `frames` (what is said) and `stream` (one connection)."""
