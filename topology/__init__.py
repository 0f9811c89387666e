"""What the network is: typed objects, the graph they form, and what changes in it. Pure: no I/O."""
