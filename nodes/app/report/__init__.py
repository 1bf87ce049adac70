"""`regionstyle report`: the papers' findings at small scale."""
