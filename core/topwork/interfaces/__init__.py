"""What a plugin implements, and nothing else.

Shapes, here and everywhere: B batch, T tokens, D backbone width, W pooled width, C outputs, N texts.
"""
