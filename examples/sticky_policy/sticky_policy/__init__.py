"""A routing policy that keeps a user on one replica."""
