"""Codes and neurons: how an integer becomes spikes, and what neurons make of the spikes that reach them."""
