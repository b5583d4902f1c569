"""Learned plans against fixed methods, at three to ten evaluations."""
