"""Where the tensors of a checkpoint come from: one reader for each kind of file, behind one seam.

source.py        the seam: what `Checkpoint` asks of a reader, and what is said of the types that the weights had
folder.py        a folder with config.json and safetensors files
gguf_header.py   the head of a GGUF file, checked
gguf_config.py   its metadata as a config.json would state it
gguf_tokens.py   its tokenizer
gguf_file.py     a GGUF file as a source
packaged.py      models that a package of the index holds, by name
"""
