"""What a training session is made of: the plan, the fit, the evaluation and the results."""
