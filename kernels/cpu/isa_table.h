/* The table of one instruction set: included last by each isa_*.c. */

#define TABLE_OF(isa)   cpu_isa_##isa
#define TABLE_NAME(isa) TABLE_OF(isa)
#define TEXT_OF(isa)    #isa
#define TEXT(isa)       TEXT_OF(isa)

const struct cpu_isa TABLE_NAME(LANES_NAME) = {
	.name = TEXT(LANES_NAME),
	.tile = TILE_COLS,
	.run = TILE_RUN,
	.byte_zero = BYTE_ZERO,
	.acts_int8 = acts_int8,
	.acts_bf16 = acts_bf16,
	.acts_f32 = acts_f32,
	.matmul_quants = matmul_quants,
	.matmul_exact = matmul_exact,
	.matmul_float = matmul_float,
	.bf16_multiple = 2,
	.dot = row_dot,
	.rmsnorm = rmsnorm,
	.swiglu = swiglu,
	.add = row_add,
	.to_f16 = to_f16,
	.attend = attend,
	.merge = merge,
};
