/* A function compiled for several instruction sets, chosen when the program is loaded. What it
 * calls must be inlined into it to share in that; its results stay the same bits. Not under the
 * thread sanitizer, which would instrument the choice and is not there yet when it is made. */
#pragma once

#if defined(__has_feature)
#define CLONES_TSAN __has_feature(thread_sanitizer)
#elif defined(__SANITIZE_THREAD__)
#define CLONES_TSAN 1
#else
#define CLONES_TSAN 0
#endif

#if defined(__x86_64__) && defined(__gnu_linux__) && !CLONES_TSAN
#define VECTOR_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define VECTOR_CLONES
#endif
