"""A ladder of teachers: pretraining from cheap to dear, each rung on frames of the one before."""
