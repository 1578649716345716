"""What was attainable in a closed loop: the planner with the true equations, and the true state or the sensor alone."""
