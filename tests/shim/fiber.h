/* A switch between stacks that costs a few nanoseconds: callee-saved registers and the stack
 * pointer, as the platform's calling convention has them. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)

extern "C" void shim_switch(void **save, void *load);
__asm__(".text\n"
	".globl shim_switch\n"
	".hidden shim_switch\n"
	".type shim_switch, @function\n"
	"shim_switch:\n"
	"	pushq %rbp\n"
	"	pushq %rbx\n"
	"	pushq %r12\n"
	"	pushq %r13\n"
	"	pushq %r14\n"
	"	pushq %r15\n"
	"	movq %rsp, (%rdi)\n"
	"	movq %rsi, %rsp\n"
	"	popq %r15\n"
	"	popq %r14\n"
	"	popq %r13\n"
	"	popq %r12\n"
	"	popq %rbx\n"
	"	popq %rbp\n"
	"	ret\n"
	".size shim_switch, .-shim_switch\n");

/* A stack that enters `entry` at the first switch to it. */
static inline void *fiber_prepare(void *stack, size_t bytes, void (*entry)(void))
{
	uint64_t *sp = (uint64_t *)((uintptr_t)((char *)stack + bytes) & ~(uintptr_t)15);

	*--sp = 0; /* no return address above the entry */
	*--sp = (uint64_t)entry;
	for (int i = 0; i < 6; i++)
		*--sp = 0;
	return sp;
}

#elif defined(__aarch64__)

extern "C" void shim_switch(void **save, void *load);
__asm__(".text\n"
	".globl shim_switch\n"
	".hidden shim_switch\n"
	".type shim_switch, %function\n"
	"shim_switch:\n"
	"	sub sp, sp, #160\n"
	"	stp x19, x20, [sp, #0]\n"
	"	stp x21, x22, [sp, #16]\n"
	"	stp x23, x24, [sp, #32]\n"
	"	stp x25, x26, [sp, #48]\n"
	"	stp x27, x28, [sp, #64]\n"
	"	stp x29, x30, [sp, #80]\n"
	"	stp d8, d9, [sp, #96]\n"
	"	stp d10, d11, [sp, #112]\n"
	"	stp d12, d13, [sp, #128]\n"
	"	stp d14, d15, [sp, #144]\n"
	"	mov x2, sp\n"
	"	str x2, [x0]\n"
	"	mov sp, x1\n"
	"	ldp x19, x20, [sp, #0]\n"
	"	ldp x21, x22, [sp, #16]\n"
	"	ldp x23, x24, [sp, #32]\n"
	"	ldp x25, x26, [sp, #48]\n"
	"	ldp x27, x28, [sp, #64]\n"
	"	ldp x29, x30, [sp, #80]\n"
	"	ldp d8, d9, [sp, #96]\n"
	"	ldp d10, d11, [sp, #112]\n"
	"	ldp d12, d13, [sp, #128]\n"
	"	ldp d14, d15, [sp, #144]\n"
	"	add sp, sp, #160\n"
	"	ret\n"
	".size shim_switch, .-shim_switch\n");

static inline void *fiber_prepare(void *stack, size_t bytes, void (*entry)(void))
{
	uint64_t *sp = (uint64_t *)((uintptr_t)((char *)stack + bytes) & ~(uintptr_t)15);

	sp -= 20;
	for (int i = 0; i < 20; i++)
		sp[i] = 0;
	sp[11] = (uint64_t)entry; /* x30 */
	return sp;
}

#else
#error "the shim has no context switch for this processor"
#endif
