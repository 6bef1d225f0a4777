"""Kirin-Lava: pretrained language models as exact spiking networks on Lava and Loihi 2."""

__version__ = "0.1.0"
