"""How parameter updates are executed: eager, compiled or as a CUDA graph, for one network or for M stacked networks."""
