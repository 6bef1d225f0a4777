"""netx, the HDF5 form of a network that lava-dl loads: `.net` files of linear segments, written, read, described and run."""
