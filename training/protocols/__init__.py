"""Evaluation protocols: functions over arrays of features and labels."""
