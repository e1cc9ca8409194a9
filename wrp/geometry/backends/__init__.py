"""Faster routes on the CPU for functions of :mod:`wrp.geometry`, chosen by the device of the tensors."""
