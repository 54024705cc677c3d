"""One learner for each method that is trained."""
