"""Calibration, weight rounding, activation codes and outliers."""
