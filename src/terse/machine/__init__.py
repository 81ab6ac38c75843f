"""One job's machine: devices, processes, memory, signals, and who owns a training's state."""
