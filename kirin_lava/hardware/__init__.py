"""What the chip can hold and what it costs."""
