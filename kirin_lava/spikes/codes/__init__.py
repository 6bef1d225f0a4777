"""Spike codes."""
