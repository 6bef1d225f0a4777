"""What a `.net` file or a bundle holds, as a table for people and as plain values for programs."""
