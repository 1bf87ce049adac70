"""Style experts as files and tensors: LoRA in every layout in use."""
