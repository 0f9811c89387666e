"""Packets that the controller answers itself: whole frames in, whole frames out, without clocks or sockets.

One protocol a module, all on ``frames``. Addresses are numbers, as in ``pipelines.fields``.
"""
