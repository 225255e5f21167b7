"""Recordings through the same signal path, guard and engine as live streams, as fast as they go.

The epochs are those that a live stream of the same samples yields, and with one epoch to a forward pass (`batch` 1) so
is, on the same machine, every bit of what the model says of them, unless live they passed it together with epochs of
other streams or shared patches with the one before: then the last bits differ. All that a `NodeConfig` asks of a stream
may be asked of a recording; and of a recording alone that it be prepared as a whole (`signal.mode` `recording`).
"""
