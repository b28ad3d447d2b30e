"""A backend that fails to order, so that what is around an engine can be tried."""
