"""What everything stands on: errors, files, exact arithmetic, limits of the chip."""
