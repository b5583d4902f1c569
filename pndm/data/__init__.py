"""Datasets and images."""
