"""All that reads what others wrote, under any bytes: ``make fuzz``, and a little in the tests."""
