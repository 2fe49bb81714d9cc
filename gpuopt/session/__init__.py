"""What a training session is made of: the plan, the fit, the evaluation and the results.

Modules are imported one by one: a command needs some of them, and torch comes with most.
"""

__all__: list[str] = []
