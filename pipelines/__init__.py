"""What a switch must do: pure compilers from the graph to flows, groups and meters, and the OpenFlow bytes of them."""
