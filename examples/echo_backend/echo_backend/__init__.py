"""A backend that says your words back."""
