"""What is seen and touched: figures, reports and widgets."""
