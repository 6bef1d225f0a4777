"""Tests; a package, so that they find each other before anything of this name that is installed."""
