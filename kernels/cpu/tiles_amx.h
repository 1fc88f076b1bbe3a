/* The tile registers of AMX: eight of up to 16 rows of 64 bytes. `t` is a register's number, spelt
 * out. Not the compiler's intrinsics: those do not tell it that they read and write memory. */
#pragma once

#include <stddef.h>

#include "kernels/cpu/tile_config.h"

#define TILE_NAME      "amx"
#define TILE_WITH      with_amx
#define TILE_CONFIG(c) __asm__ volatile("ldtilecfg %0" : : "m"(*(c)))
#define TILE_RELEASE() __asm__ volatile("tilerelease" : :)
#define TILE_ZERO(t)   __asm__ volatile("tilezero %%tmm" #t : :)
/* rows `stride` bytes apart */
#define TILE_LOAD(t, p, stride)                                                                    \
	__asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t                                           \
			 :                                                                         \
			 : "r"((const void *)(p)), "r"((size_t)(stride))                           \
			 : "memory")
#define TILE_STORE(t, p, stride)                                                                   \
	__asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)"                                       \
			 :                                                                         \
			 : "r"((void *)(p)), "r"((size_t)(stride))                                 \
			 : "memory")
/* sum [m][n] += (of all pairs k the first products a [m][k] b [k][n], one fused multiply-add after
 * the other from zero on) + (the same of their second products), both in bf16. Denormals are zeros,
 * whatever MXCSR says. */
#define TILE_DOT(sum, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sum : :)
