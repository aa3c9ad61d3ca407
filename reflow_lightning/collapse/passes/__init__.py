"""Exact steps that make a graph smaller."""
