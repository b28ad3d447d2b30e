"""The llama.cpp backend of AI Gateway: GGUF models on CUDA, Metal, Vulkan or the CPU."""
