"""What to do: objectives, guardrails, the space of actions, and planners that answer with a plan or a refusal."""
