/* How much of a model a card holds: arithmetic alone, so that its borders can be tested. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define FIT_RESERVE_BYTES (512ull << 20) /* left free on a card: CUDA's context, graphs, others */
#define FIT_CONTEXTS_MAX  16             /* no KV cache holds more contexts than this */
#define FIT_HOST_KV_BYTES (2ull << 30)   /* of the layers on the host, unless told */

struct fit_ask {
	uint32_t n_layers;
	const uint64_t *layer_bytes; /* [n_layers] the weights of each */
	uint64_t embed_bytes;        /* the embedding table: where layer 0 is */
	uint64_t output_bytes;       /* the output's norm and matrix: where the last layer is; for a
					tied model the table again */
	uint64_t shared_bytes;       /* on the card with any layer: workspace, RoPE table */
	uint64_t kv_bytes;           /* a page of one layer, at least 1 */
	uint32_t context_pages;      /* pages of one sequence at its longest, at least 1 */
	uint64_t kv_wanted_bytes;    /* of all layers; 0: what the card has left */
	uint64_t free_bytes;         /* of the card */
	bool tied;                   /* all on the card: the output costs nothing more */
};

struct fit {
	uint32_t layers;       /* the model's last ones, on the card; 0: it holds none */
	uint64_t kv_bytes;     /* of all layers, for struct engine_options */
	uint64_t needed_bytes; /* what the card must have free for all layers and one context */
};

/* The most layers whose weights, workspace and keys and values of one context (or of the KV bytes
 * wanted) leave the reserve free. The KV cache then takes what remains, for at most 16 contexts. */
struct fit fit_card(const struct fit_ask *a);

/* The KV cache where `layers` of the model are on the card whatever fit_card() says. */
uint64_t fit_kv_bytes(const struct fit_ask *a, uint32_t layers);
