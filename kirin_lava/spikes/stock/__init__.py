"""The stock form of a segment: one dense layer of unmodified netx, its input lines, its columns of time, its ranges."""
