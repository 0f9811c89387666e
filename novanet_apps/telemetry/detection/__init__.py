"""What is odd about traffic: statistics over windows of a second, free of sockets, clocks and tables."""
