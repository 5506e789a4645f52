"""Pure data: states, resources, steps, workflows. Standard library only; no processes, no sockets."""
