"""A spiking layer over all time steps."""
