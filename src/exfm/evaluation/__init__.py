"""The comparison of distillation methods: all of them walk over one stream, and each figure has its interval."""
