"""The node side of Kale: the worker beside a step, its agent socket, and what visits it."""

__all__: list[str] = []
