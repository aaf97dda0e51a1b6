# A training script as people write it for TRL; `test_trl_script.py` runs it with either trainer.
import json
import sys

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer

model_path, data_file, output_dir, adapter = sys.argv[1:5]


class Watch(TrainerCallback):
    def __init__(self):
        self.events = []

    def on_step_end(self, args, state, control, **kwargs):
        self.events.append(f"step {state.global_step} epoch {state.epoch:.4f}")

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.events.append(f"evaluate {state.global_step} {metrics['eval_loss']:.4f}")

    def on_save(self, args, state, control, **kwargs):
        self.events.append(f"save {state.global_step}")


dataset = Dataset.from_list([json.loads(line) for line in open(data_file)])
dataset = dataset.train_test_split(test_size=8, shuffle=False)
tokenizer = AutoTokenizer.from_pretrained(model_path)
model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
training_args = DPOConfig(
    output_dir=output_dir,
    num_train_epochs=2,
    per_device_train_batch_size=4,
    per_device_eval_batch_size=8,
    gradient_accumulation_steps=2,
    learning_rate=3e-3,
    lr_scheduler_type="cosine",
    warmup_steps=0.25,
    weight_decay=0.1,
    beta=0.3,
    max_length=128,
    eval_strategy="steps",
    eval_steps=5,
    save_strategy="steps",
    save_steps=5,
    logging_steps=1,
    bf16=False,
    use_cpu=True,
    report_to="tensorboard",
    disable_tqdm=True,
    seed=7,
)
watch = Watch()
trainer = DPOTrainer(
    model=model,
    args=training_args,
    train_dataset=dataset["train"],
    eval_dataset=dataset["test"],
    processing_class=tokenizer,
    peft_config=LoraConfig(r=4, task_type="CAUSAL_LM") if adapter == "lora" else None,
    callbacks=[watch],
)
result = trainer.train()
metrics = trainer.evaluate()
trainer.save_model(output_dir)
