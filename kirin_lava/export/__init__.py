"""Bundles and the netx files in them."""
