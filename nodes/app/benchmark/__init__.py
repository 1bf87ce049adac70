"""`regionstyle benchmark`: the papers' protocols on their data sets."""
