/* A function compiled for several instruction sets, chosen when the program is loaded. What it
 * calls must be inlined into it to share in that; its results stay the same bits. */
#pragma once

#if defined(__x86_64__) && defined(__gnu_linux__)
#define VECTOR_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define VECTOR_CLONES
#endif
