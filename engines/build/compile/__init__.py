"""A release's ONNX graph → a TensorRT plan for one GPU, gated. No torch in here: the job that runs it has none.

cast     the precision is in the graph: float32 → float16 or bfloat16, but for what would lose too much
builder  graph → plan: strongly typed, one optimization profile per batch bucket, timing cache
golden   drawn or a catalogue's pairs, and the gate that compares a plan with ONNX Runtime on them
run      all of it, and the plan's place beside its release
report   what the commands print
"""
