"""Model families, one file each, all with `forward(pixel_values, input_ids, attention_mask) -> logits`."""
