"""Hours of trouble: does anything grow that should not?"""
