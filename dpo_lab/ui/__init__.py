"""What is seen and touched: figures, reports and widgets."""

from dpo_lab.ui.comms import keep_to_subshells

keep_to_subshells()
