"""What all back ends share: the walk over a stage's operators, and the checks that every export ends with."""
